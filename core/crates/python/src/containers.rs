//! Containers read, and windows of observations.

use std::borrow::Cow;
use std::sync::Mutex;

use passive_dns::dedupe::Window;
use passive_dns::dns::name;
use passive_dns::error::FormatError;
use passive_dns::nmsg::dnsdedupe::{self, DnsDedupe, Expiration};
use passive_dns::nmsg::dnsqr::{self, DnsQr};
use passive_dns::nmsg::{Archive, Payload};
use passive_dns::probe::Zone;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::error::Error;
use crate::sources::lock;

//------------ decode ------------------------------------------------------------------------------------------

/// A message of a schema that is read here, or its octets.
enum Message<'a> {
    DnsQr(DnsQr<'a>),
    DnsDedupe(DnsDedupe<'a>),
    Other(&'a [u8]),
}

impl<'a> Message<'a> {
    fn read(payload: &Payload<'a>) -> Result<Self, FormatError> {
        Ok(match payload.schema {
            dnsqr::SCHEMA => Message::DnsQr(DnsQr::read(payload.message)?),
            dnsdedupe::SCHEMA => Message::DnsDedupe(DnsDedupe::read(payload.message)?),
            _ => Message::Other(payload.message),
        })
    }
}

#[pyfunction]
#[pyo3(signature = (data, *, limit = 16_777_216))]
pub fn decode<'py>(py: Python<'py>, data: &[u8], limit: usize) -> PyResult<Bound<'py, PyList>> {
    let archive = py.detach(|| Archive::open(data, limit)).map_err(Error::from)?;
    let intact = || -> Result<Vec<(Payload<'_>, Message<'_>)>, FormatError> {
        let payloads = archive.payloads()?;
        payloads
            .into_iter()
            .filter(|payload| payload.intact)
            .map(|payload| Message::read(&payload).map(|message| (payload, message)))
            .collect()
    };
    let messages = py.detach(intact).map_err(Error::from)?;
    let list = PyList::empty(py);
    for (payload, message) in &messages {
        list.append(payload_dict(py, payload, message)?)?;
    }
    Ok(list)
}

fn payload_dict<'py>(
    py: Python<'py>,
    payload: &Payload<'_>,
    message: &Message<'_>,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("vid", payload.schema.0)?;
    dict.set_item("msgtype", payload.schema.1)?;
    dict.set_item("time", payload.seconds as f64 + f64::from(payload.nanoseconds) / 1e9)?;
    dict.set_item("time_nsec", payload.nanoseconds)?;
    dict.set_item("source", payload.source)?;
    dict.set_item("operator", payload.operator)?;
    dict.set_item("group", payload.group)?;
    dict.set_item(
        "message",
        match message {
            Message::DnsQr(dnsqr) => dnsqr_dict(py, dnsqr)?,
            Message::DnsDedupe(dedupe) => dnsdedupe_dict(py, dedupe)?,
            Message::Other(octets) => Fields::new(py).octets("payload", Some(octets))?.0,
        },
    )?;
    Ok(dict)
}

fn dnsqr_dict<'py>(py: Python<'py>, dnsqr: &DnsQr<'_>) -> PyResult<Bound<'py, PyDict>> {
    let fields = Fields::new(py)
        .enumeration("type", Some(dnsqr.kind), &dnsqr::KINDS)?
        .octets("query_ip", Some(dnsqr.query_ip))?
        .octets("response_ip", Some(dnsqr.response_ip))?
        .value("proto", Some(dnsqr.proto))?
        .value("query_port", Some(dnsqr.query_port))?
        .value("response_port", Some(dnsqr.response_port))?
        .value("id", Some(dnsqr.id))?
        .name("qname", "qname_text", dnsqr.qname)?
        .value("qtype", dnsqr.qtype)?
        .value("qclass", dnsqr.qclass)?
        .value("rcode", dnsqr.rcode)?
        .all_octets("query_packet", &dnsqr.query_packet)?
        .value("query_time_sec", Some(&dnsqr.query_time_sec))?
        .value("query_time_nsec", Some(&dnsqr.query_time_nsec))?
        .all_octets("response_packet", &dnsqr.response_packet)?
        .value("response_time_sec", Some(&dnsqr.response_time_sec))?
        .value("response_time_nsec", Some(&dnsqr.response_time_nsec))?
        .octets("tcp", dnsqr.tcp)?
        .octets("icmp", dnsqr.icmp)?
        .value("timeout", dnsqr.timeout)?
        .enumeration("udp_checksum", dnsqr.udp_checksum, &dnsqr::UDP_CHECKSUMS)?
        .value("resolver_address_zeroed", dnsqr.resolver_address_zeroed)?
        .name("query_zone", "query_zone_text", dnsqr.query_zone)?;
    Ok(fields.0)
}

fn dnsdedupe_dict<'py>(py: Python<'py>, dedupe: &DnsDedupe<'_>) -> PyResult<Bound<'py, PyDict>> {
    let fields = Fields::new(py)
        .enumeration("type", dedupe.kind, &dnsdedupe::KINDS)?
        .value("count", dedupe.count)?
        .value("time_first", dedupe.time_first)?
        .value("time_last", dedupe.time_last)?
        .value("zone_time_first", dedupe.zone_time_first)?
        .value("zone_time_last", dedupe.zone_time_last)?
        .octets("response_ip", dedupe.response_ip)?
        .name("bailiwick", "bailiwick_text", dedupe.bailiwick)?
        .name("rrname", "rrname_text", dedupe.rrname)?
        .value("rrclass", dedupe.rrclass)?
        .value("rrtype", dedupe.rrtype)?
        .value("rrttl", dedupe.rrttl)?
        .all_octets("rdata", &dedupe.rdata)?
        .octets("response", dedupe.response)?;
    Ok(fields.0)
}

