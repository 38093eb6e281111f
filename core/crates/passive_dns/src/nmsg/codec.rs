//! Compression: writing, and reading with a limit.

use std::io;
use std::str::FromStr;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use zstd::stream::raw::{CParameter, DParameter, Decoder, InBuffer, Operation, OutBuffer};

use crate::error::{FormatError, SettingError};
use crate::limits::{ZLIB_LEVEL, ZSTD_HASH_LOG, ZSTD_LEVEL, ZSTD_MATCH_MIN, ZSTD_WINDOW_LOG_MAX};
use crate::nmsg::{FLAG_ZLIB, HEADER_OCTETS, MAGIC, VERSION};

/// RFC 8878 section 3.1.1.
pub const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// How a container is compressed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Codec {
    /// A plain NMSG container.
    None,
    /// An NMSG container with flag 0x01.
    Zlib,
    /// One zstd frame that holds one whole plain NMSG container.
    Zstd,
}

impl FromStr for Codec {
    type Err = SettingError;

    fn from_str(name: &str) -> Result<Self, SettingError> {
        match name {
            "none" => Ok(Codec::None),
            "zlib" => Ok(Codec::Zlib),
            "zstd" => Ok(Codec::Zstd),
            other => Err(SettingError::Codec(other.to_owned())),
        }
    }
}

/// Octets that a container may have before compression: what its header's length field can say.
const BODY_FITS: &str = "a container is far smaller than 4 GiB";

//------------ Encoder -----------------------------------------------------------------------------------------

/// Compresses containers, one after the other; what it needs of memory is kept between them.
pub enum Encoder {
    None,
    Zlib(Box<Compress>),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Encoder {
    pub fn new(codec: Codec) -> Self {
        match codec {
            Codec::None => Encoder::None,
            Codec::Zlib => Encoder::Zlib(Box::new(Compress::new(Compression::new(ZLIB_LEVEL), true))),
            Codec::Zstd => Encoder::Zstd(compressor().expect("zstd takes what it documents")),
        }
    }

    pub fn compresses(&self) -> bool {
        !matches!(self, Encoder::None)
    }

    /// Encodes a container. `plain` has room for the header, in front of the serialized `Nmsg`; what is left in it
    /// is of no use.
    pub fn encode(&mut self, plain: &mut Vec<u8>) -> Vec<u8> {
        match self {
            Encoder::None => {
                write_header(plain, 0);
                let another = Vec::with_capacity(plain.capacity());
                std::mem::replace(plain, another)
            }
            Encoder::Zlib(compress) => {
                let body = &plain[HEADER_OCTETS..];
                let declared = u32::try_from(body.len()).expect(BODY_FITS);
                let mut container = vec![0; HEADER_OCTETS];
                container.extend(declared.to_be_bytes());
                deflate(compress, body, &mut container);
                write_header(&mut container, FLAG_ZLIB);
                container
            }
            Encoder::Zstd(compressor) => {
                write_header(plain, 0);
                compressor.compress(plain).expect("the output buffer has zstd's own bound for it")
            }
        }
    }
}

fn compressor() -> io::Result<zstd::bulk::Compressor<'static>> {
    let mut compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
    compressor.set_parameter(CParameter::HashLog(ZSTD_HASH_LOG))?;
    compressor.set_parameter(CParameter::MinMatch(ZSTD_MATCH_MIN))?;
    Ok(compressor)
}

fn write_header(container: &mut [u8], flags: u8) {
    let length = u32::try_from(container.len() - HEADER_OCTETS).expect(BODY_FITS);
    container[..4].copy_from_slice(&MAGIC);
    container[4] = flags;
    container[5] = VERSION;
    container[6..HEADER_OCTETS].copy_from_slice(&length.to_be_bytes());
}

fn deflate(compress: &mut Compress, body: &[u8], output: &mut Vec<u8>) {
    compress.reset();
    // deflateBound: an incompressible stream grows by five octets a block of 16 KiB, and a few more.
    output.reserve(body.len() + body.len() / 1000 + 64);
    loop {
        let read = usize::try_from(compress.total_in()).expect("no more was read than there is");
        match compress.compress_vec(&body[read..], output, FlushCompress::Finish) {
            Ok(Status::StreamEnd) => return,
            Ok(_) => output.reserve(output.capacity()),
            Err(error) => unreachable!("deflating from memory to memory cannot fail: {error}"),
        }
    }
}

//------------ Inflating ---------------------------------------------------------------------------------------

/// Inflates the body of an NMSG container with flag 0x01: the inflated length, then one zlib stream.
pub fn inflate_zlib(body: &[u8], limit: usize) -> Result<Vec<u8>, FormatError> {
    let failed = |reason: String| FormatError::Inflate { codec: "zlib", reason };
    let (declared, stream) = body.split_first_chunk::<4>().ok_or(FormatError::Truncated {
        what: "a zlib container",
        needed: 4,
        available: body.len(),
    })?;
    let declared = usize::try_from(u32::from_be_bytes(*declared)).unwrap_or(usize::MAX);
    if declared > limit {
        return Err(FormatError::TooLarge { limit });
    }
    // Zlib inflates at most 1032-fold: a short stream cannot ask for more memory than it can fill.
    let mut inflated = Vec::with_capacity(declared.min(stream.len().saturating_mul(1032)));
    let mut decompress = Decompress::new(true);
    let status = decompress
        .decompress_vec(stream, &mut inflated, FlushDecompress::Finish)
        .map_err(|error| failed(error.to_string()))?;
    if status != Status::StreamEnd {
        return Err(failed(format!("the stream does not end within its {declared} declared octets")));
    }
    if inflated.len() != declared {
        return Err(FormatError::InflatedLength { declared, actual: inflated.len() });
    }
    if decompress.total_in() != stream.len() as u64 {
        return Err(failed("octets follow the stream".to_owned()));
    }
    Ok(inflated)
}

/// Inflates the zstd frame that `data` begins with; gives what is in it and how many octets it took.
pub fn inflate_zstd(data: &[u8], limit: usize) -> Result<(Vec<u8>, usize), FormatError> {
    const STEP: usize = 1 << 17;
    let failed = |error: std::io::Error| FormatError::Inflate { codec: "zstd", reason: error.to_string() };
    let mut decoder = Decoder::new().map_err(failed)?;
    decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX)).map_err(failed)?;
    let mut input = InBuffer::around(data);
    let mut inflated = Vec::new();
    loop {
        let start = inflated.len();
        inflated.resize(start.saturating_add(STEP).min(limit.saturating_add(1)), 0);
        let mut output = OutBuffer::around_pos(&mut inflated[..], start);
        let hint = decoder.run(&mut input, &mut output).map_err(failed)?;
        let end = output.pos();
        inflated.truncate(end);
        if end > limit {
            return Err(FormatError::TooLarge { limit });
        }
        if hint == 0 {
            return Ok((inflated, input.pos()));
        }
        if input.pos() == data.len() && end - start < STEP {
            return Err(FormatError::Truncated {
                what: "a zstd frame",
                needed: data.len() + hint,
                available: data.len(),
            });
        }
    }
}
