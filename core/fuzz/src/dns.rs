//! Domain names, questions, records and rdata of a message.
//!
//! Permitted outcomes, for octets of any kind:
//!
//! * a name is refused, or it is a wire name of at most 255 octets that ends inside the message, whose text parses
//!   to it again, whose reversal reversed is itself, and which is at or below itself and the root;
//! * a text is refused as a name, or it is a wire name, whose own text means the same name;
//! * a message has no question, or one whose octets stand in the message, or is malformed;
//! * the records of a message are no more than its header announces; nothing follows a malformed one; each lies
//!   behind the one before it;
//! * rdata is malformed, or its canonical form is canonical already and at most two names longer than it was:
//!   no type here has more than two.

use passive_dns::dns::name::{self, ROOT};
use passive_dns::dns::{Header, Question, Record, Records, rdata};
use passive_dns::limits::NAME_OCTETS_MAX;

/// Messages are no longer than this, by UDP's and TCP's own length fields.
const MESSAGE_OCTETS_MAX: usize = 65_535;

pub fn check(octets: &[u8]) {
    let message = &octets[..octets.len().min(MESSAGE_OCTETS_MAX)];
    check_names(message);
    check_text(message);
    let Some(header) = Header::parse(message) else { return };
    let Ok(Some(question)) = Question::of_message(&header, message) else { return };
    assert_eq!(name::validate(question.name), Ok(()));
    check_records(&header, &question, message);
}

fn check_names(message: &[u8]) {
    // Not from everywhere: an input of 64 KiB would cost seconds.
    let step = message.len() / 64 + 1;
    for start in (0..=message.len()).step_by(step) {
        let mut wire = Vec::new();
        let Ok(end) = name::decompress(message, start, &mut wire) else { continue };
        assert!(start < end && end <= message.len(), "a name from {start} ends at {end}");
        check_name(&wire);
        if let Ok(flat) = name::end_uncompressed(message, start) {
            assert_eq!(&message[start..flat], &wire[..], "two ways to read one name");
        }
    }
}

fn check_name(wire: &[u8]) {
    assert_eq!(name::validate(wire), Ok(()));
    assert!(wire.len() <= NAME_OCTETS_MAX);
    let text = name::to_text(wire).expect("a valid name has a text");
    assert_eq!(name::from_text(&text).as_deref(), Ok(wire), "{text}");
    let reversed = name::reverse(wire).expect("a valid name can be reversed");
    assert_eq!(name::reverse(&reversed).as_deref(), Ok(wire), "{text}");
    assert!(name::is_at_or_below(wire, wire) && name::is_at_or_below(wire, ROOT));
}

fn check_text(octets: &[u8]) {
    let Ok(text) = str::from_utf8(octets) else { return };
    if let Ok(wire) = name::from_text(text) {
        check_name(&wire);
    }
}

fn check_records(header: &Header, question: &Question<'_>, message: &[u8]) {
    let announced: usize = header.counts[1..].iter().map(|count| usize::from(*count)).sum();
    let mut at = 0;
    let mut records = 0;
    let mut iterator = Records::behind(header, question, message);
    while let Some(record) = iterator.next() {
        records += 1;
        let Ok(record) = record else {
            assert!(iterator.next().is_none(), "a record behind a malformed one");
            break;
        };
        assert!(record.owner >= at && record.rdata > record.owner);
        assert!(record.rdata <= record.rdata_end && record.rdata_end <= message.len());
        at = record.rdata_end;
        check_rdata(message, &record);
    }
    assert!(records <= announced, "{records} records where {announced} are announced");
}

fn check_rdata(message: &[u8], record: &Record) {
    let Record { rdata: start, rdata_end: end, rrtype, .. } = *record;
    let mut canonical = Vec::new();
    if rdata::canonicalise(message, start, end, rrtype, &mut canonical).is_err() {
        return;
    }
    assert!(canonical.len() <= end - start + 2 * NAME_OCTETS_MAX);
    let mut again = Vec::new();
    rdata::canonicalise(&canonical, 0, canonical.len(), rrtype, &mut again)
        .expect("canonical rdata is well-formed");
    assert_eq!(again, canonical, "type {rrtype}");
}
