//! Who is at the other end of a UNIX socket, where no SO_PEERCRED tells.

use std::os::fd::BorrowedFd;

/// A name for the process that connected, the same for each.
pub fn name(_socket: BorrowedFd<'_>) -> String {
    "a process of this host".to_owned()
}
