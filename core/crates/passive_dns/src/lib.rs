//! Passive DNS, free of I/O: from a captured frame to a container of transactions, and from containers to
//! observations.
//!
//! The sensor's half, in the order in which octets pass through it:
//! [`frame`] → [`link`] → [`packet`] → [`udp`] → [`message`] → [`filter`] → [`transaction`] → [`stored`] →
//! [`nmsg`], driven by [`recorder`] up to the message and by [`exchange`] from there.
//! [`bpf`] compiles the same filter for the kernel. The hub's half: [`nmsg`] → [`observation`] → [`dedupe`].
//! [`dns`] holds what both need of RFC 1035; [`probe`] tells what a sensor looked up to prove that it arrives.
//!
//! [`sight`] describes a frame for people, whatever becomes of it.
//!
//! Nothing here reads a clock, a file or a socket; times come with the frames. Every input is bounded by
//! [`limits`], and every frame and payload ends in exactly one counted outcome.

#![forbid(unsafe_code)]

pub mod bpf;
pub mod checksum;
#[cfg(test)]
mod compose;
pub mod counters;
pub mod dedupe;
pub mod dns;
pub mod dnstap;
pub mod error;
pub mod exchange;
pub mod filter;
pub mod fragments;
pub mod frame;
pub mod frame_streams;
pub mod icmp;
pub mod limits;
pub mod link;
pub mod local_zones;
pub mod lru;
pub mod message;
pub mod nmsg;
pub mod observation;
pub mod outcome;
pub mod packet;
pub mod probe;
pub mod recorder;
pub mod resolvers;
pub mod responder;
pub mod scrub;
pub mod settings;
pub mod sight;
pub mod stored;
pub mod tcp;
pub mod transaction;
pub mod tunnel;
pub mod udp;
