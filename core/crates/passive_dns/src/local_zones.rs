//! Names that are nobody else's business: local zones, names of one label, and whatever a pattern excludes.
//!
//! A message is kept out if its question, the owner of one of its records, or a name in a record's rdata lies at
//! or below a listed zone, in whatever spelling (RFC 4343) and however compressed. Text that happens to hold a
//! name (TXT, CAA, URI) is not looked at, nor is the rdata of types that nobody knows.
//!
//! Most names are compressed and most are of zones that are not listed, so names are read where they stand. Once a
//! name is known to be outside, with all that may be below it, so are the names that point to it.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use regex::bytes::{Regex, RegexBuilder};

use crate::dns::message::end_of_question;
use crate::dns::rdata::Names;
use crate::dns::{HEADER_OCTETS, Header, Malformed, Rcode, Records, name, rrtype};
use crate::error::SettingError;
use crate::limits::{
    LABEL_OCTETS_MAX, LOCAL_ZONES_MAX, NAME_OCTETS_MAX, NAME_POINTERS_MAX, NAME_REGEX_OCTETS_MAX,
};

//------------ Special-use names -------------------------------------------------------------------------------

/// Names that are answered on the spot and have no business on the way to authoritative servers, so that whoever
/// asks for them there tells of a network's inside.
///
/// Not among them: `example`, `example.com`, `example.net` and `example.org`, which RFC 6761 section 6.5 has
/// resolvers treat like any other; `ipv4only.arpa` (RFC 7050), which public servers answer.
pub const SPECIAL_USE: [&[&str]; 4] = [TOP_LEVEL, BELOW_ARPA, REVERSE_IPV4, REVERSE_IPV6];

/// Top-level names that are not in the public root.
pub const TOP_LEVEL: &[&str] = &[
    "test",      // RFC 6761 section 6.2
    "localhost", // RFC 6761 section 6.3
    "invalid",   // RFC 6761 section 6.4
    "local",     // RFC 6762 section 22.1
    "onion",     // RFC 7686
    "alt",       // RFC 9476
    "internal",  // reserved for private use by ICANN's board on 29 July 2024 (SAC113)
];

/// Names below `arpa` that IANA lists among the locally served zones.
pub const BELOW_ARPA: &[&str] = &[
    "home.arpa",     // RFC 8375
    "resolver.arpa", // RFC 9462 section 8
    "service.arpa",  // RFC 9665
];

/// Reverse zones of IPv4. Those of the addresses for documentation are among them, as RFC 6303 has it: unlike names
/// below `example`, nobody publishes them, so that a question for one is a leak.
pub const REVERSE_IPV4: &[&str] = &[
    // RFC 6303 section 4.1, the networks of RFC 1918.
    "10.in-addr.arpa",
    "16.172.in-addr.arpa",
    "17.172.in-addr.arpa",
    "18.172.in-addr.arpa",
    "19.172.in-addr.arpa",
    "20.172.in-addr.arpa",
    "21.172.in-addr.arpa",
    "22.172.in-addr.arpa",
    "23.172.in-addr.arpa",
    "24.172.in-addr.arpa",
    "25.172.in-addr.arpa",
    "26.172.in-addr.arpa",
    "27.172.in-addr.arpa",
    "28.172.in-addr.arpa",
    "29.172.in-addr.arpa",
    "30.172.in-addr.arpa",
    "31.172.in-addr.arpa",
    "168.192.in-addr.arpa",
    // RFC 6303 section 4.2: this network, loopback, link-local, documentation, broadcast.
    "0.in-addr.arpa",
    "127.in-addr.arpa",
    "254.169.in-addr.arpa",
    "2.0.192.in-addr.arpa",
    "100.51.198.in-addr.arpa",
    "113.0.203.in-addr.arpa",
    "255.255.255.255.in-addr.arpa",
    // RFC 7793 section 2, the shared addresses of RFC 6598.
    "64.100.in-addr.arpa",
    "65.100.in-addr.arpa",
    "66.100.in-addr.arpa",
    "67.100.in-addr.arpa",
    "68.100.in-addr.arpa",
    "69.100.in-addr.arpa",
    "70.100.in-addr.arpa",
    "71.100.in-addr.arpa",
    "72.100.in-addr.arpa",
    "73.100.in-addr.arpa",
    "74.100.in-addr.arpa",
    "75.100.in-addr.arpa",
    "76.100.in-addr.arpa",
    "77.100.in-addr.arpa",
    "78.100.in-addr.arpa",
    "79.100.in-addr.arpa",
    "80.100.in-addr.arpa",
    "81.100.in-addr.arpa",
    "82.100.in-addr.arpa",
    "83.100.in-addr.arpa",
    "84.100.in-addr.arpa",
    "85.100.in-addr.arpa",
    "86.100.in-addr.arpa",
    "87.100.in-addr.arpa",
    "88.100.in-addr.arpa",
    "89.100.in-addr.arpa",
    "90.100.in-addr.arpa",
    "91.100.in-addr.arpa",
    "92.100.in-addr.arpa",
    "93.100.in-addr.arpa",
    "94.100.in-addr.arpa",
    "95.100.in-addr.arpa",
    "96.100.in-addr.arpa",
    "97.100.in-addr.arpa",
    "98.100.in-addr.arpa",
    "99.100.in-addr.arpa",
    "100.100.in-addr.arpa",
    "101.100.in-addr.arpa",
    "102.100.in-addr.arpa",
    "103.100.in-addr.arpa",
    "104.100.in-addr.arpa",
    "105.100.in-addr.arpa",
    "106.100.in-addr.arpa",
    "107.100.in-addr.arpa",
    "108.100.in-addr.arpa",
    "109.100.in-addr.arpa",
    "110.100.in-addr.arpa",
    "111.100.in-addr.arpa",
    "112.100.in-addr.arpa",
    "113.100.in-addr.arpa",
    "114.100.in-addr.arpa",
    "115.100.in-addr.arpa",
    "116.100.in-addr.arpa",
    "117.100.in-addr.arpa",
    "118.100.in-addr.arpa",
    "119.100.in-addr.arpa",
    "120.100.in-addr.arpa",
    "121.100.in-addr.arpa",
    "122.100.in-addr.arpa",
    "123.100.in-addr.arpa",
    "124.100.in-addr.arpa",
    "125.100.in-addr.arpa",
    "126.100.in-addr.arpa",
    "127.100.in-addr.arpa",
];

