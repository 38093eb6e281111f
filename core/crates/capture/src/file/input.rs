//! The octets of a file, whatever compressed them.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Cursor, ErrorKind, Read};

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

use crate::limits::{COMPRESSED_READ_OCTETS, XZ_MEMORY_KIBIBYTES_MAX, ZSTD_FILE_WINDOW_LOG_MAX};

/// What a file may be compressed with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Compression {
    /// RFC 1952, any number of members.
    Gzip,
    /// RFC 8878, any number of frames, skippable ones too.
    Zstd,
    /// The .xz format of the tukaani project, any number of streams.
    Xz,
}

/// The longest of the magic numbers.
const MAGIC_OCTETS: usize = 6;

impl Compression {
    /// Told by the first octets; None for whatever else.
    fn of(magic: &[u8]) -> Option<Self> {
        match magic {
            [0x1f, 0x8b, ..] => Some(Compression::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Compression::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0x00] => Some(Compression::Xz),
            _ => None,
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
            Compression::Xz => "xz",
        })
    }
}

/// Why there are no further octets.
#[derive(Debug)]
pub enum ReadError {
    /// A signal arrived; nothing is lost.
    Interrupted,
    /// The system cannot read the file.
    System(io::Error),
    /// What compressed the octets did not leave them like this. Nothing more can be read.
    Damaged { compression: Compression, reason: String },
}

/// Waits through signals. Decompressors do not all keep their state when a read fails under them; a plain file, and
/// a pipe into which no compressor writes, are interruptible.
struct Patient<R>(R);

impl<R: Read> Read for Patient<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

/// A file or a pipe, decompressed as it is read, in memory that does not depend on what it holds.
pub struct Input {
    reader: Box<dyn Read + Send>,
    compression: Option<Compression>,
}

impl Input {
    /// Opens a file; "-" is standard input.
    pub fn open(path: &str) -> io::Result<Self> {
        if path == "-" { Input::new(io::stdin()) } else { Input::new(File::open(path)?) }
    }

    /// Reads the first octets, which tell the compression.
    pub fn new(mut reader: impl Read + Send + 'static) -> io::Result<Self> {
        let mut magic = Vec::with_capacity(MAGIC_OCTETS);
        Patient(&mut reader).take(MAGIC_OCTETS as u64).read_to_end(&mut magic)?;
        let compression = Compression::of(&magic);
        let whole = Cursor::new(magic).chain(reader);
        let reader: Box<dyn Read + Send> = match compression {
            None => Box::new(whole),
            Some(compression) => {
                let whole = BufReader::with_capacity(COMPRESSED_READ_OCTETS, Patient(whole));
                match compression {
                    Compression::Gzip => Box::new(MultiGzDecoder::new(whole)),
                    Compression::Zstd => {
                        let mut decoder = zstd::Decoder::with_buffer(whole)?;
                        decoder.window_log_max(ZSTD_FILE_WINDOW_LOG_MAX)?;
                        Box::new(decoder)
                    }
                    Compression::Xz => {
                        Box::new(XzReader::new_mem_limit(whole, true, XZ_MEMORY_KIBIBYTES_MAX))
                    }
                }
            }
        };
        Ok(Input { reader, compression })
    }

    /// Reads some octets; none at the end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        self.reader.read(buffer).map_err(|error| match self.compression {
            _ if error.kind() == ErrorKind::Interrupted => ReadError::Interrupted,
            // What the system says has a number; what a decompressor says has none.
            Some(compression) if error.raw_os_error().is_none() => ReadError::Damaged {
                compression,
                reason: match error.kind() {
                    ErrorKind::UnexpectedEof => "it is cut off".to_owned(),
                    ErrorKind::OutOfMemory => {
                        format!("it wants more than {} MiB of memory", XZ_MEMORY_KIBIBYTES_MAX / 1024)
                    }
                    _ => error.to_string(),
                },
            },
            _ => ReadError::System(error),
        })
    }
}
