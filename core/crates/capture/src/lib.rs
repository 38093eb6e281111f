//! Frames from pcap and pcapng files and from network interfaces, behind [`passive_dns::frame::FrameSource`].
//!
//! The only unsafe code of the house is in `live::socket`, `dnstap::system` and `dnstap::peer`, for system calls that
//! no safe crate offers, and in `live::ring`, for the memory shared with the kernel. All offer safe interfaces; the
//! rest is written on them.
//!
//! Interfaces are listened to by AF_PACKET, which Linux alone has. Elsewhere `unsupported` stands in the place of
//! `live`, and opens none.

pub mod dnstap;
mod error;
mod file;
mod interface;
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "those of interfaces"))]
mod limits;
#[cfg_attr(not(target_os = "linux"), path = "unsupported.rs")]
mod live;
mod paced;
#[cfg(all(test, target_os = "linux"))]
#[expect(dead_code, reason = "compiled here so that it does not fall behind unseen")]
mod unsupported;

pub use error::CaptureError;
pub use file::PcapSource;
pub use interface::{InterfaceSettings, InterfaceStatus};
pub use live::{LiveSource, Statuses};
pub use paced::Paced;