/// Reverse zones of IPv6.
pub const REVERSE_IPV6: &[&str] = &[
    // RFC 6303 section 4.3: the unspecified address and loopback.
    "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
    "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
    // Unique local addresses, locally assigned (RFC 6303 section 4.4) and otherwise (RFC 4193 section 3.1).
    "d.f.ip6.arpa",
    "c.f.ip6.arpa",
    // RFC 6303 section 4.5, link-local.
    "8.e.f.ip6.arpa",
    "9.e.f.ip6.arpa",
    "a.e.f.ip6.arpa",
    "b.e.f.ip6.arpa",
    // RFC 6303 section 4.6, documentation.
    "8.b.d.0.1.0.0.2.ip6.arpa",
];

//------------ Policy ------------------------------------------------------------------------------------------

/// What is said of a message's names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    Admitted,
    /// A name lies at or below a local zone.
    LocalZone,
    /// The question's name has one label, and the message does not show that the public root knows it. A query
    /// never does: wait for the response, whose verdict is that of both, or leave the query out if none comes.
    SingleLabel,
    /// The question's name matches the pattern.
    NameRegex,
}

/// What was seen of a message that was read to its last record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Extent {
    /// Where the last record ends.
    pub end: usize,
    /// Whether there is an OPT record that holds something.
    pub has_options: bool,
}

/// The verdict on a message; an extent comes with it unless the verdict was clear before the message was read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Judgement {
    pub verdict: Verdict,
    pub extent: Option<Extent>,
}

impl From<Verdict> for Judgement {
    fn from(verdict: Verdict) -> Self {
        Judgement { verdict, extent: None }
    }
}

/// Which names are recorded.
#[derive(Debug)]
pub struct NamePolicy {
    zones: Zones,
    /// Whether special-use names and names of one label are kept out.
    suppress_special_use: bool,
    exclude: Option<Regex>,
    outside: Outside,
    /// Where the labels of the name at hand begin.
    labels: [u16; LABELS_MAX],
    wire: Vec<u8>,
    text: String,
}

/// A name of 255 octets has 127 labels of one octet, each behind its length, and the root.
const LABELS_MAX: usize = NAME_OCTETS_MAX / 2;

impl NamePolicy {
    /// Keeps out names at or below `local_zones`; special-use names and names of one label if asked to; and
    /// questions whose name matches `exclude` somewhere.
    ///
    /// The pattern is tried on the presentation form (RFC 1035 section 5.1) in lower case without the final dot;
    /// its syntax is that of the crate `regex`, of ASCII.
    pub fn new<T: AsRef<str>>(
        local_zones: &[T],
        suppress_special_use: bool,
        exclude: Option<&str>,
    ) -> Result<Self, SettingError> {
        if local_zones.len() > LOCAL_ZONES_MAX {
            return Err(SettingError::LocalZones { given: local_zones.len(), most: LOCAL_ZONES_MAX });
        }
        let mut zones = Zones::default();
        for zone in local_zones {
            zones.insert(&zone_name(zone.as_ref())?);
        }
        if suppress_special_use {
            for zone in SPECIAL_USE.into_iter().flatten() {
                zones.insert(&zone_name(zone)?);
            }
        }
        Ok(NamePolicy {
            zones,
            suppress_special_use,
            exclude: exclude.map(compile).transpose()?,
            outside: Outside::default(),
            labels: [0; LABELS_MAX],
            wire: Vec::with_capacity(NAME_OCTETS_MAX),
            text: String::new(),
        })
    }

