//! The protobuf wire format, as far as these schemas need it.
//!
//! Written by hand because a transaction's octets then go from the captured packet to the container in one copy.
//! Source: the protobuf encoding guide.

use crate::error::FormatError;

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const OCTETS: u32 = 2;
const FIXED32: u32 = 5;

//------------ Sink --------------------------------------------------------------------------------------------

/// Where a message is written.
pub trait Sink {
    fn put(&mut self, octets: &[u8]);

    fn varint(&mut self, value: u64);

    #[inline]
    fn key(&mut self, field: u32, wire_type: u32) {
        self.varint(u64::from(field << 3 | wire_type));
    }

    #[inline]
    fn uint(&mut self, field: u32, value: u64) {
        self.key(field, VARINT);
        self.varint(value);
    }

    fn fixed32(&mut self, field: u32, value: u32) {
        self.key(field, FIXED32);
        self.put(&value.to_le_bytes());
    }

    fn double(&mut self, field: u32, value: f64) {
        self.key(field, FIXED64);
        self.put(&value.to_le_bytes());
    }

    fn octets(&mut self, field: u32, octets: &[u8]) {
        self.length(field, octets.len());
        self.put(octets);
    }

    /// The beginning of a field of octets that are put behind it.
    fn length(&mut self, field: u32, length: usize) {
        self.key(field, OCTETS);
        self.varint(length as u64);
    }
}

impl Sink for Vec<u8> {
    #[inline]
    fn put(&mut self, octets: &[u8]) {
        self.extend_from_slice(octets);
    }

    /// Seven bits an octet; most numbers are short.
    #[inline]
    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }
}

//------------ Fields ------------------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Octets(&'a [u8]),
    Fixed32([u8; 4]),
}

const WRONG_TYPE: FormatError = FormatError::Protobuf("a field has another type than its schema says");

impl<'a> Value<'a> {
    /// A uint32 or an enumeration; protobuf takes the lower 32 bits of a longer varint.
    pub fn as_u32(self) -> Result<u32, FormatError> {
        self.as_u64().map(|value| value as u32)
    }

    pub fn as_u64(self) -> Result<u64, FormatError> {
        match self {
            Value::Varint(value) => Ok(value),
            _ => Err(WRONG_TYPE),
        }
    }

    /// An int64: two's complement in a varint.
    pub fn as_i64(self) -> Result<i64, FormatError> {
        self.as_u64().map(|value| value as i64)
    }

    pub fn as_bool(self) -> Result<bool, FormatError> {
        self.as_u64().map(|value| value != 0)
    }

    pub fn as_fixed32(self) -> Result<u32, FormatError> {
        match self {
            Value::Fixed32(octets) => Ok(u32::from_le_bytes(octets)),
            _ => Err(WRONG_TYPE),
        }
    }

    pub fn as_double(self) -> Result<f64, FormatError> {
        match self {
            Value::Fixed64(octets) => Ok(f64::from_le_bytes(octets)),
            _ => Err(WRONG_TYPE),
        }
    }

    pub fn as_octets(self) -> Result<&'a [u8], FormatError> {
        match self {
            Value::Octets(octets) => Ok(octets),
            _ => Err(WRONG_TYPE),
        }
    }
}

/// The fields of a message in the order in which they come: number and value.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub fn new(message: &'a [u8]) -> Self {
        Fields { rest: message }
    }

    pub fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, FormatError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let field = u32::try_from(key >> 3).ok().filter(|field| *field != 0);
        let field = field.ok_or(FormatError::Protobuf("a field number out of range"))?;
        let value = match key as u32 & 7 {
            VARINT => Value::Varint(self.varint()?),
            FIXED64 => Value::Fixed64(self.chunk()?),
            OCTETS => {
                let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                Value::Octets(self.take(length)?)
            }
            FIXED32 => Value::Fixed32(self.chunk()?),
            _ => return Err(FormatError::Protobuf("a group or an unknown wire type")),
        };
        Ok(Some((field, value)))
    }

    pub fn varint(&mut self) -> Result<u64, FormatError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [octet] = self.chunk()?;
            value |= u64::from(octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(FormatError::Protobuf("a varint longer than ten octets"))
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let mut chunk = [0; N];
        chunk.copy_from_slice(self.take(N)?);
        Ok(chunk)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], FormatError> {
        let available = self.rest.len();
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(FormatError::Truncated {
            what: "a protobuf field",
            needed: length,
            available,
        })?;
        self.rest = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_round_trip(value: u64) {
            let mut buffer = Vec::new();
            buffer.varint(value);
            let bits = 64 - (value | 1).leading_zeros() as usize;
            prop_assert_eq!(buffer.len(), bits.div_ceil(7));
            let mut fields = Fields::new(&buffer);
            prop_assert_eq!(fields.varint(), Ok(value));
            prop_assert!(fields.is_empty());
        }

        #[test]
        fn any_octets_are_fields_or_an_error(message in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut fields = Fields::new(&message);
            while let Ok(Some((field, _))) = fields.next() {
                prop_assert!(field > 0);
            }
        }
    }

    #[test]
    fn an_endless_varint() {
        assert!(matches!(Fields::new(&[0xff; 11]).varint(), Err(FormatError::Protobuf(_))));
    }

    #[test]
    fn a_length_beyond_the_message() {
        let mut fields = Fields::new(&[0x0a, 0x05, 1, 2]);
        assert_eq!(
            fields.next(),
            Err(FormatError::Truncated { what: "a protobuf field", needed: 5, available: 2 })
        );
    }
}
