//! Every bound in one place, each with its arithmetic.

use std::time::Duration;

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

/// Octets that a pipe's thread hands over at once, and how many such pieces may wait: 512 KiB, so that it is seldom in
/// want of room while they are parsed.
pub const PIPE_OCTETS: usize = 128 * 1024;
pub const PIPE_PIECES_MAX: usize = 4;

/// How long a pipe that says nothing is waited for before somebody is asked whether to go on.
pub const PIPE_PATIENCE: Duration = Duration::from_millis(100);

//------------ Interfaces --------------------------------------------------------------------------------------

/// A block must hold the largest packet, 64 KiB and its header, and is the unit in which the ring runs full.
pub const BLOCK_OCTETS: usize = 256 * 1024;

/// How long the kernel keeps a block that is not full. Its timer may take two ticks more, 8 ms at 250 Hz.
pub const BLOCK_PATIENCE: Duration = Duration::from_millis(20);

/// After so long, whoever looks sees every packet that was received. A block waits for one turn of its timer, or, in
/// kernels whose timer runs on regardless of when a block was begun, for two; the third is for a busy processor.
pub const RECEIVED_PATIENCE: Duration = BLOCK_PATIENCE.saturating_mul(3);

/// Two blocks, so that the kernel fills one while the other is read; and as much as a machine can spare.
pub const RING_OCTETS_MIN: usize = 2 * BLOCK_OCTETS;
pub const RING_OCTETS_MAX: usize = 1 << 30;

/// The pauses between attempts to open an interface: the first, and what doubling it ends at. An attempt that fails
/// is three system calls; while the pause lasts, packets pass by.
pub const REOPEN_PAUSE_MIN: Duration = Duration::from_millis(500);
pub const REOPEN_PAUSE_MAX: Duration = Duration::from_secs(4);

/// Packets after which interfaces that are not there are looked for, were there never a reason to wait: some 50 ms at
/// 20,000 packets a second.
pub const PACKETS_PER_ATTENTION: u32 = 1024;
