//! The question and the resource records of a message (RFC 1035 section 4.1).

use crate::dns::header::{HEADER_OCTETS, Header};
use crate::dns::name;
use crate::error::NameError;

/// A message does not hold what its header announces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Malformed;

impl From<NameError> for Malformed {
    fn from(_: NameError) -> Self {
        Malformed
    }
}

//------------ Question ----------------------------------------------------------------------------------------

/// A question, its name as it stands in the message: letter case kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Question<'a> {
    pub name: &'a [u8],
    pub rrtype: u16,
    pub class: u16,
}

impl<'a> Question<'a> {
    /// The single question of a message; None if it announces none or several, or ends with its header.
    ///
    /// No name comes before the question's, so that a pointer in it can only be malformed.
    pub fn of_message(header: &Header, message: &'a [u8]) -> Result<Option<Self>, Malformed> {
        if header.counts[0] != 1 || message.len() == HEADER_OCTETS {
            return Ok(None);
        }
        let end = name::end_uncompressed(message, HEADER_OCTETS)?;
        let fields = message.get(end..end + 4).ok_or(Malformed)?;
        Ok(Some(Question {
            name: &message[HEADER_OCTETS..end],
            rrtype: u16::from_be_bytes([fields[0], fields[1]]),
            class: u16::from_be_bytes([fields[2], fields[3]]),
        }))
    }

    /// Where the octets of a message's question end.
    pub fn end(&self) -> usize {
        HEADER_OCTETS + self.name.len() + 4
    }
}

//------------ Record ------------------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Section {
    Answer,
    Authority,
    Additional,
}

/// A resource record: where in the message its owner begins, and its rdata.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub section: Section,
    pub owner: usize,
    pub rrtype: u16,
    pub class: u16,
    pub ttl: u32,
    pub rdata: usize,
    pub rdata_end: usize,
}

/// The records of a message, in order.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    message: &'a [u8],
    at: usize,
    /// The section that is read, and how many records of each are still to come.
    section: usize,
    remaining: [u16; 3],
}

impl<'a> Records<'a> {
    pub fn behind(header: &Header, question: &Question<'_>, message: &'a [u8]) -> Self {
        Self::from(header, message, question.end())
    }

    /// The records announced by the header, of which the first begins at `at`.
    pub fn from(header: &Header, message: &'a [u8], at: usize) -> Self {
        let [_, answer, authority, additional] = header.counts;
        Records { message, at, section: 0, remaining: [answer, authority, additional] }
    }

    /// The next of the records that are there: a message may hold fewer than its header announces, if it ends
    /// behind one of them. So do the answers of servers that know no EDNS and send the query's counts back.
    #[inline]
    pub fn next_present(&mut self) -> Result<Option<Record>, Malformed> {
        if self.at == self.message.len() { Ok(None) } else { self.next().transpose() }
    }

    /// The end of the records read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    #[inline]
    fn read(&mut self, section: Section) -> Result<Record, Malformed> {
        const FIELDS_OCTETS: usize = 10;
        let owner = self.at;
        let behind_name = end_of_name(self.message, owner)?;
        let fields = self.message.get(behind_name..).and_then(<[u8]>::first_chunk::<FIELDS_OCTETS>);
        let fields = fields.ok_or(Malformed)?;
        let rdata = behind_name + FIELDS_OCTETS;
        let rdata_end = rdata + usize::from(u16::from_be_bytes([fields[8], fields[9]]));
        if rdata_end > self.message.len() {
            return Err(Malformed);
        }
        self.at = rdata_end;
        Ok(Record {
            section,
            owner,
            rrtype: u16::from_be_bytes([fields[0], fields[1]]),
            class: u16::from_be_bytes([fields[2], fields[3]]),
            ttl: u32::from_be_bytes([fields[4], fields[5], fields[6], fields[7]]),
            rdata,
            rdata_end,
        })
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        const SECTIONS: [Section; 3] = [Section::Answer, Section::Authority, Section::Additional];
        while *self.remaining.get(self.section)? == 0 {
            self.section += 1;
        }
        self.remaining[self.section] -= 1;
        let record = self.read(SECTIONS[self.section]);
        if record.is_err() {
            self.remaining = [0; 3];
        }
        Some(record)
    }
}

/// The end of the question at `start`, the last one of a message with several as well as the only one.
pub fn end_of_question(message: &[u8], start: usize) -> Result<usize, Malformed> {
    match end_of_name(message, start)? + 4 {
        end if end <= message.len() => Ok(end),
        _ => Err(Malformed),
    }
}

