//! Every bound in one place, each with its arithmetic.

use std::time::Duration;

//------------ Packets -----------------------------------------------------------------------------------------

/// 802.1Q or 802.1ad tags in front of the network header: one customer and one service tag.
pub const VLAN_TAGS_MAX: usize = 2;

/// IPv6 extension headers skipped in search of UDP. The kernel filter unrolls the search, about ten
/// instructions each; more than hop-by-hop, destination, routing, destination (RFC 8200 section 4.1) has no
/// legitimate order.
pub const EXTENSION_HEADERS_MAX: usize = 4;

/// Tunnels within tunnels: a mirror's own, and one that the mirrored network uses. The kernel filter unrolls them, some
/// 120 instructions each.
pub const TUNNELS_MAX: usize = 2;

//------------ Fragments ---------------------------------------------------------------------------------------

/// How long the pieces of a datagram wait for each other. RFC 8200 section 4.5 gives a receiver 60 s; whoever still
/// waits for an answer after 30 s has asked again.
pub const FRAGMENT_PATIENCE: Duration = Duration::from_secs(30);

/// Datagrams in pieces at once. At 5,000 responses a second, 1% of them in pieces of which one in twenty is lost,
/// 75 wait in vain at any moment.
pub const FRAGMENT_SETS_MAX: usize = 1024;

/// Pieces of one datagram: 65,535 octets in pieces of 1,232, what IPv6's least MTU leaves, are 54.
pub const FRAGMENT_PIECES_MAX: usize = 64;

/// What all pieces that wait may take: 64 datagrams of the greatest length.
pub const FRAGMENT_OCTETS_MAX: usize = 64 * 65_536;

//------------ DNS ---------------------------------------------------------------------------------------------

/// RFC 1035 section 2.3.4: the length octets and the root's are included.
pub const NAME_OCTETS_MAX: usize = 255;

/// RFC 1035 section 2.3.4.
pub const LABEL_OCTETS_MAX: usize = 63;

/// Compression pointers in one name. It has 127 labels at most, and a pointer that no label stands between it and
/// the next compresses nothing. Without the bound a message of 64 KiB could hold a chain of 8,000 pointers and 6,000
/// names that begin with it, which took a third of a second to read.
pub const NAME_POINTERS_MAX: usize = 127;

/// The decompressed rdata of one RRset. A DNS message is at most 65,535 octets, but pointers of two octets stand
/// for names of up to 255, so that hostile messages inflate more than a hundredfold. Twice a whole message is
/// beyond anything that a server could serve uncompressed.
pub const RRSET_OCTETS_MAX: usize = 2 * 65_535;

//------------ TCP ---------------------------------------------------------------------------------------------

/// Directions of connections that are remembered. A resolver that asks 5,000 questions a second, 2% of them over
/// TCP, has 100 connections a second, 2 directions each, and each is remembered for [`STREAM_IDLE`]: 6,000. An
/// entry takes some 250 octets while nothing waits in it, 4 MiB in all.
pub const STREAMS_MAX: usize = 1 << 14;

/// What one direction may be ahead of its last message: the largest message, with its length, and as much again.
pub const STREAM_WINDOW_OCTETS: usize = 2 * (2 + 65_535);

/// Pieces of one direction that wait behind a gap. 64 KiB in segments of 1,220 octets, what IPv6's least MTU
/// leaves, are 54.
pub const STREAM_PIECES_MAX: usize = 128;

/// What waits in all directions together: 64 of them with a largest message each.
pub const STREAMS_OCTETS_MAX: usize = 64 * STREAM_WINDOW_OCTETS;

/// How long a direction is remembered after its last segment. Twice the ten seconds after which servers close
/// idle connections in practice, and some more (RFC 7766 section 6.2.3 leaves the number to them).
pub const STREAM_IDLE: Duration = Duration::from_secs(30);

/// How long a gap waits for its octets while segments behind it keep coming. A sender repeats a lost segment after
/// 1 s and again after 3 s (RFC 6298 section 2); what has not come by then was lost by the capture.
pub const STREAM_GAP: Duration = Duration::from_secs(5);

//------------ Names -------------------------------------------------------------------------------------------

/// Local zones of the configuration. At most some 100 octets a label: 10,000 zones of four labels are 4 MB.
pub const LOCAL_ZONES_MAX: usize = 10_000;

/// The compiled form of the regular expression that excludes names, and the cache in which it runs: together at
/// most 2 MiB, far above what expressions on names take.
pub const NAME_REGEX_OCTETS_MAX: usize = 1 << 20;

