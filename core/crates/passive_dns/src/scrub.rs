//! Taking out of a DNS message what is nobody's business: EDNS options, and octets behind the message.
//!
//! Options say things about the resolver's clients and the resolver itself: client subnets (RFC 7871), cookies
//! (RFC 7873), the hardware addresses and account numbers that vendors add. Every option goes, known or not, but
//! for two that speak of the server: NSID (RFC 5001) of responses, and the number of an extended error
//! (RFC 8914) without its text. What cannot be read as an option goes too. The OPT record itself stays, since its
//! fixed fields hold the response code's upper bits (RFC 6891 section 6.1.3).
//!
//! OPT belongs into the additional section, once; it is looked for everywhere, and every one is scrubbed.
//!
//! A message that cannot be walked from its header to its last octet is refused as malformed: options could hide
//! in what is not understood. It may hold fewer records than its header announces, if it ends behind one of
//! them. A signature (TSIG, RFC 8945; SIG(0), RFC 2931) stays, but no longer fits a message that was rewritten.

use crate::dns::message::end_of_question;
use crate::dns::rdata::Names;
use crate::dns::{HEADER_OCTETS, Header, Malformed, Record, Records, name, rrtype};

/// RFC 5001 section 2.3.
const OPTION_NSID: u16 = 3;
/// RFC 8914 section 2.
const OPTION_EXTENDED_ERROR: u16 = 15;
/// OPTION-CODE and OPTION-LENGTH (RFC 6891 section 6.1.2).
const OPTION_HEADER_OCTETS: usize = 4;
/// INFO-CODE, with which an extended error begins.
const INFO_CODE_OCTETS: usize = 2;

/// What stands behind the scrubbing of a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scrubbed<'a> {
    /// The message as it is.
    Unchanged,
    /// What is to be stored in its place.
    Rewritten(&'a [u8]),
}

impl<'a> Scrubbed<'a> {
    /// Of a message without options, whose last record ends at `end`.
    pub fn up_to(message: &'a [u8], end: usize) -> Self {
        if end == message.len() { Scrubbed::Unchanged } else { Scrubbed::Rewritten(&message[..end]) }
    }

    /// What is to be stored of `message`.
    pub fn of(self, message: &'a [u8]) -> &'a [u8] {
        match self {
            Scrubbed::Unchanged => message,
            Scrubbed::Rewritten(rewritten) => rewritten,
        }
    }
}

/// Scrubs messages, with buffers that serve again.
#[derive(Debug, Default)]
pub struct Scrubber {
    rewritten: Vec<u8>,
    cuts: Cuts,
    name: Vec<u8>,
    name_rewritten: Vec<u8>,
}

impl Scrubber {
    /// Scrubs a message; nothing is copied unless an option goes.
    pub fn scrub<'a>(&'a mut self, message: &'a [u8]) -> Result<Scrubbed<'a>, Malformed> {
        let header = Header::parse(message).ok_or(Malformed)?;
        let mut records = Records::from(&header, message, end_of_questions(&header, message)?);
        while let Some(record) = records.next_present()? {
            if record.rrtype == rrtype::OPT && !is_clean(&header, &message[record.rdata..record.rdata_end]) {
                return self.rewrite(&header, message, record, records).map(Scrubbed::Rewritten);
            }
        }
        Ok(Scrubbed::up_to(message, records.position()))
    }

    /// Writes the message anew, of which `opt` is the first record that changes and `records` are those behind it.
    fn rewrite(
        &mut self,
        header: &Header,
        message: &[u8],
        opt: Record,
        mut records: Records<'_>,
    ) -> Result<&[u8], Malformed> {
        self.rewritten.clear();
        self.rewritten.extend_from_slice(&message[..opt.rdata]);
        self.cuts.0.clear();
        self.copy_options(header, message, &opt);
        while let Some(record) = records.next_present()? {
            let first = self.rewritten.len();
            self.rewritten.extend_from_slice(&message[record.owner..record.rdata]);
            self.relocate_name(message, record.owner, first)?;
            if record.rrtype == rrtype::OPT {
                self.copy_options(header, message, &record);
                continue;
            }
            self.rewritten.extend_from_slice(&message[record.rdata..record.rdata_end]);
            for start in Names::of(message, record.rdata, record.rdata_end, record.rrtype)? {
                let start = start?;
                self.relocate_name(message, start, first + (start - record.owner))?;
            }
        }
        Ok(&self.rewritten)
    }

