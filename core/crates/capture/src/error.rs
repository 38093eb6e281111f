//! Why a source gives no frames.

use std::io;

use passive_dns::error::SettingError;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum CaptureError {
    #[error("{path}: {error}")]
    File { path: String, error: io::Error },
    #[error("{path}: neither pcap nor pcapng, plain or compressed by gzip, zstd or xz: {reason}")]
    NotPcap { path: String, reason: String },
    #[error("{path}: given up before anything came")]
    Abandoned { path: String },
    #[error("interface {interface}: there is none of this name; `ip link` lists those that there are")]
    NoInterface { interface: String },
    #[error("interface {interface} is down or gone; bring it up (`ip link set dev {interface} up`)")]
    Down { interface: String },
    #[error(
        "interface {interface}: its frames are of hardware type {hardware}; only Ethernet, loopback and bare IP are read"
    )]
    Hardware { interface: String, hardware: u16 },
    #[error("interface {interface}: not permitted; capturing needs CAP_NET_RAW")]
    NotPermitted { interface: String },
    #[error(
        "interface {interface}: the kernel has no memory for a filter of {instructions} instructions; give fewer \
         resolver prefixes or raise net.core.optmem_max"
    )]
    FilterMemory { interface: String, instructions: usize },
    #[error("interface {interface}: {action}: {error}")]
    System { interface: String, action: &'static str, error: io::Error },
    #[error("interface {interface}: the kernel wrote a packet beyond its block; capture cannot go on")]
    Ring { interface: String },
    #[error(
        "on {system} no interface can be listened to, since that takes Linux's AF_PACKET: have the resolver bring its \
         dnstap, or run a sensor on a Linux host at a SPAN port"
    )]
    NotLinux { system: &'static str },
    #[error("waiting for packets: {0}")]
    Wait(io::Error),
    #[error("interfaces: none is named; name those that see the resolvers' upstream traffic")]
    NoInterfaces,
    #[error("interface {interface} is named twice; name it once")]
    Repeated { interface: String },
    #[error("encapsulated: interface {interface} is not among those that are listened to")]
    NotAmong { interface: String },
    #[error("ring_bytes = {given}: must be from {least} to {most}")]
    RingSize { given: usize, least: usize, most: usize },
    #[error("dnstap endpoint \"{given}\": must be unix:/PATH or tcp:ADDRESS:PORT, as in tcp:127.0.0.1:6000")]
    Endpoint { given: String },
    #[error(
        "{endpoint} can be reached from other hosts, and TCP tells neither who sends nor keeps secret what: list the \
         addresses of the resolvers that may send, or listen on a loopback address"
    )]
    RemoteEndpoint { endpoint: String },
    #[error("{endpoint}: another program listens there; stop it or take another path")]
    EndpointInUse { endpoint: String },
    #[error("{endpoint}: a file that is no socket is there; remove it or take another path")]
    NotSocket { endpoint: String },
    #[error("{endpoint}: {action}: {error}")]
    Listen { endpoint: String, action: &'static str, error: io::Error },
    #[error("waiting for dnstap connections: {error}")]
    Poll { error: io::Error },
    #[error(transparent)]
    Setting(#[from] SettingError),
    #[error("the source is closed")]
    Closed,
}