    /// Judges a message by its question and by every name in it.
    ///
    /// A message with a name that cannot be read cannot be judged. It may hold fewer records than it announces, if
    /// it ends behind one of them.
    pub fn judge(&mut self, message: &[u8]) -> Result<Judgement, Malformed> {
        let header = Header::parse(message).ok_or(Malformed)?;
        if self.zones.is_empty() && !self.suppress_special_use && self.exclude.is_none() {
            return Ok(Verdict::Admitted.into());
        }
        if message.len() > usize::from(u16::MAX) {
            return Err(Malformed);
        }
        self.outside.clear(message.len());
        let mut at = HEADER_OCTETS;
        for _ in 0..header.counts[0] {
            if at == message.len() {
                break;
            }
            if self.is_local(message, at)? {
                return Ok(Verdict::LocalZone.into());
            }
            if self.is_excluded(message, at)? {
                return Ok(Verdict::NameRegex.into());
            }
            at = end_of_question(message, at)?;
        }
        let single_label =
            self.suppress_special_use && at > HEADER_OCTETS && is_single_label(&message[HEADER_OCTETS..]);
        let mut known = false;
        let mut has_options = false;
        let mut records = Records::from(&header, message, at);
        while let Some(record) = records.next_present()? {
            if self.is_local(message, record.owner)? {
                return Ok(Verdict::LocalZone.into());
            }
            for name in Names::of(message, record.rdata, record.rdata_end, record.rrtype)? {
                if self.is_local(message, name?)? {
                    return Ok(Verdict::LocalZone.into());
                }
            }
            has_options |= record.rrtype == rrtype::OPT && record.rdata < record.rdata_end;
            if single_label && !known && !rrtype::is_meta(record.rrtype) {
                known = self.is_the_question(message, record.owner)?;
            }
        }
        known &= header.is_response() && header.rcode() == Rcode::NOERROR;
        let verdict = if single_label && !known { Verdict::SingleLabel } else { Verdict::Admitted };
        Ok(Judgement { verdict, extent: Some(Extent { end: records.position(), has_options }) })
    }

    /// Judges a wire name as that of a question to which no answer is known.
    pub fn judge_name(&mut self, name: &[u8]) -> Result<Verdict, Malformed> {
        name::validate(name)?;
        self.outside.clear(name.len());
        Ok(if self.is_local(name, 0)? {
            Verdict::LocalZone
        } else if self.is_excluded(name, 0)? {
            Verdict::NameRegex
        } else if self.suppress_special_use && is_single_label(name) {
            Verdict::SingleLabel
        } else {
            Verdict::Admitted
        })
    }

    /// Whether the name at `start` lies at or below a zone.
    #[inline]
    fn is_local(&mut self, message: &[u8], start: usize) -> Result<bool, Malformed> {
        // Most names are nothing but a pointer to one that was judged.
        if let Some(&[high, low]) = message.get(start..).and_then(<[u8]>::first_chunk)
            && high >= name::POINTER
        {
            let target = usize::from(u16::from_be_bytes([high & !name::POINTER, low]));
            if target < start && self.outside.contains(target) {
                return Ok(false);
            }
        }
        self.is_local_by_labels(message, start)
    }