/// The end of a name's own octets, compressed or not; where its pointer leads is not looked at.
#[inline]
pub(super) fn end_of_name(message: &[u8], start: usize) -> Result<usize, Malformed> {
    let mut at = start;
    loop {
        match *message.get(at).ok_or(Malformed)? {
            0 => return Ok(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            0xc0.. => return Ok(at + 2),
            _ => return Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(counts: [u8; 4], body: &[u8]) -> Vec<u8> {
        let mut octets = vec![0x12, 0x34, 0x80, 0];
        for count in counts {
            octets.extend([0, count]);
        }
        octets.extend(body);
        octets
    }

    fn question(octets: &[u8]) -> Result<Option<Question<'_>>, Malformed> {
        Question::of_message(&Header::parse(octets).unwrap(), octets)
    }

    #[test]
    fn one_question() {
        let octets = message([1, 0, 0, 0], b"\x07eXample\0\0\x10\0\x01");
        assert_eq!(question(&octets), Ok(Some(Question { name: b"\x07eXample\0", rrtype: 16, class: 1 })));
    }

    #[test]
    fn no_question_or_two() {
        assert_eq!(question(&message([0, 0, 0, 0], b"")), Ok(None));
        assert_eq!(question(&message([1, 0, 0, 0], b"")), Ok(None));
        assert_eq!(question(&message([2, 0, 0, 0], b"\0\0\x01\0\x01\0\0\x01\0\x01")), Ok(None));
    }

    #[test]
    fn broken_questions() {
        for body in [&b"\x07exam"[..], b"\x07example\0\0\x10\0", b"\xc0\x00\0\x01\0\x01", b"\x40"] {
            assert_eq!(question(&message([1, 0, 0, 0], body)), Err(Malformed), "{body:02x?}");
        }
    }

    #[test]
    fn records_of_all_sections() {
        let octets = message(
            [1, 1, 0, 2],
            b"\0\0\x02\0\x01\xc0\x0c\0\x02\0\x01\0\0\0\x05\0\x01\0\0\0\x29\x10\0\0\0\0\0\0\0\xc0\x0c\0\x01\0\x01\0\0\0\x05\0\x00",
        );
        let header = Header::parse(&octets).unwrap();
        let records: Vec<Record> = Records::behind(&header, &question(&octets).unwrap().unwrap(), &octets)
            .collect::<Result<_, _>>()
            .unwrap();
        let seen: Vec<_> = records.iter().map(|record| (record.section, record.rrtype, record.ttl)).collect();
        assert_eq!(
            seen,
            [(Section::Answer, 2, 5), (Section::Additional, 41, 0), (Section::Additional, 1, 5)]
        );
        assert_eq!(&octets[records[0].rdata..records[0].rdata_end], [0]);
    }

    #[test]
    fn fewer_records_than_announced_may_be_there_but_whole() {
        let whole = message([1, 2, 0, 1], b"\0\0\x02\0\x01\xc0\x0c\0\x02\0\x01\0\0\0\x05\0\x01\0");
        for (length, present) in [(17, Ok(0)), (30, Ok(1)), (29, Err(Malformed)), (18, Err(Malformed))] {
            let octets = &whole[..length];
            let first = end_of_question(octets, HEADER_OCTETS).unwrap();
            let mut records = Records::from(&Header::parse(octets).unwrap(), octets, first);
            let count = std::iter::from_fn(|| records.next_present().transpose())
                .collect::<Result<Vec<_>, _>>()
                .map(|records| records.len());
            assert_eq!(count, present, "{length} octets");
        }
    }

    #[test]
    fn a_question_ends_behind_its_class() {
        let octets = message([1, 0, 0, 0], b"\x01a\xc0\x0c\0\x02\0\x01");
        assert_eq!(end_of_question(&octets, HEADER_OCTETS), Ok(octets.len()));
        assert_eq!(end_of_question(&octets[..octets.len() - 1], HEADER_OCTETS), Err(Malformed));
    }

    #[test]
    fn a_record_that_is_not_there_ends_the_iteration() {
        let octets = message([1, 2, 0, 0], b"\0\0\x02\0\x01\xc0\x0c\0\x02\0\x01\0\0\0\x05\0\x09\0");
        let header = Header::parse(&octets).unwrap();
        let question = question(&octets).unwrap().unwrap();
        let results: Vec<_> =
            Records::behind(&header, &question, &octets).map(|record| record.is_ok()).collect();
        assert_eq!(results, [false]);
    }
}
