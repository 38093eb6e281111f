//! Just enough protobuf to wrap octets that a parser is to be given (protobuf.dev, "Encoding").

/// A message in the making.
#[derive(Default)]
pub struct Wrapper(pub Vec<u8>);

impl Wrapper {
    pub fn uint(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    pub fn fixed32(mut self, field: u64, value: u32) -> Self {
        self.varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn octets(mut self, field: u64, octets: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(octets.len() as u64);
        self.0.extend(octets);
        self
    }

    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}