    fn is_local_by_labels(&mut self, message: &[u8], start: usize) -> Result<bool, Malformed> {
        let mut count = 0;
        let mut octets = 0;
        let mut at = start;
        let mut lowest = start;
        let mut pointers = 0;
        // What names may be read from, as with `name::decompress`; labels are looked up in all of it.
        let mut readable = message;
        loop {
            let length = *readable.get(at).ok_or(Malformed)?;
            match length {
                0 => break,
                1..=63 => {
                    octets += 1 + usize::from(length);
                    // One octet more is needed for the root.
                    if octets >= NAME_OCTETS_MAX {
                        return Err(Malformed);
                    }
                    self.labels[count] = at as u16;
                    count += 1;
                    at += 1 + usize::from(length);
                }
                name::POINTER.. => {
                    let low = *readable.get(at + 1).ok_or(Malformed)?;
                    let target = usize::from(u16::from_be_bytes([length & !name::POINTER, low]));
                    if target >= lowest {
                        return Err(Malformed);
                    }
                    if self.outside.contains(target) {
                        self.outside.extend(&self.labels[..count]);
                        return Ok(false);
                    }
                    pointers += 1;
                    if pointers > NAME_POINTERS_MAX {
                        return Err(Malformed);
                    }
                    readable = &readable[..lowest];
                    lowest = target;
                    at = target;
                }
                _ => return Err(Malformed),
            }
        }
        let mut node = Zones::ROOT;
        for index in (0..count).rev() {
            let at = usize::from(self.labels[index]);
            let label = &message[at + 1..=at + usize::from(message[at])];
            match self.zones.descend(node, label) {
                None => {
                    self.outside.extend(&self.labels[..=index]);
                    return Ok(false);
                }
                Some(child) if self.zones.is_zone(child) => return Ok(true),
                Some(child) => node = child,
            }
        }
        Ok(false)
    }

    fn is_excluded(&mut self, message: &[u8], start: usize) -> Result<bool, Malformed> {
        let Some(exclude) = &self.exclude else { return Ok(false) };
        self.wire.clear();
        name::decompress(message, start, &mut self.wire)?;
        self.text.clear();
        name::write_text(&self.wire, &mut self.text)?;
        self.text.make_ascii_lowercase();
        self.text.pop(); // the final dot
        Ok(exclude.is_match(self.text.as_bytes()))
    }

    /// Whether the name at `start` is the question's.
    fn is_the_question(&mut self, message: &[u8], start: usize) -> Result<bool, Malformed> {
        self.wire.clear();
        name::decompress(message, start, &mut self.wire)?;
        let question = &message[HEADER_OCTETS..];
        Ok(self.wire.eq_ignore_ascii_case(&question[..self.wire.len().min(question.len())]))
    }
}

/// Whether a name, of which `octets` begin with the first label, has only this label.
fn is_single_label(octets: &[u8]) -> bool {
    match octets.first() {
        Some(&length @ 1..=63) => octets.get(1 + usize::from(length)) == Some(&0),
        _ => false,
    }
}

/// A configured zone's wire name, in lower case.
fn zone_name(text: &str) -> Result<Vec<u8>, SettingError> {
    let refused = |reason: String| SettingError::LocalZone { given: text.to_owned(), reason };
    if !text.is_ascii() {
        return Err(refused("write internationalised names in their form of ASCII (xn--...)".to_owned()));
    }
    let mut wire = name::from_text(text).map_err(|error| refused(error.to_string()))?;
    if wire == name::ROOT {
        return Err(refused("nothing would be recorded".to_owned()));
    }
    if wire.starts_with(b"\x01*") {
        return Err(refused("a zone covers whatever is below it: leave out the asterisk".to_owned()));
    }
    wire.make_ascii_lowercase();
    Ok(wire)
}

fn compile(pattern: &str) -> Result<Regex, SettingError> {
    let built = RegexBuilder::new(pattern)
        .unicode(false)
        .case_insensitive(true)
        .size_limit(NAME_REGEX_OCTETS_MAX)
        .dfa_size_limit(NAME_REGEX_OCTETS_MAX)
        .build();
    built.map_err(|error| {
        // A syntax error comes with a picture of the pattern, and says on its last line what is wrong.
        let reason = error.to_string();
        let reason = reason.lines().last().unwrap_or_default().trim();
        let reason = reason.strip_prefix("error: ").unwrap_or(reason).to_owned();
        SettingError::NameRegex { given: pattern.to_owned(), reason }
    })
}

//------------ Zones -------------------------------------------------------------------------------------------

/// Zones as a tree of labels, from the root down.
#[derive(Debug)]
struct Zones {
    nodes: Vec<Node>,
    /// The nodes but the root, by parent and label.
    children: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

#[derive(Debug)]
struct Node {
    parent: u32,
    label: Box<[u8]>,
    is_zone: bool,
    /// One bit for each length of the labels below.
    lengths: u64,
    /// One bit for each value of the lower five bits of their first octets, which both cases of a letter share.
    initials: u32,
}

impl Node {
    fn new(parent: u32, label: &[u8]) -> Self {
        Node { parent, label: label.into(), is_zone: false, lengths: 0, initials: 0 }
    }

    /// The bits of a label, which is not empty.
    fn bits(label: &[u8]) -> (u64, u32) {
        (1 << label.len(), 1 << (label[0] & 0x1f))
    }
}

impl Default for Zones {
    fn default() -> Self {
        Zones {
            nodes: vec![Node::new(0, b"")],
            children: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
        }
    }
}

impl Zones {
    const ROOT: u32 = 0;

