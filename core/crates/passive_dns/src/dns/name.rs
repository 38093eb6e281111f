//! Domain names (RFC 1035 sections 3.1, 4.1.4 and 5.1).
//!
//! A *wire* name is uncompressed: labels, each behind its length octet, and the root's zero octet.
//! Length octets are below 64 and letters above it, so that lower-casing may run over both.

use crate::error::NameError;
use crate::limits::{LABEL_OCTETS_MAX, NAME_OCTETS_MAX, NAME_POINTERS_MAX};

/// The two bits that make a length octet a compression pointer.
pub(crate) const POINTER: u8 = 0xc0;

/// The root, as wire name.
pub const ROOT: &[u8] = &[0];

//------------ Reading -----------------------------------------------------------------------------------------

/// The end of the uncompressed name that begins at `start`.
pub fn end_uncompressed(octets: &[u8], start: usize) -> Result<usize, NameError> {
    let mut at = start;
    loop {
        let length = *octets.get(at).ok_or(NameError::Truncated)?;
        match length {
            0 => {
                at += 1;
                return if at - start <= NAME_OCTETS_MAX { Ok(at) } else { Err(NameError::TooLong) };
            }
            1..=63 => at += 1 + usize::from(length),
            POINTER.. => return Err(NameError::Pointer),
            _ => return Err(NameError::LabelType),
        }
        if at - start >= NAME_OCTETS_MAX {
            return Err(NameError::TooLong);
        }
    }
}

/// Checks that `wire` is one wire name and nothing else.
pub fn validate(wire: &[u8]) -> Result<(), NameError> {
    match end_uncompressed(wire, 0)? {
        end if end == wire.len() => Ok(()),
        _ => Err(NameError::Trailing),
    }
}

/// Appends the name at `start` of `message`, decompressed, to `name`; gives the end of its own octets.
///
/// Each pointer must point before the octets read so far, and what it points to must end before them, too: what
/// stands behind a name is no part of it. That, and the number of pointers, bound the work and end every loop.
pub fn decompress(message: &[u8], start: usize, name: &mut Vec<u8>) -> Result<usize, NameError> {
    let mut message = message;
    let mut pointers = 0;
    let first = name.len();
    let mut at = start;
    let mut lowest = start;
    let mut end = None;
    loop {
        let length = *message.get(at).ok_or(NameError::Truncated)?;
        match length {
            0 => {
                name.push(0);
                return Ok(end.unwrap_or(at + 1));
            }
            1..=63 => {
                let next = at + 1 + usize::from(length);
                name.extend_from_slice(message.get(at..next).ok_or(NameError::Truncated)?);
                // One octet more is needed for the root.
                if name.len() - first >= NAME_OCTETS_MAX {
                    return Err(NameError::TooLong);
                }
                at = next;
            }
            POINTER.. => {
                let low = *message.get(at + 1).ok_or(NameError::Truncated)?;
                let target = usize::from(length & !POINTER) << 8 | usize::from(low);
                if target >= lowest {
                    return Err(NameError::PointerForward);
                }
                pointers += 1;
                if pointers > NAME_POINTERS_MAX {
                    return Err(NameError::Pointers);
                }
                end = end.or(Some(at + 2));
                message = &message[..lowest];
                lowest = target;
                at = target;
            }
            _ => return Err(NameError::LabelType),
        }
    }
}

//------------ Asking ------------------------------------------------------------------------------------------

/// Whether `name` is `ancestor` or below it; both are wire names of one letter case.
pub fn is_at_or_below(name: &[u8], ancestor: &[u8]) -> bool {
    let mut rest = name;
    while rest.len() > ancestor.len() {
        match rest.first() {
            Some(&length @ 1..) if usize::from(length) < rest.len() => {
                rest = &rest[1 + usize::from(length)..]
            }
            _ => return false,
        }
    }
    rest == ancestor
}

/// The labels in reverse order, each with its length octet, and the root's octet last.
pub fn reverse(wire: &[u8]) -> Result<Vec<u8>, NameError> {
    validate(wire)?;
    let mut reversed = vec![0; wire.len()];
    let mut place = wire.len() - 1;
    let mut at = 0;
    while wire[at] != 0 {
        let label = &wire[at..=at + usize::from(wire[at])];
        place -= label.len();
        reversed[place..place + label.len()].copy_from_slice(label);
        at += label.len();
    }
    Ok(reversed)
}

//------------ Presentation ------------------------------------------------------------------------------------

/// Characters that a master file gives a meaning to (RFC 1035 section 5.1).
const SPECIAL: &[u8] = b"\"().;\\@$";

/// The presentation form, absolute: with its final dot.
pub fn to_text(wire: &[u8]) -> Result<String, NameError> {
    let mut text = String::with_capacity(wire.len() + 8);
    write_text(wire, &mut text)?;
    Ok(text)
}

