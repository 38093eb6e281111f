//! The system calls that the standard library does not offer.

use std::ffi::c_int;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// Which of the descriptors can be read, or have failed; None if a signal arrived.
pub fn readable(descriptors: &[BorrowedFd<'_>], patience: Duration) -> io::Result<Option<Vec<bool>>> {
    let mut polled: Vec<libc::pollfd> = descriptors
        .iter()
        .map(|descriptor| libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 })
        .collect();
    // Rounded up: a patience below a millisecond must not become a busy loop.
    let timeout = c_int::try_from(patience.as_micros().div_ceil(1000)).unwrap_or(c_int::MAX);
    // SAFETY: the pointer and the length are those of a vector that lives through the call.
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout) };
    if ready < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted { Ok(None) } else { Err(error) };
    }
    Ok(Some(polled.iter().map(|descriptor| descriptor.revents != 0).collect()))
}

/// Has the kernel find out, within `idle` and a few attempts, that the other end's machine is gone.
pub fn keep_alive(socket: BorrowedFd<'_>, idle: Duration) -> io::Result<()> {
    let idle = c_int::try_from(idle.as_secs()).unwrap_or(c_int::MAX);
    let options = [
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, idle),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, idle),
    ];
    for (level, option, value) in options {
        let length = mem::size_of_val(&value) as libc::socklen_t;
        let place: *const c_int = &value;
        // SAFETY: the pointer and the length are those of an integer that lives through the call.
        let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, place.cast(), length) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
