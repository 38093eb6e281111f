//! What is asserted of each parser, whatever octets it is given.
//!
//! A module per target: its documentation lists every outcome that is permitted, and its `check` panics at any
//! other. `run` in this folder builds the targets with libFuzzer, on stable Rust, and runs them on `corpus/`.

pub mod dns;
pub mod dnstap;
pub mod icmp;
mod input;
mod memory;
pub mod nmsg;
pub mod observation;
pub mod packet;
pub mod pcap;
mod protobuf;
pub mod reassembly;
pub mod scrub;
pub mod tcp;
