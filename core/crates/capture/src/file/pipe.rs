//! The octets of a pipe, whose writer may let its reader wait.
//!
//! A thread of their own reads and decompresses them: whoever wants them can turn to something else meanwhile, a
//! signal say, which no decompressor could be told of in the middle of its work.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use super::input::{Decompressed, ReadError};
use crate::limits::{PIPE_OCTETS, PIPE_PIECES_MAX};

type Piece = Result<Vec<u8>, ReadError>;

/// What of a pipe has been read.
pub struct Pipe {
    pieces: Receiver<Piece>,
    piece: Vec<u8>,
    /// How much of the piece is used.
    used: usize,
}

impl Pipe {
    pub fn new(reader: impl Read + Send + 'static) -> io::Result<Self> {
        let (sender, pieces) = sync_channel(PIPE_PIECES_MAX);
        // It ends with the pipe, or as soon as it has something for which there is no receiver any more.
        thread::Builder::new().name("pipe".to_owned()).spawn(move || feed(reader, &sender))?;
        Ok(Pipe { pieces, piece: Vec::new(), used: 0 })
    }

    /// Gives some octets; none at the end. Waits for them no longer than `patience`.
    pub fn read(&mut self, buffer: &mut [u8], patience: Duration) -> Result<usize, ReadError> {
        if self.used == self.piece.len() {
            self.piece = match self.pieces.recv_timeout(patience) {
                Ok(piece) => piece?,
                Err(RecvTimeoutError::Timeout) => return Err(ReadError::NothingYet),
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
            };
            self.used = 0;
        }
        let rest = &self.piece[self.used..];
        let octets = rest.len().min(buffer.len());
        buffer[..octets].copy_from_slice(&rest[..octets]);
        self.used += octets;
        Ok(octets)
    }
}

/// Sends what there is to read, up to the end or the first failure.
fn feed(reader: impl Read + Send + 'static, pieces: &SyncSender<Piece>) {
    let mut input = match Decompressed::new(reader) {
        Ok(input) => input,
        Err(error) => return drop(pieces.send(Err(ReadError::System(error)))),
    };
    loop {
        let mut piece = vec![0; PIPE_OCTETS];
        let read = input.read(&mut piece);
        let goes_on = matches!(read, Ok(1..));
        let sent = pieces.send(read.map(|octets| {
            piece.truncate(octets);
            piece
        }));
        if !goes_on || sent.is_err() {
            return;
        }
    }
}