/// Appends the presentation form to `text`.
pub fn write_text(wire: &[u8], text: &mut String) -> Result<(), NameError> {
    validate(wire)?;
    if wire == ROOT {
        text.push('.');
        return Ok(());
    }
    let mut at = 0;
    while wire[at] != 0 {
        let next = at + 1 + usize::from(wire[at]);
        for &octet in &wire[at + 1..next] {
            match octet {
                _ if SPECIAL.contains(&octet) => text.extend(['\\', char::from(octet)]),
                b'!'..=b'~' => text.push(char::from(octet)),
                _ => text.push_str(&format!("\\{octet:03}")),
            }
        }
        text.push('.');
        at = next;
    }
    Ok(())
}

/// Parses a presentation form; a missing final dot is supplied. Characters beyond ASCII stand for their UTF-8.
pub fn from_text(text: &str) -> Result<Vec<u8>, NameError> {
    if text == "." {
        return Ok(ROOT.to_vec());
    }
    let mut wire = vec![0];
    let mut label = 0;
    let mut rest = text.as_bytes();
    while let [octet, behind @ ..] = rest {
        rest = behind;
        match octet {
            b'.' => {
                close_label(&mut wire, label)?;
                label = wire.len();
                wire.push(0);
            }
            b'\\' => {
                let (octet, behind) = unescape(rest)?;
                wire.push(octet);
                rest = behind;
            }
            _ => wire.push(*octet),
        }
        // A label's length octet counts before the label is closed: this bounds what is kept of an endless text.
        if wire.len() > NAME_OCTETS_MAX {
            return Err(NameError::TooLong);
        }
    }
    if wire.len() > label + 1 {
        close_label(&mut wire, label)?;
        wire.push(0);
    } else if label == 0 {
        return Err(NameError::EmptyLabel);
    }
    if wire.len() > NAME_OCTETS_MAX { Err(NameError::TooLong) } else { Ok(wire) }
}

/// Writes the length of the label whose length octet is at `label`.
fn close_label(wire: &mut [u8], label: usize) -> Result<(), NameError> {
    match wire.len() - label - 1 {
        0 => Err(NameError::EmptyLabel),
        length @ 1..=LABEL_OCTETS_MAX => {
            wire[label] = length as u8;
            Ok(())
        }
        _ => Err(NameError::LabelTooLong),
    }
}

