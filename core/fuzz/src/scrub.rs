//! What is taken out of messages, and which are kept out.
//!
//! The input is a DNS message.
//!
//! Permitted outcomes:
//!
//! * a message is refused as malformed, or it stays as it is, or it is rewritten and is shorter then;
//! * what stays in its place is left alone by a second scrubbing; its header, its questions and its records are
//!   those that were there, names and all, but for the options of OPT records; of those only NSID and the number
//!   of an extended error are left, and nothing stands behind the last record;
//! * a message is judged as a reader of it would judge who reads every name by itself: outside of all zones if
//!   none of its names is at or below one of them;
//! * what is scrubbed is judged as it was before.

use std::cell::RefCell;
use std::sync::LazyLock;

use passive_dns::dns::message::end_of_question;
use passive_dns::dns::rdata::{self, Names};
use passive_dns::dns::{HEADER_OCTETS, Header, Malformed, Record, Records, name, rrtype};
use passive_dns::local_zones::{NamePolicy, SPECIAL_USE, Verdict};
use passive_dns::scrub::{Scrubbed, Scrubber};

const MESSAGE_OCTETS_MAX: usize = 65_535;

const ZONES: [&str; 2] = ["corp.example", "a.b.c.example.net"];

const NSID: u16 = 3;
const EXTENDED_ERROR: u16 = 15;

/// Every zone that the policy keeps out, as a wire name.
static KEPT_OUT: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let zones = SPECIAL_USE.iter().flat_map(|zones| zones.iter()).chain(&ZONES);
    zones.map(|zone| name::from_text(zone).expect("a name")).collect()
});

thread_local! {
    static POLICY: RefCell<NamePolicy> = RefCell::new(NamePolicy::new(&ZONES, true, None).expect("names"));
}

pub fn check(octets: &[u8]) {
    let message = &octets[..octets.len().min(MESSAGE_OCTETS_MAX)];
    POLICY.with_borrow_mut(|policy| check_message(message, policy));
}

fn check_message(message: &[u8], policy: &mut NamePolicy) {
    let verdict = policy.judge(message).map(|judgement| judgement.verdict);
    check_verdict(message, verdict);

    let mut scrubber = Scrubber::default();
    let Ok(scrubbed) = scrubber.scrub(message) else { return };
    if let Scrubbed::Rewritten(rewritten) = scrubbed {
        assert!(rewritten.len() < message.len());
    }
    let stored = scrubbed.of(message).to_vec();
    assert_eq!(scrubber.scrub(&stored), Ok(Scrubbed::Unchanged));
    check_same(message, &stored);
    let again = policy.judge(&stored).map(|judgement| judgement.verdict);
    assert_eq!(again, verdict, "the verdict on what is stored");
}

/// Where the records of a message begin.
fn behind_questions(header: &Header, message: &[u8]) -> Result<usize, Malformed> {
    let mut at = HEADER_OCTETS;
    for _ in 0..header.counts[0] {
        if at == message.len() {
            break;
        }
        at = end_of_question(message, at)?;
    }
    Ok(at)
}

fn name_at(message: &[u8], start: usize) -> Result<Vec<u8>, Malformed> {
    let mut wire = Vec::new();
    name::decompress(message, start, &mut wire)?;
    wire.make_ascii_lowercase();
    Ok(wire)
}

fn check_same(message: &[u8], stored: &[u8]) {
    let header = Header::parse(stored).expect("a header");
    assert_eq!(stored[..HEADER_OCTETS], message[..HEADER_OCTETS]);
    let start = behind_questions(&header, stored).expect("questions");
    assert_eq!(stored[..start], message[..start]);
    let mut before = Records::from(&header, message, start);
    let mut after = Records::from(&header, stored, start);
    while let Some(record) = after.next_present().expect("a record") {
        let original = before.next_present().expect("a record").expect("as many records");
        check_record(message, &original, stored, &record);
    }
    assert!(before.next_present().expect("a record").is_none(), "as many records");
    assert_eq!(after.position(), stored.len());
}

fn check_record(message: &[u8], original: &Record, stored: &[u8], record: &Record) {
    let head = |record: &Record| (record.section, record.rrtype, record.class, record.ttl);
    assert_eq!(head(record), head(original));
    assert_eq!(name_at(stored, record.owner), name_at(message, original.owner));
    if record.rrtype == rrtype::OPT {
        return check_options(&stored[record.rdata..record.rdata_end]);
    }
    let canonical = |message: &[u8], record: &Record| {
        let mut canonical = Vec::new();
        rdata::canonicalise(message, record.rdata, record.rdata_end, record.rrtype, &mut canonical)
            .map(|()| canonical)
    };
    assert_eq!(canonical(stored, record), canonical(message, original));
    let names = |message: &[u8], record: &Record| -> Result<Vec<_>, Malformed> {
        Names::of(message, record.rdata, record.rdata_end, record.rrtype)?
            .map(|start| name_at(message, start?))
            .collect()
    };
    assert_eq!(names(stored, record), names(message, original));
}

fn check_options(mut options: &[u8]) {
    while !options.is_empty() {
        let (header, rest) = options.split_first_chunk::<4>().expect("an option's header");
        let [code, length] = [[header[0], header[1]], [header[2], header[3]]].map(u16::from_be_bytes);
        assert!(code == NSID || (code == EXTENDED_ERROR && length == 2), "option {code} of {length} octets");
        options = &rest[usize::from(length)..];
    }
}

/// Every name of a message that can be read, and whether all can.
fn names(message: &[u8]) -> (Vec<Vec<u8>>, Result<(), Malformed>) {
    let mut names = Vec::new();
    let walked = for_each_name(message, |name| names.push(name));
    let (readable, unreadable): (Vec<_>, Vec<_>) = names.into_iter().partition(Result::is_ok);
    let all = if unreadable.is_empty() { walked } else { Err(Malformed) };
    (readable.into_iter().flatten().collect(), all)
}

/// What is behind a name that cannot be read is found all the same, since its end does not depend on where it leads.
fn for_each_name(message: &[u8], mut each: impl FnMut(Result<Vec<u8>, Malformed>)) -> Result<(), Malformed> {
    let header = Header::parse(message).ok_or(Malformed)?;
    let mut at = HEADER_OCTETS;
    for _ in 0..header.counts[0] {
        if at == message.len() {
            break;
        }
        each(name_at(message, at));
        at = end_of_question(message, at)?;
    }
    let mut records = Records::from(&header, message, at);
    while let Some(record) = records.next_present()? {
        each(name_at(message, record.owner));
        for start in Names::of(message, record.rdata, record.rdata_end, record.rrtype)? {
            each(name_at(message, start?));
        }
    }
    Ok(())
}

fn check_verdict(message: &[u8], verdict: Result<Verdict, Malformed>) {
    let (names, read) = names(message);
    let is_local = names.iter().any(|name| KEPT_OUT.iter().any(|zone| name::is_at_or_below(name, zone)));
    match verdict {
        Ok(Verdict::LocalZone) => assert!(is_local, "none of {names:02x?} is local"),
        Ok(Verdict::Admitted | Verdict::SingleLabel) => {
            assert!(!is_local, "one of {names:02x?} is local");
            // Of names that lead out of all zones the rest is not read.
            assert!(read.is_ok() || !names.is_empty());
        }
        Ok(Verdict::NameRegex) => unreachable!("there is no pattern"),
        Err(Malformed) => assert!(read.is_err(), "every one of {names:02x?} can be read"),
    }
}