    /// Appends the options that stay, and corrects the record's RDLENGTH before them.
    fn copy_options(&mut self, header: &Header, message: &[u8], opt: &Record) {
        let rdata = self.rewritten.len();
        let mut copied = opt.rdata;
        for option in Options::of(&message[opt.rdata..opt.rdata_end]) {
            let Some(kept) = kept_octets(header, option) else { continue };
            let start = opt.rdata + option.start;
            self.cuts.add(copied, start);
            self.rewritten.extend_from_slice(&option.code.to_be_bytes());
            // At most the length that stood in the two octets before.
            self.rewritten.extend_from_slice(&(kept.len() as u16).to_be_bytes());
            self.rewritten.extend_from_slice(kept);
            copied = start + OPTION_HEADER_OCTETS + kept.len();
        }
        self.cuts.add(copied, opt.rdata_end);
        let length = (self.rewritten.len() - rdata) as u16;
        self.rewritten[rdata - 2..rdata].copy_from_slice(&length.to_be_bytes());
    }

    /// Lets the pointer at the end of a name, if there is one, lead to where its target stands now.
    ///
    /// The name was at `start` and is at `moved`. A name that leads through what was cut out cannot be kept.
    fn relocate_name(&mut self, message: &[u8], start: usize, moved: usize) -> Result<(), Malformed> {
        let mut at = start;
        while let length @ 1..=63 = *message.get(at).ok_or(Malformed)? {
            at += 1 + usize::from(length);
        }
        if message[at] == 0 {
            return Ok(());
        }
        let pointer = message.get(at..at + 2).ok_or(Malformed)?;
        let target = usize::from(u16::from_be_bytes([pointer[0] & !name::POINTER, pointer[1]]));
        // A target only ever moves forward in the message, so that it still has no more than 14 bits.
        let target = (target - self.cuts.before(target)) as u16 | u16::from(name::POINTER) << 8;
        let place = moved + (at - start);
        self.rewritten[place..place + 2].copy_from_slice(&target.to_be_bytes());

        self.name.clear();
        self.name_rewritten.clear();
        name::decompress(message, start, &mut self.name)?;
        name::decompress(&self.rewritten, moved, &mut self.name_rewritten)?;
        if self.name == self.name_rewritten { Ok(()) } else { Err(Malformed) }
    }
}

/// What is whole of the header and the questions, for a message that the packet quotes only in part.
pub fn head(message: &[u8]) -> &[u8] {
    let Some(header) = Header::parse(message) else { return &[] };
    let mut end = HEADER_OCTETS;
    for _ in 0..header.counts[0] {
        match end_of_question(message, end) {
            Ok(behind) => end = behind,
            Err(Malformed) => break,
        }
    }
    &message[..end]
}

/// The end of the questions; a message may end with its header, or behind one of them.
pub(crate) fn end_of_questions(header: &Header, message: &[u8]) -> Result<usize, Malformed> {
    let mut at = HEADER_OCTETS;
    for _ in 0..header.counts[0] {
        if at == message.len() {
            break;
        }
        at = end_of_question(message, at)?;
    }
    Ok(at)
}

//------------ Options -----------------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug)]
struct EdnsOption<'a> {
    /// Where it begins in the rdata.
    start: usize,
    code: u16,
    data: &'a [u8],
}

/// The options of an OPT record; what cannot be read as one ends them.
struct Options<'a> {
    rdata: &'a [u8],
    at: usize,
}

impl<'a> Options<'a> {
    fn of(rdata: &'a [u8]) -> Self {
        Options { rdata, at: 0 }
    }
}

impl<'a> Iterator for Options<'a> {
    type Item = EdnsOption<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.at;
        let data = start + OPTION_HEADER_OCTETS;
        let header = self.rdata.get(start..data)?;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let option = EdnsOption {
            start,
            code: u16::from_be_bytes([header[0], header[1]]),
            data: self.rdata.get(data..data + length)?,
        };
        self.at = data + length;
        Some(option)
    }
}