    fn is_empty(&self) -> bool {
        self.children.is_empty()
    }

    fn is_zone(&self, node: u32) -> bool {
        self.nodes[node as usize].is_zone
    }

    /// The node of a label, in any case, below a node.
    fn descend(&self, node: u32, label: &[u8]) -> Option<u32> {
        let (length, initial) = Node::bits(label);
        let parent = &self.nodes[node as usize];
        if parent.lengths & length == 0 || parent.initials & initial == 0 {
            return None;
        }
        let mut lowered = [0; LABEL_OCTETS_MAX];
        let lowered = &mut lowered[..label.len()];
        lowered.copy_from_slice(label);
        lowered.make_ascii_lowercase();
        let hash = self.hasher.hash_one((node, &*lowered));
        let found = self.children.find(hash, |child| {
            let child = &self.nodes[*child as usize];
            child.parent == node && *child.label == *lowered
        });
        found.copied()
    }

    /// Adds the zone of a wire name in lower case.
    fn insert(&mut self, wire: &[u8]) {
        let mut labels = Vec::new();
        let mut rest = wire;
        while let [length @ 1..=63, behind @ ..] = rest {
            let (label, behind) = behind.split_at(usize::from(*length));
            labels.push(label);
            rest = behind;
        }
        let mut node = Self::ROOT;
        for label in labels.into_iter().rev() {
            node = self.descend(node, label).unwrap_or_else(|| self.add(node, label));
        }
        self.nodes[node as usize].is_zone = true;
    }

    fn add(&mut self, parent: u32, label: &[u8]) -> u32 {
        let node = u32::try_from(self.nodes.len()).expect("the number of zones is limited");
        self.nodes.push(Node::new(parent, label));
        let (length, initial) = Node::bits(label);
        self.nodes[parent as usize].lengths |= length;
        self.nodes[parent as usize].initials |= initial;
        let Zones { nodes, children, hasher } = self;
        let hash = |node: &u32| {
            let node = &nodes[*node as usize];
            hasher.hash_one((node.parent, &*node.label))
        };
        children.insert_unique(hash(&node), node, hash);
        node
    }
}

//------------ Names already judged ----------------------------------------------------------------------------

/// The places of a message from which a name leads out of every zone, whatever labels stand before it.
///
/// One bit for each place that a pointer of 14 bits can lead to.
#[derive(Debug)]
struct Outside([u64; POINTER_TARGETS / 64]);

const POINTER_TARGETS: usize = 1 << 14;

impl Default for Outside {
    fn default() -> Self {
        Outside([0; POINTER_TARGETS / 64])
    }
}

impl Outside {
    /// Begins with a message of so many octets.
    fn clear(&mut self, octets: usize) {
        self.0[..octets.min(POINTER_TARGETS).div_ceil(64)].fill(0);
    }

    #[inline]
    fn contains(&self, place: usize) -> bool {
        self.0[place / 64] >> (place % 64) & 1 == 1
    }

