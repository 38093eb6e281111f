//! Frames from pcap and pcapng files and from network interfaces, behind [`passive_dns::frame::FrameSource`].
//!
//! The only unsafe code of the house is in `live::socket`, for system calls that no safe crate offers, and
//! in `live::ring`, for the memory shared with the kernel. Both offer safe interfaces; the rest is written on them.

pub mod dnstap;
mod error;
mod file;
mod limits;
mod live;
mod paced;

pub use error::CaptureError;
pub use file::PcapSource;
pub use live::{InterfaceSettings, InterfaceStatus, LiveSource, Statuses};
pub use paced::Paced;