/// The allow-list: what is kept of an option's data, if the option is kept.
fn kept_octets<'a>(header: &Header, option: EdnsOption<'a>) -> Option<&'a [u8]> {
    match option.code {
        // A query asks with an empty one (RFC 5001 section 2.1).
        OPTION_NSID if header.is_response() => Some(option.data),
        OPTION_NSID => Some(&[]),
        OPTION_EXTENDED_ERROR => option.data.get(..INFO_CODE_OCTETS),
        _ => None,
    }
}

/// Whether an OPT record may stay as it is.
fn is_clean(header: &Header, rdata: &[u8]) -> bool {
    let mut options = Options::of(rdata);
    options.all(|option| kept_octets(header, option).is_some_and(|kept| kept.len() == option.data.len()))
        && options.at == rdata.len()
}

//------------ Cuts --------------------------------------------------------------------------------------------

/// A range cut out of a message.
#[derive(Clone, Copy, Debug)]
struct Cut {
    start: usize,
    end: usize,
    /// The octets of all cuts in front of it.
    before: usize,
}

/// The ranges cut out of a message, ascending. There may be thousands, and thousands of names to ask about them.
#[derive(Debug, Default)]
struct Cuts(Vec<Cut>);

impl Cuts {
    fn add(&mut self, start: usize, end: usize) {
        if end > start {
            self.0.push(Cut { start, end, before: self.before(start) });
        }
    }