    fn extend(&mut self, places: &[u16]) {
        for place in places.iter().map(|place| usize::from(*place)) {
            if place < POINTER_TARGETS {
                self.0[place / 64] |= 1 << (place % 64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::{LABELS, Part, compose, labels, part};
    use crate::scrub::{Scrubbed, Scrubber};
    use proptest::prelude::*;

    fn policy(zones: &[&str]) -> NamePolicy {
        NamePolicy::new(zones, true, None).unwrap()
    }

    fn judged(policy: &mut NamePolicy, message: &[u8]) -> Result<Verdict, Malformed> {
        policy.judge(message).map(|judgement| judgement.verdict)
    }

    fn wire(text: &str) -> Vec<u8> {
        name::from_text(text).unwrap()
    }

    /// A message with one question, and one answer: its owner, its type and its rdata.
    fn message(flags: u16, question: &str, answer: Option<(&[u8], u16, &[u8])>) -> Vec<u8> {
        let mut octets = vec![0x12, 0x34];
        octets.extend(flags.to_be_bytes());
        octets.extend([0, 1, 0, u8::from(answer.is_some()), 0, 0, 0, 0]);
        octets.extend(wire(question));
        octets.extend([0, 1, 0, 1]);
        if let Some((owner, rrtype, rdata)) = answer {
            octets.extend(owner);
            octets.extend(rrtype.to_be_bytes());
            octets.extend(b"\0\x01\0\0\x0e\x10");
            octets.extend((rdata.len() as u16).to_be_bytes());
            octets.extend(rdata);
        }
        octets
    }

    const QUERY: u16 = 0;
    const RESPONSE: u16 = 0x8000;

    fn of_question(policy: &mut NamePolicy, question: &str) -> Verdict {
        let verdict = judged(policy, &message(QUERY, question, None)).unwrap();
        assert_eq!(policy.judge_name(&wire(question)), Ok(verdict), "{question}");
        verdict
    }

    #[test]
    fn special_use_names_are_kept_out() {
        let mut policy = policy(&[]);
        for zone in SPECIAL_USE.into_iter().flatten() {
            for question in [(*zone).to_owned(), format!("Host.{}.", zone.to_ascii_uppercase())] {
                assert_eq!(of_question(&mut policy, &question), Verdict::LocalZone, "{question}");
            }
        }
    }

    #[test]
    fn names_beside_them_are_recorded() {
        let mut policy = policy(&[]);
        for question in [
            ".",
            "host.example",
            "www.example.com",
            "notlocal.example",
            "local.example",
            "mylocal.mytest",
            "ipv4only.arpa",
            "in-addr.arpa",
            "1.in-addr.arpa",
            "15.172.in-addr.arpa",
            "32.172.in-addr.arpa",
            "192.in-addr.arpa",
            "169.192.in-addr.arpa",
            "63.100.in-addr.arpa",
            "128.100.in-addr.arpa",
            "254.255.255.255.in-addr.arpa",
            "e.f.ip6.arpa",
            "c.e.f.ip6.arpa",
            "9.b.d.0.1.0.0.2.ip6.arpa",
            "0.0.ip6.arpa",
            "10.in-addr.example",
        ] {
            assert_eq!(of_question(&mut policy, question), Verdict::Admitted, "{question}");
        }
    }

    #[test]
    fn configured_zones_are_kept_out_in_any_spelling() {
        let mut policy = policy(&["Corp.example.", "2.example"]);
        for (question, verdict) in [
            ("corp.example", Verdict::LocalZone),
            ("a.cORP.eXAMPLE", Verdict::LocalZone),
            ("a.b.c.corp.example", Verdict::LocalZone),
            ("a.2.example", Verdict::LocalZone),
            ("notcorp.example", Verdict::Admitted),
            ("corp.example.example", Verdict::Admitted),
            ("corp\\.example.example", Verdict::Admitted),
            ("r.example", Verdict::Admitted),
        ] {
            assert_eq!(of_question(&mut policy, question), verdict, "{question}");
        }
    }

    #[test]
    fn without_a_zone_nothing_is_looked_at() {
        let mut policy = NamePolicy::new::<&str>(&[], false, None).unwrap();
        for question in ["host.local", "single"] {
            assert_eq!(of_question(&mut policy, question), Verdict::Admitted, "{question}");
        }
    }

    #[test]
    fn every_name_of_a_response_counts() {
        let mut policy = policy(&["corp.example"]);
        let local = wire("a.CORP.example");
        let address = (&b"\xc0\x0c"[..], rrtype::A, &[192, 0, 2, 1][..]);
        assert_eq!(
            judged(&mut policy, &message(RESPONSE, "a.example", Some(address))),
            Ok(Verdict::Admitted)
        );
        let start = [&b"\xc0\x0c"[..], &local, &[0; 20]].concat();
        for (owner, rrtype, rdata) in [
            (&local, rrtype::A, &[192, 0, 2, 1][..]),
            (&wire("b.example"), rrtype::CNAME, &local),
            (&wire("b.example"), rrtype::CNAME, b"\x04corp\xc0\x0e"),
            (&wire("b.example"), rrtype::SOA, &start),
            (&wire("b.example"), rrtype::SVCB, &[&[0, 1], &local[..], &[0, 1, 0, 0]].concat()),
        ] {
            let octets = message(RESPONSE, "a.example", Some((owner, rrtype, rdata)));
            assert_eq!(judged(&mut policy, &octets), Ok(Verdict::LocalZone), "type {rrtype} {rdata:02x?}");
        }
        // Text and what nobody can read are no names.
        for rrtype in [rrtype::TXT, 65280] {
            let octets = message(RESPONSE, "a.example", Some((b"\0", rrtype, &local)));
            assert_eq!(judged(&mut policy, &octets), Ok(Verdict::Admitted), "type {rrtype}");
        }
    }

    #[test]
    fn a_name_of_one_label_needs_the_public_root() {
        let mut policy = policy(&[]);
        let servers = wire("a.nic.example");
        assert_eq!(of_question(&mut policy, "intranet"), Verdict::SingleLabel);
        for (flags, owner, rrtype, verdict) in [
            (RESPONSE, "intranet", rrtype::NS, Verdict::Admitted),
            (RESPONSE, "INTRANET", rrtype::NS, Verdict::Admitted),
            (RESPONSE | 3, "intranet", rrtype::NS, Verdict::SingleLabel),
            (RESPONSE, ".", rrtype::NS, Verdict::SingleLabel),
            (RESPONSE, "a.intranet", rrtype::NS, Verdict::SingleLabel),
            (RESPONSE, "intranets", rrtype::NS, Verdict::SingleLabel),
            (RESPONSE, "intranet", rrtype::OPT, Verdict::SingleLabel),
            (QUERY, "intranet", rrtype::NS, Verdict::SingleLabel),
        ] {
            let octets = message(flags, "intranet", Some((&wire(owner), rrtype, &servers)));
            assert_eq!(judged(&mut policy, &octets), Ok(verdict), "{flags:04x} {owner} type {rrtype}");
        }
        let compressed = message(RESPONSE, "intranet", Some((b"\xc0\x0c", rrtype::NS, &servers)));
        assert_eq!(judged(&mut policy, &compressed), Ok(Verdict::Admitted));
        assert_eq!(judged(&mut policy, &message(RESPONSE, "intranet", None)), Ok(Verdict::SingleLabel));
        let mut policy = NamePolicy::new(&["corp.example"], false, None).unwrap();
        assert_eq!(of_question(&mut policy, "intranet"), Verdict::Admitted);
    }

    #[test]
    fn patterns_see_the_presentation_form_in_lower_case() {
        for (pattern, question, verdict) in [
            (r"^pc-\d+\.example$", "PC-17.Example", Verdict::NameRegex),
            (r"^PC-\d+\.", "pc-17.example", Verdict::NameRegex),
            (r"^pc-\d+\.example$", "pc-17.example.example", Verdict::Admitted),
            (r"\\\.", "a\\.b.example", Verdict::NameRegex),
            (r"\\255", "\\255.example", Verdict::NameRegex),
            (r"\.$", "a.example", Verdict::Admitted),
            (r"^$", ".", Verdict::NameRegex),
            (r"\.$", "a\\..example", Verdict::Admitted),
        ] {
            let mut policy = NamePolicy::new::<&str>(&[], false, Some(pattern)).unwrap();
            assert_eq!(of_question(&mut policy, question), verdict, "{pattern} {question}");
        }
    }

    #[test]
    fn settings_that_make_no_sense() {
        for (zone, reason) in [
            ("", "has an empty label"),
            ("a..example", "has an empty label"),
            (".", "nothing would be recorded"),
            ("*.corp.example", "a zone covers whatever is below it: leave out the asterisk"),
            ("stra\u{df}e.example", "write internationalised names in their form of ASCII (xn--...)"),
        ] {
            let expected = SettingError::LocalZone { given: zone.to_owned(), reason: reason.to_owned() };
            assert_eq!(NamePolicy::new(&[zone], true, None).unwrap_err(), expected);
        }
        for (pattern, reason) in [
            ("(a", "unclosed group"),
            ("a{1000}{1000}", "Compiled regex exceeds size limit of 1048576 bytes."),
        ] {
            let expected = SettingError::NameRegex { given: pattern.to_owned(), reason: reason.to_owned() };
            assert_eq!(NamePolicy::new::<&str>(&[], true, Some(pattern)).unwrap_err(), expected);
        }
        let zones = vec!["corp.example"; LOCAL_ZONES_MAX + 1];
        let error = NamePolicy::new(&zones, true, None).unwrap_err();
        assert_eq!(error, SettingError::LocalZones { given: LOCAL_ZONES_MAX + 1, most: LOCAL_ZONES_MAX });
    }

    #[test]
    fn names_that_cannot_be_read_cannot_be_judged() {
        let mut policy = policy(&[]);
        for (owner, rrtype, rdata) in [
            (&b"\xc0\xff"[..], rrtype::A, &[192, 0, 2, 1][..]),
            (b"\x40", rrtype::A, &[192, 0, 2, 1]),
            (b"\0", rrtype::CNAME, b"\xc0\xff"),
            (b"\0", rrtype::CNAME, b"\x01a"),
            (b"\0", rrtype::CNAME, b""),
        ] {
            let octets = message(RESPONSE, "a.example", Some((owner, rrtype, rdata)));
            assert_eq!(judged(&mut policy, &octets), Err(Malformed), "{owner:02x?} {rdata:02x?}");
        }
        assert_eq!(judged(&mut policy, b"short"), Err(Malformed));
        assert_eq!(policy.judge_name(b"\x01a"), Err(Malformed));
        assert_eq!(judged(&mut policy, &message(RESPONSE, "a.example", None)[..20]), Err(Malformed));
        assert_eq!(judged(&mut policy, &message(RESPONSE, "a.example", None)[..12]), Ok(Verdict::Admitted));
    }

    #[test]
    fn names_beyond_the_reach_of_pointers_are_judged_too() {
        let mut octets = message(RESPONSE, "a.example", None);
        octets[7] = 3;
        let filler = vec![0; 40_000];
        for (owner, rdata) in
            [(wire("b.example"), &filler[..]), (wire("b.example"), b""), (wire("a.local"), b"")]
        {
            octets.extend(owner);
            octets.extend(b"\xff\0\0\x01\0\0\x0e\x10");
            octets.extend((rdata.len() as u16).to_be_bytes());
            octets.extend(rdata);
        }
        assert_eq!(judged(&mut policy(&[]), &octets), Ok(Verdict::LocalZone));
        assert_eq!(judged(&mut policy(&[]), &vec![0; 65_536]), Err(Malformed));
    }

    //--- Properties

    fn text(labels: &[u8]) -> String {
        let labels = labels.iter().map(|index| str::from_utf8(LABELS[usize::from(*index)]).unwrap());
        labels.map(|label| label.to_owned() + ".").collect::<String>().to_ascii_lowercase()
    }

    /// Whether a zone, in lower case with its final dot, holds a name.
    fn holds(zone: &str, name: &str) -> bool {
        name == zone || name.ends_with(&format!(".{zone}"))
    }

    /// The names of a message's records, as text.
    fn names_of(part: &Part) -> Vec<String> {
        match part {
            Part::Options(_) | Part::Broken(_) => vec![],
            Part::Address(owner) | Part::Unknown(owner, _) => vec![text(owner)],
            Part::Mail(owner, host) | Part::Start(owner, host) => vec![text(owner), text(host)],
        }
    }

    proptest! {
        #[test]
        fn agrees_with_comparing_text(
            zones in prop::collection::vec(labels().prop_filter("root", |labels| !labels.is_empty()), 0..4),
            suppress_special_use: bool,
            response: bool,
            question in labels(),
            parts in prop::collection::vec(part(), 0..6),
        ) {
            let mut zones: Vec<String> = zones.iter().map(|labels| text(labels)).collect();
            let mut policy = NamePolicy::new(&zones, suppress_special_use, None).unwrap();
            if suppress_special_use {
                zones.extend(SPECIAL_USE.into_iter().flatten().map(|zone| format!("{zone}.")));
            }
            let asked = text(&question);
            let names: Vec<String> = parts.iter().flat_map(names_of).chain([asked.clone()]).collect();
            let is_local = names.iter().any(|name| zones.iter().any(|zone| holds(zone, name)));
            let owned = parts.iter().any(|part| names_of(part).first() == Some(&asked));
            let single_label = suppress_special_use && question.len() == 1 && !(response && owned);
            let expected = match (is_local, single_label) {
                (true, _) => Verdict::LocalZone,
                (false, true) => Verdict::SingleLabel,
                (false, false) => Verdict::Admitted,
            };
            let octets = compose(response, &question, &parts);
            prop_assert_eq!(judged(&mut policy, &octets), Ok(expected));
            // What was judged before leaves no trace.
            prop_assert_eq!(judged(&mut policy, &octets), Ok(expected));
        }

        /// What is seen on the way spares the scrubber its own, and comes to the same.
        #[test]
        fn the_extent_is_what_a_scrubber_finds(
            question in labels(),
            parts in prop::collection::vec(part(), 0..6),
            trailing in prop::collection::vec(any::<u8>(), 0..3),
        ) {
            let octets = [compose(true, &question, &parts), trailing].concat();
            let judgement = policy(&[]).judge(&octets);
            let mut scrubber = Scrubber::default();
            match judgement.map(|judgement| judgement.extent) {
                Ok(Some(Extent { end, has_options: false })) => {
                    prop_assert_eq!(scrubber.scrub(&octets), Ok(Scrubbed::up_to(&octets, end)));
                }
                Ok(Some(_)) => {
                    let holds = |part: &Part| match part {
                        Part::Options(options) => !options.is_empty(),
                        Part::Broken(rdata) => !rdata.is_empty(),
                        _ => false,
                    };
                    prop_assert!(parts.iter().any(holds));
                }
                Ok(None) => prop_assert_eq!(judged(&mut policy(&[]), &octets), Ok(Verdict::LocalZone)),
                Err(Malformed) => prop_assert_eq!(scrubber.scrub(&octets), Err(Malformed)),
            }
        }

        #[test]
        fn any_octets_are_judged_or_malformed(octets in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut policy = NamePolicy::new(&["corp.example"], true, Some("pc")).unwrap();
            let first = judged(&mut policy, &octets);
            prop_assert_eq!(judged(&mut policy, &octets), first);
        }
    }
}
