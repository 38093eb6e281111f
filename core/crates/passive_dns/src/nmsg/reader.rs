//! Reading containers: plain, zlib or inside zstd frames, concatenated.

use std::borrow::Cow;
use std::ops::Range;

use crate::error::FormatError;
use crate::limits::PAYLOADS_MAX;
use crate::nmsg::codec::{ZSTD_MAGIC, inflate_zlib, inflate_zstd};
use crate::nmsg::protobuf::{Fields, Value};
use crate::nmsg::{
    FLAG_FRAGMENT, FLAG_ZLIB, HEADER_OCTETS, MAGIC, Schema, VERSION, container, payload, payload_crc,
};

//------------ Archive -----------------------------------------------------------------------------------------

/// Containers, inflated.
#[derive(Debug)]
pub struct Archive<'a> {
    /// The octets given, and what was inflated out of them.
    sheets: Vec<Cow<'a, [u8]>>,
    /// The serialized `Nmsg` of each container: which sheet has it, and where.
    bodies: Vec<(usize, Range<usize>)>,
    limit: usize,
    /// What is left of the limit.
    room: usize,
}

impl<'a> Archive<'a> {
    /// Finds the containers that `data` consists of, and inflates them to `limit` octets in all at most.
    pub fn open(data: &'a [u8], limit: usize) -> Result<Self, FormatError> {
        let mut archive =
            Archive { sheets: vec![Cow::Borrowed(data)], bodies: Vec::new(), limit, room: limit };
        archive.unpack(0, true)?;
        Ok(archive)
    }

    /// The payloads of all containers, in order.
    pub fn payloads(&self) -> Result<Vec<Payload<'_>>, FormatError> {
        let mut payloads = Vec::new();
        for (sheet, range) in &self.bodies {
            read_nmsg(&self.sheets[*sheet][range.clone()], &mut payloads)?;
        }
        Ok(payloads)
    }

    /// Finds the containers of one sheet; zstd frames are looked for in the `outermost` one only.
    fn unpack(&mut self, sheet: usize, outermost: bool) -> Result<(), FormatError> {
        let mut at = 0;
        while at < self.sheets[sheet].len() {
            let rest = &self.sheets[sheet][at..];
            if outermost && rest.starts_with(&ZSTD_MAGIC) {
                let (inflated, taken) =
                    inflate_zstd(rest, self.room).map_err(|error| self.whole_limit(error))?;
                at += taken;
                let inner = self.add_sheet(inflated);
                self.unpack(inner, false)?;
                continue;
            }
            let (compressed, octets) = read_header(rest, at)?;
            let body = at + HEADER_OCTETS..at + HEADER_OCTETS + octets;
            at = body.end;
            if compressed {
                let stream = &self.sheets[sheet][body];
                let inflated = inflate_zlib(stream, self.room).map_err(|error| self.whole_limit(error))?;
                let range = 0..inflated.len();
                let inner = self.add_sheet(inflated);
                self.bodies.push((inner, range));
            } else {
                self.bodies.push((sheet, body));
            }
        }
        Ok(())
    }

    fn add_sheet(&mut self, inflated: Vec<u8>) -> usize {
        self.room -= inflated.len();
        self.sheets.push(Cow::Owned(inflated));
        self.sheets.len() - 1
    }

    /// Names the limit that was given, not what earlier containers have left of it.
    fn whole_limit(&self, error: FormatError) -> FormatError {
        match error {
            FormatError::TooLarge { .. } => FormatError::TooLarge { limit: self.limit },
            other => other,
        }
    }
}

