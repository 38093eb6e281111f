//! Taking a target's octets apart.

/// Numbers and chunks off the front; zero and empty once the octets are used up, so that every input means
/// something and a mutation seldom changes the meaning of what is before it.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(octets: &'a [u8]) -> Self {
        Input(octets)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn octet(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// Big-endian.
    pub fn number(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    /// As many octets as the two in front of them say, or what there is.
    pub fn chunk(&mut self) -> &'a [u8] {
        let length = usize::from(self.number()).min(self.0.len());
        self.take(length)
    }

    pub fn rest(&mut self) -> &'a [u8] {
        self.take(self.0.len())
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let octets = self.take(N.min(self.0.len()));
        array[..octets.len()].copy_from_slice(octets);
        array
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }
}
