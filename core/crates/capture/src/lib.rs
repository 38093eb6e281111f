//! Frames from pcap and pcapng files and from network interfaces, behind [`passive_dns::frame::FrameSource`].
//!
//! The only unsafe code of the house is in [`socket`], for system calls that no safe crate offers, and in
//! [`ring`], for the memory shared with the kernel. Both offer safe interfaces; [`live`] is written on them.

mod error;
mod file;
mod limits;
mod live;
mod paced;
mod ring;
mod socket;

pub use error::CaptureError;
pub use file::PcapSource;
pub use live::{Drops, LiveSource};
pub use paced::Paced;
