//! A window that moves over the octets of an input.

use super::input::{Compression, Input, ReadError};
use crate::limits::FILE_BUFFER_OCTETS;

use std::io;
use std::ops::Range;
use std::time::Duration;

/// What [`Buffer::fill`] came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Filled {
    Enough,
    /// They did not come within the time given.
    NotYet,
    /// The input ended first.
    Ended,
}

/// Octets read ahead of their use.
pub struct Buffer {
    input: Input,
    octets: Vec<u8>,
    /// What is at hand.
    start: usize,
    end: usize,
    ended: bool,
    damage: Option<(Compression, String)>,
}

impl Buffer {
    pub fn new(input: Input) -> Self {
        Buffer { input, octets: vec![0; FILE_BUFFER_OCTETS], start: 0, end: 0, ended: false, damage: None }
    }

    /// The octets that were read and not yet used.
    pub fn at_hand(&self) -> &[u8] {
        &self.octets[self.start..self.end]
    }

    /// Octets used before, of which [`Buffer::consume`] told the place; good until the next [`Buffer::fill`].
    pub fn used(&self, place: Range<usize>) -> &[u8] {
        &self.octets[place]
    }

    /// Uses up to so many of the octets at hand; says where they are.
    pub fn consume(&mut self, octets: usize) -> Range<usize> {
        let start = self.start;
        self.start = self.end.min(start + octets);
        start..self.start
    }

    /// Reads until so many octets, at most half of the buffer, are at hand; waits for no piece longer than `patience`.
    pub fn fill(&mut self, needed: usize, patience: Duration) -> io::Result<Filled> {
        debug_assert!(needed <= self.octets.len() / 2);
        while self.end - self.start < needed {
            if self.ended {
                return Ok(Filled::Ended);
            }
            // What is left is less than one record: moving it costs less than another small read would.
            self.octets.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            match self.input.read(&mut self.octets[self.end..], patience) {
                Ok(0) => self.ended = true,
                Ok(octets) => self.end += octets,
                Err(ReadError::NothingYet) => return Ok(Filled::NotYet),
                Err(ReadError::System(error)) => return Err(error),
                Err(ReadError::Damaged { compression, reason }) => {
                    self.damage = Some((compression, reason));
                    self.ended = true;
                }
            }
        }
        Ok(Filled::Enough)
    }

    /// Ends the input here.
    pub fn abandon(&mut self) {
        self.start = self.end;
        self.ended = true;
    }

    /// What the decompressor could not go on from, if that is what ended the input.
    pub fn damage(&self) -> Option<&(Compression, String)> {
        self.damage.as_ref()
    }
}