/// Reads a container's header: whether its body is compressed, and how long that is.
fn read_header(container: &[u8], offset: usize) -> Result<(bool, usize), FormatError> {
    let magic = &container[..container.len().min(MAGIC.len())];
    if *magic != MAGIC[..magic.len()] {
        return Err(FormatError::Magic { offset });
    }
    let what = "an NMSG container";
    let available = container.len();
    let Some(header) = container.first_chunk::<HEADER_OCTETS>() else {
        return Err(FormatError::Truncated { what, needed: HEADER_OCTETS, available });
    };
    let [.., flags, version, a, b, c, d] = *header;
    if version != VERSION {
        return Err(FormatError::Version(version));
    }
    if flags & FLAG_FRAGMENT != 0 {
        return Err(FormatError::Fragmented);
    }
    if flags & !FLAG_ZLIB != 0 {
        return Err(FormatError::Flags(flags));
    }
    let octets = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    match HEADER_OCTETS.saturating_add(octets) {
        needed if needed > available => Err(FormatError::Truncated { what, needed, available }),
        _ => Ok((flags & FLAG_ZLIB != 0, octets)),
    }
}

//------------ Payload -----------------------------------------------------------------------------------------

/// One payload of a container.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    pub schema: Schema,
    pub seconds: i64,
    pub nanoseconds: u32,
    /// Zero if unset, as are operator and group.
    pub source: u32,
    pub operator: u32,
    pub group: u32,
    pub message: &'a [u8],
    /// False if a CRC is there and wrong.
    pub intact: bool,
}

/// Appends the payloads of a serialized `Nmsg`.
fn read_nmsg<'a>(body: &'a [u8], payloads: &mut Vec<Payload<'a>>) -> Result<(), FormatError> {
    let first = payloads.len();
    let mut crcs = Vec::new();
    let mut fields = Fields::new(body);
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (container::PAYLOADS, value) => payloads.push(Payload::read(value.as_octets()?)?),
            // Packed repeated fields come as octets; readers of protobuf must take either form.
            (container::PAYLOAD_CRCS, Value::Octets(packed)) => {
                let mut packed = Fields::new(packed);
                while !packed.is_empty() {
                    crcs.push(packed.varint()? as u32);
                }
            }
            (container::PAYLOAD_CRCS, value) => crcs.push(value.as_u32()?),
            (container::SEQUENCE | container::SEQUENCE_ID, value) => {
                value.as_u64()?;
            }
            _ => {}
        }
        if payloads.len() - first > PAYLOADS_MAX || crcs.len() > PAYLOADS_MAX {
            return Err(FormatError::Payloads { limit: PAYLOADS_MAX });
        }
    }
    for (payload, crc) in payloads[first..].iter_mut().zip(crcs) {
        payload.intact = payload_crc(payload.message) == crc;
    }
    Ok(())
}

impl<'a> Payload<'a> {
    fn read(octets: &'a [u8]) -> Result<Self, FormatError> {
        let (mut vid, mut msgtype, mut seconds, mut nanoseconds) = (None, None, None, None);
        let mut payload = Payload {
            schema: (0, 0),
            seconds: 0,
            nanoseconds: 0,
            source: 0,
            operator: 0,
            group: 0,
            message: &[],
            intact: true,
        };
        let mut fields = Fields::new(octets);
        while let Some((field, value)) = fields.next()? {
            match field {
                payload::VID => vid = Some(value.as_u32()?),
                payload::MSGTYPE => msgtype = Some(value.as_u32()?),
                payload::TIME_SEC => seconds = Some(value.as_i64()?),
                payload::TIME_NSEC => nanoseconds = Some(value.as_fixed32()?),
                payload::PAYLOAD => payload.message = value.as_octets()?,
                payload::SOURCE => payload.source = value.as_u32()?,
                payload::OPERATOR => payload.operator = value.as_u32()?,
                payload::GROUP => payload.group = value.as_u32()?,
                _ => {}
            }
        }
        let missing = |field| FormatError::Missing { message: "NmsgPayload", field };
        payload.schema = (vid.ok_or(missing("vid"))?, msgtype.ok_or(missing("msgtype"))?);
        payload.seconds = seconds.ok_or(missing("time_sec"))?;
        payload.nanoseconds = nanoseconds.ok_or(missing("time_nsec"))?;
        Ok(payload)
    }
}
