//! The octets of a file, whatever compressed them.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Cursor, ErrorKind, Read};
use std::os::fd::AsFd;
use std::time::Duration;

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

use super::pipe::Pipe;
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
    /// None came within the time given.
    NothingYet,
    /// The system cannot read the file.
    System(io::Error),
    /// What compressed the octets did not leave them like this. Nothing more can be read.
    Damaged { compression: Compression, reason: String },
}

/// Reads on after signals: decompressors do not all keep their state when a read fails under them.
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

/// Octets, decompressed as they are read, in memory that does not depend on what they are.
pub struct Decompressed {
    reader: Box<dyn Read + Send>,
    compression: Option<Compression>,
}

impl Decompressed {
    /// Reads the first octets, which tell the compression.
    pub fn new(mut reader: impl Read + Send + 'static) -> io::Result<Self> {
        let mut magic = Vec::with_capacity(MAGIC_OCTETS);
        Patient(&mut reader).take(MAGIC_OCTETS as u64).read_to_end(&mut magic)?;
        let compression = Compression::of(&magic);
        let whole = Patient(Cursor::new(magic).chain(reader));
        let reader: Box<dyn Read + Send> = match compression {
            None => Box::new(whole),
            Some(compression) => {
                let whole = BufReader::with_capacity(COMPRESSED_READ_OCTETS, whole);
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
        Ok(Decompressed { reader, compression })
    }

    /// Reads some octets; none at the end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        self.reader.read(buffer).map_err(|error| match self.compression {
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

/// Where octets come from.
pub enum Input {
    /// A file, which lets nobody wait.
    File(Decompressed),
    Pipe(Pipe),
}

impl Input {
    /// Opens a file, or a pipe by its name; "-" is standard input.
    pub fn open(path: &str) -> io::Result<Self> {
        let file = match path {
            "-" => File::from(io::stdin().as_fd().try_clone_to_owned()?),
            _ => File::open(path)?,
        };
        if file.metadata()?.is_file() {
            Ok(Input::File(Decompressed::new(file)?))
        } else {
            Ok(Input::Pipe(Pipe::new(file)?))
        }
    }

    /// Reads some octets; none at the end. Of a pipe it waits for them no longer than `patience`.
    pub fn read(&mut self, buffer: &mut [u8], patience: Duration) -> Result<usize, ReadError> {
        match self {
            Input::File(file) => file.read(buffer),
            Input::Pipe(pipe) => pipe.read(buffer, patience),
        }
    }
}