    /// How many octets before `place` are gone.
    fn before(&self, place: usize) -> usize {
        match self.0[..self.0.partition_point(|cut| cut.start < place)] {
            [.., Cut { start, end, before }] => before + end.min(place) - start,
            [] => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::{compose, labels, part};
    use proptest::prelude::*;

    const QUERY: [u8; 2] = [0, 0];
    const RESPONSE: [u8; 2] = [0x84, 0];

    /// A message with the question `a.example. A IN`, whose name is at 12 and its parent's at 14.
    fn message(flags: [u8; 2], counts: [u16; 3], records: &[&[u8]]) -> Vec<u8> {
        let mut octets = vec![0x12, 0x34, flags[0], flags[1], 0, 1];
        for count in counts {
            octets.extend(count.to_be_bytes());
        }
        octets.extend(b"\x01a\x07example\0\0\x01\0\x01");
        octets.extend(records.concat());
        octets
    }

    fn record(owner: &[u8], rrtype: u16, rdata: &[u8]) -> Vec<u8> {
        let length = (rdata.len() as u16).to_be_bytes();
        [owner, &rrtype.to_be_bytes(), b"\0\x01\0\0\x0e\x10", &length, rdata].concat()
    }

    fn opt(options: &[(u16, &[u8])]) -> Vec<u8> {
        let mut rdata = Vec::new();
        for (code, data) in options {
            rdata.extend(code.to_be_bytes());
            rdata.extend((data.len() as u16).to_be_bytes());
            rdata.extend(*data);
        }
        record(b"\0", rrtype::OPT, &rdata)
    }

    fn scrubbed(message: &[u8]) -> Result<Vec<u8>, Malformed> {
        Scrubber::default().scrub(message).map(|scrubbed| scrubbed.of(message).to_vec())
    }

    fn is_unchanged(message: &[u8]) -> bool {
        Scrubber::default().scrub(message) == Ok(Scrubbed::Unchanged)
    }

    const SUBNET: (u16, &[u8]) = (8, b"\0\x01\x18\0\xc0\0\x02");
    const COOKIE: (u16, &[u8]) = (10, b"01234567");
    const HARDWARE_ADDRESS: (u16, &[u8]) = (65001, b"\x02\0\0\0\0\x01");

    #[test]
    fn a_message_without_options_is_not_copied() {
        let answer = record(b"\xc0\x0c", rrtype::A, &[192, 0, 2, 1]);
        for records in [&[&answer[..], &opt(&[])][..], &[&answer, &answer]] {
            let octets = message(RESPONSE, [1, 0, 1], records);
            assert!(is_unchanged(&octets));
        }
    }

    #[test]
    fn every_option_goes_but_two() {
        let octets =
            message(RESPONSE, [0, 0, 1], &[&opt(&[SUBNET, COOKIE, HARDWARE_ADDRESS, (0, b""), (4, b"")])]);
        assert_eq!(scrubbed(&octets), Ok(message(RESPONSE, [0, 0, 1], &[&opt(&[])])));

        let octets =
            message(RESPONSE, [0, 0, 1], &[&opt(&[COOKIE, (3, b"ns1"), SUBNET, (15, b"\0\x16text")])]);
        let kept = message(RESPONSE, [0, 0, 1], &[&opt(&[(3, b"ns1"), (15, b"\0\x16")])]);
        assert_eq!(scrubbed(&octets), Ok(kept.clone()));
        assert!(is_unchanged(&kept));
    }

    #[test]
    fn a_query_keeps_only_that_it_asked_who_answers() {
        let octets = message(QUERY, [0, 0, 1], &[&opt(&[(3, b"what"), COOKIE])]);
        assert_eq!(scrubbed(&octets), Ok(message(QUERY, [0, 0, 1], &[&opt(&[(3, b"")])])));
    }

    #[test]
    fn what_is_no_option_goes() {
        for rdata in [&b"\0\x03"[..], b"\0\x08\0\x09abc", b"\0\x0f\0\x01\0", b"\0\x03\xff\xff"] {
            let octets = message(RESPONSE, [0, 0, 1], &[&record(b"\0", rrtype::OPT, rdata)]);
            assert_eq!(scrubbed(&octets), Ok(message(RESPONSE, [0, 0, 1], &[&opt(&[])])), "{rdata:02x?}");
        }
    }

    #[test]
    fn options_are_found_in_every_section_and_in_every_record() {
        let dirty = opt(&[COOKIE]);
        let octets = message(RESPONSE, [1, 1, 2], &[&dirty, &dirty, &dirty, &dirty]);
        let clean = opt(&[]);
        assert_eq!(scrubbed(&octets), Ok(message(RESPONSE, [1, 1, 2], &[&clean, &clean, &clean, &clean])));
    }

    #[test]
    fn names_behind_read_the_same() {
        // The OPT record is at 27; behind its 11 octets and the options, at `at`, stands the name of the exchanger.
        let records = |options: &[(u16, &[u8])], at: u8, opaque: u8| {
            [
                opt(options),
                record(b"\x01b\xc0\x0e", rrtype::MX, b"\0\x0a\x02mx\xc0\x0e"),
                record(&[0xc0, at], rrtype::SOA, &[&[0xc0, at + 16, 0xc0, 0x0c][..], &[0; 20]].concat()),
                record(&[2, b'n', b's', 0xc0, at], 65280, &[0xc0, opaque]),
            ]
            .concat()
        };
        let asked: (u16, &[u8]) = (3, b"");
        let octets = message(RESPONSE, [0, 0, 4], &[&records(&[asked, COOKIE], 54, 54)]);
        assert_eq!(octets[54..56], *b"\x01b");
        let expected = message(RESPONSE, [0, 0, 4], &[&records(&[asked], 42, 54)]);
        assert_eq!(expected[42..44], *b"\x01b");
        assert_eq!(scrubbed(&octets), Ok(expected));
    }

    #[test]
    fn a_name_made_of_an_option_cannot_be_kept() {
        let options = opt(&[(65001, b"\x01m\x01a\0")]);
        // The question ends at 27, and the option's data begin 11 + 4 octets behind it.
        let octets =
            message(RESPONSE, [0, 0, 2], &[&options, &record(b"\xc0\x2a", rrtype::A, &[192, 0, 2, 1])]);
        assert_eq!(octets[42..47], *b"\x01m\x01a\0");
        assert_eq!(scrubbed(&octets), Err(Malformed));
    }

    #[test]
    fn what_follows_the_last_record_is_cut_off() {
        let octets = message(RESPONSE, [0, 0, 1], &[&opt(&[])]);
        let longer = [&octets[..], b"rest"].concat();
        assert_eq!(Scrubber::default().scrub(&longer), Ok(Scrubbed::Rewritten(&octets)));
        let dirty = message(RESPONSE, [0, 0, 1], &[&opt(&[COOKIE]), b"rest"]);
        assert_eq!(scrubbed(&dirty), Ok(octets));
    }

    #[test]
    fn signatures_stay() {
        let signature =
            record(b"\x03key\0", 250, b"\x0bhmac-sha256\0\0\0\0\0\0\0\x01\x2c\0\0\x12\x34\0\0\0\0");
        let octets = message(QUERY, [0, 0, 2], &[&opt(&[COOKIE]), &signature]);
        assert_eq!(scrubbed(&octets), Ok(message(QUERY, [0, 0, 2], &[&opt(&[]), &signature])));
    }

    #[test]
    fn fewer_records_than_announced_are_taken_as_they_are() {
        let whole = message(RESPONSE, [2, 0, 1], &[&record(b"\xc0\x0c", rrtype::A, &[192, 0, 2, 1])]);
        for (length, scrubbed) in [
            (whole.len(), Ok(Scrubbed::Unchanged)),
            (27, Ok(Scrubbed::Unchanged)),
            (12, Ok(Scrubbed::Unchanged)),
            (whole.len() - 1, Err(Malformed)),
            (28, Err(Malformed)),
            (26, Err(Malformed)),
            (11, Err(Malformed)),
        ] {
            assert_eq!(Scrubber::default().scrub(&whole[..length]), scrubbed, "{length} octets");
        }
    }

    #[test]
    fn the_head_of_a_quotation() {
        let octets = message(QUERY, [0, 0, 1], &[&opt(&[COOKIE])]);
        for (length, kept) in [(octets.len(), 27), (30, 27), (27, 27), (26, 12), (12, 12), (11, 0), (0, 0)] {
            assert_eq!(head(&octets[..length]), &octets[..kept], "{length} octets");
        }
    }

    //--- Properties

    /// The records as they read, and the options of OPT as the allow-list leaves them.
    fn reading(message: &[u8]) -> Vec<(Vec<u8>, u16, Vec<u8>)> {
        let header = Header::parse(message).unwrap();
        let mut records = Records::from(&header, message, end_of_questions(&header, message).unwrap());
        let mut reading = Vec::new();
        while let Some(record) = records.next_present().unwrap() {
            let mut owner = Vec::new();
            name::decompress(message, record.owner, &mut owner).unwrap();
            let mut rdata = Vec::new();
            if record.rrtype == rrtype::OPT {
                for option in Options::of(&message[record.rdata..record.rdata_end]) {
                    let kept = match option.code {
                        3 if !header.is_response() => &[],
                        3 => option.data,
                        15 if option.data.len() >= 2 => &option.data[..2],
                        _ => continue,
                    };
                    rdata.push((option.code, kept.to_vec()));
                }
            }
            let mut octets = rdata
                .into_iter()
                .flat_map(|(code, kept)| [&code.to_be_bytes()[..], &kept].concat())
                .collect::<Vec<u8>>();
            if record.rrtype != rrtype::OPT {
                crate::dns::rdata::canonicalise(
                    message,
                    record.rdata,
                    record.rdata_end,
                    record.rrtype,
                    &mut octets,
                )
                .unwrap();
            }
            reading.push((owner, record.rrtype, octets));
        }
        reading
    }

    proptest! {
        #[test]
        fn only_options_are_gone(response: bool, question in labels(), parts in prop::collection::vec(part(), 0..8)) {
            let octets = compose(response, &question, &parts);
            let clean = scrubbed(&octets).unwrap();
            prop_assert_eq!(reading(&clean), reading(&octets));
            prop_assert!(clean.len() <= octets.len());
            // Once more, there is nothing to do.
            prop_assert!(is_unchanged(&clean));
            // Whatever the allow-list does not know is no part of what is left.
            let header = Header::parse(&clean).unwrap();
            let mut records = Records::from(&header, &clean, end_of_questions(&header, &clean).unwrap());
            while let Some(record) = records.next_present().unwrap() {
                if record.rrtype == rrtype::OPT {
                    prop_assert!(is_clean(&header, &clean[record.rdata..record.rdata_end]));
                }
            }
        }

        #[test]
        fn any_octets_are_scrubbed_or_refused(octets in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(clean) = scrubbed(&octets) {
                prop_assert!(clean.len() <= octets.len());
                prop_assert!(is_unchanged(&clean));
            }
        }

        #[test]
        fn a_changed_octet_is_survived(
            response: bool,
            parts in prop::collection::vec(part(), 0..6),
            place: prop::sample::Index,
            value: u8,
        ) {
            let mut octets = compose(response, &[0, 1], &parts);
            let index = place.index(octets.len());
            octets[index] = value;
            if let Ok(clean) = scrubbed(&octets) {
                prop_assert!(is_unchanged(&clean));
            }
        }
    }
}
