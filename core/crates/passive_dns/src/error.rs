//! What is wrong with octets or settings, with the numbers needed to act on it.
//!
//! ```text
//! FormatError            a container, message or name that cannot be read
//! └── NameError          a domain name
//! SettingError           a setting that makes no sense
//! ```

use thiserror::Error;

use crate::limits::NAME_POINTERS_MAX;

/// A container, or something in it, cannot be read.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum FormatError {
    #[error(
        "octet {offset}: neither an NMSG container (\"NMSG\") nor a zstd frame (28 b5 2f fd) begins here"
    )]
    Magic { offset: usize },
    #[error("NMSG version {0} is not read; only version 2 is")]
    Version(u8),
    #[error("NMSG flags {0:#04x}: only 0x01 (zlib) is known")]
    Flags(u8),
    #[error("an NMSG fragment: fragmented containers are not accepted, send containers whole")]
    Fragmented,
    #[error("{what} is truncated: {needed} octets announced, {available} there")]
    Truncated { what: &'static str, needed: usize, available: usize },
    #[error("inflates beyond the limit of {limit} octets")]
    TooLarge { limit: usize },
    #[error("{codec}: {reason}")]
    Inflate { codec: &'static str, reason: String },
    #[error("zlib: {declared} octets declared, {actual} inflated")]
    InflatedLength { declared: usize, actual: usize },
    #[error("protobuf: {0}")]
    Protobuf(&'static str),
    #[error("{message}: required field {field} is missing")]
    Missing { message: &'static str, field: &'static str },
    #[error("{message}: {reason}")]
    Content { message: &'static str, reason: &'static str },
    #[error("a container of more than {limit} payloads")]
    Payloads { limit: usize },
    #[error("domain name: {0}")]
    Name(#[from] NameError),
}

/// A domain name breaks RFC 1035.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum NameError {
    #[error("ends before its root label")]
    Truncated,
    #[error("is longer than 255 octets")]
    TooLong,
    #[error("has a label longer than 63 octets")]
    LabelTooLong,
    #[error("has an empty label")]
    EmptyLabel,
    #[error("has a label of an unknown type")]
    LabelType,
    #[error("has a compression pointer where none may be")]
    Pointer,
    #[error("has a compression pointer that does not point backwards")]
    PointerForward,
    #[error("has more than {NAME_POINTERS_MAX} compression pointers")]
    Pointers,
    #[error("is followed by other octets")]
    Trailing,
    #[error("has a bad escape: \\ must be followed by a character, or by three digits up to 255")]
    Escape,
}

/// A setting is out of its range, or contradicts another.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum SettingError {
    #[error("no resolver given: without one nothing would be recorded")]
    NoResolver,
    #[error("resolver \"{0}\": neither an address nor a prefix in CIDR notation")]
    Resolver(String),
    #[error("resolver \"{given}\": bits are set behind the prefix; write {meant}")]
    HostBits { given: String, meant: String },
    #[error(
        "the resolvers cover every {family} address, so that everybody's traffic would be recorded: list the \
         resolvers' own addresses, or set admit_every_address"
    )]
    Everybody { family: &'static str },
    #[error("transaction type \"{given}\": must be one of {known}")]
    TransactionType { given: String, known: String },
    #[error("no transaction type given: without one nothing would be recorded")]
    NoTransactionType,
    #[error("{name} = {given}: must be from {least} to {most}")]
    Range { name: &'static str, given: String, least: String, most: String },
    #[error("local zone \"{given}\": {reason}")]
    LocalZone { given: String, reason: String },
    #[error("{given} local zones: {most} at most; leave out those below others, or name a zone above them")]
    LocalZones { given: usize, most: usize },
    #[error("probe zone \"{given}\": {reason}")]
    ProbeZone { given: String, reason: &'static str },
    #[error("regular expression \"{given}\" to exclude names: {reason}")]
    NameRegex { given: String, reason: String },
    #[error("codec \"{0}\": must be one of none, zlib, zstd")]
    Codec(String),
    #[error(
        "the {prefixes} resolver prefixes need a kernel filter of {instructions} instructions, and the kernel's \
         limit is {limit}: give fewer, larger prefixes"
    )]
    FilterTooLarge { prefixes: usize, instructions: usize, limit: usize },
}
