//! Every bound in one place, each with its arithmetic.

//------------ Files -------------------------------------------------------------------------------------------

/// The largest packet that libpcap writes; a record that claims more is no record.
pub const PACKET_OCTETS_MAX: usize = 0x4_0000;

/// The largest pcapng block that is looked into: the largest packet, and as much again for its options, of which
/// four of the longest (65,535 octets each) fit.
pub const BLOCK_WHOLE_OCTETS_MAX: usize = 2 * PACKET_OCTETS_MAX;

/// The largest pcapng block that is passed over, names and keys among them; what wireshark takes as well. It is never
/// in memory: a length beyond this is damage and not a block.
pub const BLOCK_SKIPPED_OCTETS_MAX: usize = 16 << 20;

/// Interfaces that one section of a pcapng file may describe, 32 octets each here: 2 MiB. A machine has dozens.
pub const INTERFACES_MAX: usize = 1 << 16;

/// Twice the largest record, so that reading goes on in large pieces however much of the last one is left; small
/// enough to stay in a processor's second-level cache between the reading and the parsing.
pub const FILE_BUFFER_OCTETS: usize = 2 * BLOCK_WHOLE_OCTETS_MAX;

/// Octets asked of the system at once for a decompressor, which takes them in smaller pieces.
pub const COMPRESSED_READ_OCTETS: usize = 128 * 1024;

/// The window of a zstd frame: 2^27 = 128 MiB, all that the zstd tool itself accepts unless told otherwise.
pub const ZSTD_FILE_WINDOW_LOG_MAX: u32 = 27;

/// The dictionary of an xz block and what belongs to it: 128 MiB; `xz -9`, its largest preset, takes 65.
pub const XZ_MEMORY_KIBIBYTES_MAX: u32 = 128 << 10;