/// The octet that an escape stands for, and what follows the escape.
fn unescape(text: &[u8]) -> Result<(u8, &[u8]), NameError> {
    match text {
        [a @ b'0'..=b'9', rest @ ..] => match rest {
            [b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] => {
                let value = u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0');
                Ok((u8::try_from(value).map_err(|_| NameError::Escape)?, rest))
            }
            _ => Err(NameError::Escape),
        },
        [octet, rest @ ..] => Ok((*octet, rest)),
        [] => Err(NameError::Escape),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decompressed(message: &[u8], start: usize) -> Result<(Vec<u8>, usize), NameError> {
        let mut name = Vec::new();
        let end = decompress(message, start, &mut name)?;
        Ok((name, end))
    }

    #[test]
    fn flat_name() {
        assert_eq!(decompressed(b"\x03www\x07example\0rest", 0), Ok((b"\x03www\x07example\0".to_vec(), 13)));
    }

    #[test]
    fn name_compressed_twice() {
        let message = b"\x07example\0\x02ns\xc0\x00\x01a\xc0\x09";
        assert_eq!(decompressed(message, 14), Ok((b"\x01a\x02ns\x07example\0".to_vec(), 18)));
    }

    #[test]
    fn pointers_point_backwards() {
        for message in [&b"\xc0\x00"[..], b"\xc0\x02\x00", b"\x01a\xc0\x00", b"\x00\xc0\x03\xc0\x01"] {
            let start = message.iter().position(|octet| *octet != 0).unwrap();
            assert_eq!(decompressed(message, start), Err(NameError::PointerForward), "{message:02x?}");
        }
    }

    #[test]
    fn what_stands_behind_a_name_is_no_part_of_it() {
        // The pointer at 4 leads to a label of five octets, the last of which is the pointer itself.
        let message = b"\x05abc\xc0\x00x\0";
        assert_eq!(decompressed(message, 4), Err(NameError::Truncated));
        assert_eq!(decompressed(b"\x03abc\0\xc0\x00x\0", 5), Ok((b"\x03abc\0".to_vec(), 7)));
    }

    #[test]
    fn a_chain_of_pointers_is_bounded() {
        let mut message = b"\0".to_vec();
        for target in [0].into_iter().chain((1..).step_by(2)).take(NAME_POINTERS_MAX + 1) {
            message.extend((0xc000_u16 | target).to_be_bytes());
        }
        let last = message.len() - 2;
        assert_eq!(decompressed(&message, last - 2), Ok((ROOT.to_vec(), last)));
        assert_eq!(decompressed(&message, last), Err(NameError::Pointers));
    }

    #[test]
    fn broken_names() {
        for (octets, error) in [
            (&b""[..], NameError::Truncated),
            (b"\x03ww", NameError::Truncated),
            (b"\x01a", NameError::Truncated),
            (b"\xc0", NameError::Truncated),
            (b"\x40a\0", NameError::LabelType),
            (b"\x80a\0", NameError::LabelType),
        ] {
            assert_eq!(decompressed(octets, 0), Err(error), "{octets:02x?}");
        }
        assert_eq!(end_uncompressed(b"\xc0\0", 0), Err(NameError::Pointer));
        assert_eq!(validate(b"\0\0"), Err(NameError::Trailing));
    }

    #[test]
    fn a_name_has_255_octets_at_most() {
        let label: Vec<u8> = [&[63][..], &[b'a'; 63]].concat();
        let longest = [&label[..], &label, &label, &[61], &[b'a'; 61], &[0]].concat();
        assert_eq!(longest.len(), 255);
        assert_eq!(validate(&longest), Ok(()));
        assert_eq!(decompressed(&longest, 0).unwrap().1, 255);
        let text = to_text(&longest).unwrap();
        assert_eq!(from_text(&text), Ok(longest.clone()));

        let longer = [&label[..], &label, &label, &[62], &[b'a'; 62], &[0]].concat();
        assert_eq!(validate(&longer), Err(NameError::TooLong));
        assert_eq!(decompressed(&longer, 0), Err(NameError::TooLong));
        assert_eq!(from_text(&text.replacen('a', "aa", 1)), Err(NameError::LabelTooLong));
        assert_eq!(from_text(&format!("a.{text}")), Err(NameError::TooLong));
    }

    #[test]
    fn presentation() {
        for (wire, text) in [
            (&b"\0"[..], "."),
            (b"\x03WWW\x07example\0", "WWW.example."),
            (b"\x03a.b\x02\\\"\x02 \xff\0", "a\\.b.\\\\\\\".\\032\\255."),
        ] {
            assert_eq!(to_text(wire).as_deref(), Ok(text));
            assert_eq!(from_text(text).as_deref(), Ok(wire));
        }
        assert_eq!(from_text("www.example").as_deref(), Ok(&b"\x03www\x07example\0"[..]));
        for (text, error) in [
            ("", NameError::EmptyLabel),
            ("..", NameError::EmptyLabel),
            (".example", NameError::EmptyLabel),
            ("a..b", NameError::EmptyLabel),
            ("a\\", NameError::Escape),
            ("\\25", NameError::Escape),
            ("\\256", NameError::Escape),
        ] {
            assert_eq!(from_text(text), Err(error), "{text}");
        }
    }

    #[test]
    fn ancestors() {
        let name = b"\x01a\x07example\0";
        for ancestor in [&name[..], b"\x07example\0", b"\0"] {
            assert!(is_at_or_below(name, ancestor));
        }
        for other in [&b"\x01b\x07example\0"[..], b"\x01a\x01a\x07example\0", b"\x06xample\0"] {
            assert!(!is_at_or_below(name, other));
        }
    }

    #[test]
    fn reversal() {
        assert_eq!(reverse(b"\0").as_deref(), Ok(ROOT));
        assert_eq!(reverse(b"\x03www\x07example\0").as_deref(), Ok(&b"\x07example\x03www\0"[..]));
    }

    fn wire_name() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..8).prop_map(|labels| {
            let mut wire = Vec::new();
            for label in labels {
                wire.push(label.len() as u8);
                wire.extend(label);
            }
            wire.push(0);
            wire
        })
    }

    proptest! {
        #[test]
        fn text_is_the_inverse_of_parsing(wire in wire_name()) {
            prop_assert_eq!(from_text(&to_text(&wire).unwrap()), Ok(wire));
        }

        #[test]
        fn reversing_twice_changes_nothing(wire in wire_name()) {
            prop_assert_eq!(reverse(&reverse(&wire).unwrap()), Ok(wire));
        }

        #[test]
        fn whatever_is_decompressed_is_a_name(message in prop::collection::vec(any::<u8>(), 0..600), start in 0usize..600) {
            if let Ok((name, end)) = decompressed(&message, start) {
                prop_assert_eq!(validate(&name), Ok(()));
                prop_assert!(end > start && end <= message.len());
            }
        }

        #[test]
        fn any_text_is_a_name_or_an_error(text in ".*") {
            if let Ok(wire) = from_text(&text) {
                prop_assert_eq!(validate(&wire), Ok(()));
            }
        }
    }
}