/// A dict in the making; what is absent is left out.
struct Fields<'py>(Bound<'py, PyDict>);

impl<'py> Fields<'py> {
    fn new(py: Python<'py>) -> Self {
        Fields(PyDict::new(py))
    }

    fn value<T: IntoPyObject<'py>>(self, name: &str, value: Option<T>) -> PyResult<Self> {
        if let Some(value) = value {
            self.0.set_item(name, value)?;
        }
        Ok(self)
    }

    fn octets(self, name: &str, octets: Option<&[u8]>) -> PyResult<Self> {
        let octets = octets.map(|octets| PyBytes::new(self.0.py(), octets));
        self.value(name, octets)
    }

    fn all_octets(self, name: &str, all: &[&[u8]]) -> PyResult<Self> {
        let all: Vec<_> = all.iter().map(|octets| PyBytes::new(self.0.py(), octets)).collect();
        self.value(name, Some(all))
    }

    /// A domain name and, if it is one, its text.
    fn name(self, name: &str, text: &str, wire: Option<&[u8]>) -> PyResult<Self> {
        let presentation = wire.and_then(|wire| name::to_text(wire).ok());
        self.octets(name, wire)?.value(text, presentation)
    }

    /// A number by its name, or as number if it has none.
    fn enumeration(self, name: &str, number: Option<u32>, names: &[&str]) -> PyResult<Self> {
        match number.and_then(|number| names.get(number as usize)) {
            Some(known) => self.value(name, Some(*known)),
            None => self.value(name, number),
        }
    }
}

//------------ DedupeWindow ------------------------------------------------------------------------------------

#[pyclass(frozen, module = "sie_core._native")]
pub struct DedupeWindow {
    inner: Mutex<Window>,
}

#[pymethods]
impl DedupeWindow {
    #[new]
    #[pyo3(signature = (*, max_entries = 1_000_000, probe_zone = None))]
    fn new(max_entries: usize, probe_zone: Option<&[u8]>) -> Result<Self, Error> {
        let probe_zone = probe_zone.map(Zone::new).transpose()?;
        Ok(DedupeWindow { inner: Mutex::new(Window::new(max_entries, probe_zone)?) })
    }

    #[pyo3(signature = (container, *, limit = 16_777_216))]
    fn add<'py>(&self, py: Python<'py>, container: &[u8], limit: usize) -> PyResult<Bound<'py, PyDict>> {
        let added = py.detach(|| lock(&self.inner).add(container, limit)).map_err(Error::from)?;
        let named = PyDict::new(py);
        for (name, value) in added.named() {
            named.set_item(name, value)?;
        }
        Ok(named)
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        py.detach(|| lock(&self.inner).len())
    }

    #[getter]
    fn octets(&self, py: Python<'_>) -> usize {
        py.detach(|| lock(&self.inner).octets())
    }

    #[getter]
    fn full(&self, py: Python<'_>) -> bool {
        py.detach(|| lock(&self.inner).is_full())
    }

    fn take_probes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let probes = py.detach(|| lock(&self.inner).take_probes());
        PyList::new(
            py,
            probes.into_iter().map(|probe| (probe.nonce, probe.kind, probe.asked, probe.answered)),
        )
    }

    fn take<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let containers = py.detach(|| lock(&self.inner).take());
        PyBytes::new(py, &containers)
    }
}

//------------ dedupe_records ----------------------------------------------------------------------------------

type Record<'a> = (Cow<'a, [u8]>, u16, u16, Cow<'a, [u8]>, Vec<Cow<'a, [u8]>>, u32, u32, u32, u32);

#[pyfunction]
pub fn dedupe_records<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyList>> {
    // What this house wrote is not bounded by what strangers may send, but by what a message of the stream holds.
    const WINDOW_LIMIT: usize = 1 << 30;
    let archive = py.detach(|| Archive::open(data, WINDOW_LIMIT)).map_err(Error::from)?;
    let read = || -> Result<Vec<Expiration<'_>>, FormatError> {
        archive.payloads()?.iter().map(read_expiration).collect()
    };
    let records = py.detach(read).map_err(Error::from)?;
    PyList::new(py, records.into_iter().map(to_tuple))
}

fn read_expiration<'a>(payload: &Payload<'a>) -> Result<Expiration<'a>, FormatError> {
    const MESSAGE: &str = "dnsdedupe";
    if payload.schema != dnsdedupe::SCHEMA {
        return Err(FormatError::Content { message: MESSAGE, reason: "the payload is of another schema" });
    }
    if !payload.intact {
        return Err(FormatError::Content { message: MESSAGE, reason: "the payload's CRC is wrong" });
    }
    Expiration::read(payload.message)
}

fn to_tuple(record: Expiration<'_>) -> Record<'_> {
    (
        record.rrname.into(),
        record.rrtype,
        record.rrclass,
        record.bailiwick.into(),
        record.rdata.into_iter().map(Cow::from).collect(),
        record.count,
        record.time_first,
        record.time_last,
        record.rrttl,
    )
}
