//! What becomes of each packet of a file, for people.

use std::time::Duration;

use passive_dns::exchange::MessageFate;
use passive_dns::frame::{Event, FrameSource, Timestamp};
use passive_dns::outcome::PacketOutcome;
use passive_dns::sight::{DnsSight, Sight, link_name};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::Error;
use crate::recorder::Recorder;
use crate::sources::{PcapSource, lock};

/// How long a pipe that says nothing keeps [`explain`] from what is to be done about a signal.
const PATIENCE: Duration = Duration::from_millis(100);

/// Why [`explain`] returned, in Python's words.
type Explained<'py> = (Vec<Bound<'py, PyDict>>, bool);

/// One packet and what became of it, away from the source that held it.
struct Told {
    time: Timestamp,
    link: String,
    octets: usize,
    sight: Sight,
    packet: PacketOutcome,
    messages: Vec<MessageFate>,
}

/// Up to `limit` packets, and whether the file has ended.
#[pyfunction]
#[pyo3(signature = (recorder, source, limit))]
pub fn explain<'py>(
    py: Python<'py>,
    recorder: &Recorder,
    source: &PcapSource,
    limit: usize,
) -> Result<Explained<'py>, Error> {
    let (told, ended) = py.detach(|| -> Result<_, Error> {
        let mut told = Vec::new();
        let ended = recorder.work(|recorder| {
            let mut source = lock(&source.inner);
            while told.len() < limit {
                match source.next(PATIENCE)? {
                    Event::Frame(frame) => {
                        let sight = Sight::of_frame(&frame);
                        let fate = recorder.record(&frame);
                        told.push(Told {
                            time: frame.time,
                            link: link_name(frame.link),
                            octets: frame.wire_length,
                            sight,
                            packet: fate.packet,
                            messages: fate.messages.to_vec(),
                        });
                        recorder.take_sealed();
                    }
                    // No file has dnstap's frames.
                    Event::Dnstap(_) => {}
                    // A signal's handler gets its chance.
                    Event::Idle | Event::Interrupted => return Ok(false),
                    Event::End => return Ok(true),
                }
            }
            Ok::<bool, Error>(false)
        })?;
        Ok((told, ended))
    })?;
    let rows = told.iter().map(|told| row(py, told)).collect::<PyResult<Vec<_>>>().map_err(Error::Python)?;
    Ok((rows, ended))
}

fn row<'py>(py: Python<'py>, told: &Told) -> PyResult<Bound<'py, PyDict>> {
    let row = PyDict::new(py);
    row.set_item("time", told.time.as_f64())?;
    row.set_item("link", &told.link)?;
    row.set_item("octets", told.octets)?;
    let (source, destination) = told.sight.addresses.unzip();
    row.set_item("source", source.map(|address| address.to_string()))?;
    row.set_item("destination", destination.map(|address| address.to_string()))?;
    let (source_port, destination_port) = told.sight.ports.unzip();
    row.set_item("source_port", source_port)?;
    row.set_item("destination_port", destination_port)?;
    row.set_item("protocol", told.sight.protocol)?;
    row.set_item("fragment", told.sight.fragment)?;
    row.set_item("dns", told.sight.dns.as_ref().map(|dns| dns_row(py, dns)).transpose()?)?;
    row.set_item("packet", told.packet.counter())?;
    let messages = told.messages.iter().map(|fate| {
        let message = PyDict::new(py);
        message.set_item("outcome", fate.outcome.counter())?;
        message.set_item("transaction", fate.kind.map(|kind| kind.name()))?;
        Ok(message)
    });
    row.set_item("messages", messages.collect::<PyResult<Vec<_>>>()?)?;
    Ok(row)
}

fn dns_row<'py>(py: Python<'py>, dns: &DnsSight) -> PyResult<Bound<'py, PyDict>> {
    let row = PyDict::new(py);
    row.set_item("id", dns.id)?;
    row.set_item("response", dns.response)?;
    row.set_item("standard_query", dns.standard_query)?;
    row.set_item("recursion_desired", dns.recursion_desired)?;
    row.set_item("truncated", dns.truncated)?;
    row.set_item("rcode", dns.rcode)?;
    let (name, rrtype) = match &dns.question {
        Some((name, rrtype, _)) => (Some(name), Some(*rrtype)),
        None => (None, None),
    };
    row.set_item("qname", name)?;
    row.set_item("qtype", rrtype)?;
    Ok(row)
}
