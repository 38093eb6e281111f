//! One segment, as its header tells it (RFC 9293 section 3.1).

use std::net::IpAddr;

use crate::dns::Malformed;
use crate::tcp::stream::{LENGTH_OCTETS, Side};

pub const HEADER_OCTETS_MIN: usize = 20;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;

/// A segment: between whom, where in its stream, and its data.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub source_port: u16,
    pub destination_port: u16,
    /// Of the first octet of data, or of SYN if that is set.
    pub sequence: u32,
    pub syn: bool,
    pub fin: bool,
    pub rst: bool,
    pub data: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Reads `tcp`, which begins with the header and ends where the IP datagram ends.
    ///
    /// The checksum is not looked at: captures on a sending host have it before the network card has filled it
    /// in, pcap files do not tell which, and what a receiver refuses is sent again with the same octets.
    pub fn parse(source: IpAddr, destination: IpAddr, tcp: &'a [u8]) -> Result<Self, Malformed> {
        let header = tcp.first_chunk::<HEADER_OCTETS_MIN>().ok_or(Malformed)?;
        let data_offset = usize::from(header[12] >> 4) * 4;
        if data_offset < HEADER_OCTETS_MIN {
            return Err(Malformed);
        }
        Ok(Segment {
            source,
            destination,
            source_port: u16::from_be_bytes([header[0], header[1]]),
            destination_port: u16::from_be_bytes([header[2], header[3]]),
            sequence: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            syn: header[13] & SYN != 0,
            fin: header[13] & FIN != 0,
            rst: header[13] & RST != 0,
            data: tcp.get(data_offset..).ok_or(Malformed)?,
        })
    }

    /// The DNS message that the data begins with, as far as it is here; None if the data cannot be taken for one, at
    /// least up to the end of its question.
    pub fn message_begun(&self) -> Option<&'a [u8]> {
        let (length, rest) = self.data.split_first_chunk::<LENGTH_OCTETS>()?;
        let octets = rest.len().min(usize::from(u16::from_be_bytes(*length)));
        let side = Side::of(self.source_port, self.destination_port);
        side.may_begin_with(self.data).then_some(&rest[..octets])
    }

    /// The sequence number of the first octet of data; SYN takes one of its own.
    pub(super) fn data_sequence(&self) -> u32 {
        self.sequence.wrapping_add(u32::from(self.syn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53));
    const DESTINATION: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

    #[test]
    fn data_begins_behind_the_options() {
        let mut tcp =
            vec![0xc3, 0x50, 0, 53, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0x60, SYN, 0, 0, 0, 0, 0, 0];
        tcp.extend([2, 4, 5, 0xb4]);
        tcp.extend(b"data");
        let segment = Segment::parse(SOURCE, DESTINATION, &tcp).unwrap();
        assert_eq!((segment.source_port, segment.destination_port), (50_000, 53));
        assert_eq!((segment.syn, segment.fin, segment.rst), (true, false, false));
        assert_eq!((segment.data, segment.data_sequence()), (&b"data"[..], 0));
    }

    #[test]
    fn a_header_that_does_not_fit_is_malformed() {
        let mut tcp = [0; HEADER_OCTETS_MIN];
        for (octets, offset, reads) in [(20, 5, true), (20, 4, false), (20, 6, false), (19, 5, false)] {
            tcp[12] = offset << 4;
            let segment = Segment::parse(SOURCE, DESTINATION, &tcp[..octets]);
            assert_eq!(segment.is_ok(), reads, "{octets} octets, data offset {offset}");
        }
    }

    proptest! {
        #[test]
        fn no_octets_are_too_odd(tcp in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(segment) = Segment::parse(SOURCE, DESTINATION, &tcp) {
                prop_assert!(tcp.ends_with(segment.data));
            }
        }
    }
}
