//! Who is at the other end of a UNIX socket, by SO_PEERCRED of unix(7).

use std::ffi::c_int;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};

/// A name for the process that connected.
pub fn name(socket: BorrowedFd<'_>) -> String {
    match process(socket) {
        Some(process) => format!("process {process}"),
        None => "a process of another container".to_owned(),
    }
}

/// The process at the other end of a UNIX socket; None if it is beyond this process's view.
fn process(socket: BorrowedFd<'_>) -> Option<c_int> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = mem::size_of_val(&peer) as libc::socklen_t;
    let place: *mut libc::ucred = &mut peer;
    // SAFETY: the pointer and the length are those of a structure of plain integers that lives through the call.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, place.cast(), &mut length)
    };
    (result == 0 && peer.pid > 0).then_some(peer.pid)
}