//------------ Transactions ------------------------------------------------------------------------------------

/// The largest accepted table: each waiting query costs some 140 octets and its name, so about 1 GiB at most.
pub const TABLE_ENTRIES_MAX: usize = 1 << 22;

/// Names and packets held by waiting queries. 131,072 queries of 60 octets of name are 8 MiB; with their packets,
/// of 80 octets, 18 MiB. Reached only by queries far larger than resolvers send.
pub const PENDING_OCTETS_MAX: usize = 64 << 20;

/// Waiting queries of one initiator, responder, ports and id that a response is compared with. A resolver
/// repeats a query a handful of times; the bound keeps forged floods of one id from costing quadratic time.
pub const PAIRING_WALK_MAX: usize = 256;

//------------ dnstap ------------------------------------------------------------------------------------------

/// A data frame. A dnstap message carries two DNS messages of 65,535 octets at most; another 16 KiB are for names,
/// addresses and the sender's own words.
pub const DATA_FRAME_OCTETS_MAX: usize = 2 * 65_536 + (16 << 10);

/// How far a sender's clock may be ahead of this host's: clocks that are kept differ by far less than a second, and
/// clocks that are not by more than a minute.
pub const DNSTAP_AHEAD_MAX: Duration = Duration::from_secs(60);

/// How old a message may be: a resolver keeps some while nobody reads, on a quiet one for hours.
pub const DNSTAP_AGE_MAX: Duration = Duration::from_secs(86_400);

/// The DNS message in a data frame: what fits a datagram of either family, 65,535 octets less the headers of IPv6
/// and UDP; and what a length of 16 bits can say over TCP (RFC 1035 section 4.2.2).
pub const DNSTAP_UDP_MESSAGE_OCTETS_MAX: usize = 65_535 - 40 - 8;
pub const DNSTAP_TCP_MESSAGE_OCTETS_MAX: usize = 65_535;

/// A control frame and the content type in it, as the reference implementation of Frame Streams bounds them.
pub const CONTROL_FRAME_OCTETS_MAX: usize = 512;
pub const CONTENT_TYPE_OCTETS_MAX: usize = 256;

//------------ Containers --------------------------------------------------------------------------------------

/// What readers of NMSG files accept for one container (nmsg's file buffer).
pub const CONTAINER_OCTETS_MAX: usize = 1 << 20;

/// nmsg's smallest buffer is 512; two of its transactions do not fit there.
pub const CONTAINER_OCTETS_MIN: usize = 1024;

/// Payloads of one container: a payload takes 13 octets at the very least, so that 16 MiB, the default limit of
/// inflation, could hold 1.3 million.
pub const PAYLOADS_MAX: usize = 1 << 21;

/// Windows that a zstd frame may ask a reader to keep: 2^23 = 8 MiB, what zstd itself recommends readers to
/// support (RFC 8878 section 3.1.1.1.2).
pub const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// One step more costs a quarter more time for 2% of the octets (docs/reference/containers.md).
pub const ZSTD_LEVEL: i32 = 1;

/// The compressor's table, of 2^13 places of four octets: it leaves a processor's first cache of 48 KiB room for what is
/// compressed. A quarter less time than with the level's own 2^14, for 1% more octets, which the next one takes back.
pub const ZSTD_HASH_LOG: u32 = 13;

/// The shortest repetition that is looked for, one octet less than the level's own: addresses and the ends of names.
pub const ZSTD_MATCH_MIN: u32 = 6;

/// Half of the time of zlib's own default, 6, for 4% more octets (docs/reference/containers.md).
pub const ZLIB_LEVEL: u32 = 3;

//------------ Windows -----------------------------------------------------------------------------------------

/// What the records of one window may take: 400,000 of some 150 octets. refine closes a window at 8 MiB, and the last
/// container that it takes in brings 7 MiB at most if a sensor made it: 1 MiB of dense address records, each of 16
/// octets, that become records of 110. A hostile container of 16 MiB, whose names are all pointers, would bring 600.
pub const WINDOW_OCTETS_MAX: usize = 64 << 20;

/// Nonces of probes that a window keeps until they are taken, which is after each container: a container holds one
/// or two. Of a flood the others are counted alone.
pub const PROBES_MAX: usize = 64;

/// Hexadecimal digits of a probe's nonce: 128 bits, which nobody guesses.
pub const PROBE_NONCE_OCTETS: usize = 32;
