//! The recorder and its containers.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use passive_dns::counters::Counters;
use passive_dns::error::SettingError;
use passive_dns::frame::FrameSource;
use passive_dns::nmsg;
use passive_dns::recorder::{self, Pause};
use passive_dns::resolvers::Resolvers;
use passive_dns::settings::{Kinds, Settings};
use passive_dns_capture::CaptureError;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::error::Error;
use crate::sources::{DnstapSource, LiveSource, PcapSource, lock};

//------------ Container ---------------------------------------------------------------------------------------

#[pyclass(frozen, get_all, module = "sie_core._native")]
pub struct Container {
    data: Py<PyBytes>,
    transactions: u32,
    first_time: f64,
    last_time: f64,
}

fn to_python(py: Python<'_>, containers: Vec<nmsg::Container>) -> Vec<Container> {
    let one = |container: nmsg::Container| Container {
        data: PyBytes::new(py, &container.octets).unbind(),
        transactions: container.payloads,
        first_time: container.first.as_f64(),
        last_time: container.last.as_f64(),
    };
    containers.into_iter().map(one).collect()
}

//------------ Recorder ----------------------------------------------------------------------------------------

/// A source of any kind.
#[derive(FromPyObject)]
pub enum Source<'py> {
    Pcap(PyRef<'py, PcapSource>),
    Live(PyRef<'py, LiveSource>),
    Dnstap(PyRef<'py, DnstapSource>),
}

#[pyclass(frozen, module = "sie_core._native")]
pub struct Recorder {
    inner: Mutex<recorder::Recorder>,
    at_end: AtomicBool,
    /// The counters as the last call left them, so that asking for them never waits for a pump.
    counters: Mutex<Counters>,
}

/// A number of seconds from Python, at most a century.
fn seconds(name: &'static str, given: f64) -> Result<Duration, SettingError> {
    const MOST: f64 = 3.2e9;
    let wrong = || SettingError::Range {
        name,
        given: given.to_string(),
        least: "0".to_owned(),
        most: format!("{MOST:e} (seconds)"),
    };
    Duration::try_from_secs_f64(given)
        .ok()
        .filter(|duration| duration.as_secs_f64() <= MOST)
        .ok_or_else(wrong)
}

/// The keywords of the constructor and of `reconfigure`.
fn settings(keywords: Option<&Bound<'_, PyDict>>) -> PyResult<Settings> {
    let mut settings = Settings::default();
    for (name, value) in keywords.into_iter().flatten() {
        let name: String = name.extract()?;
        match name.as_str() {
            "query_timeout" => {
                settings.query_timeout = seconds("query_timeout", value.extract()?).map_err(Error::from)?;
            }
            "table_max" => settings.table_max = value.extract()?,
            "types" => {
                settings.kinds = Kinds::parse(&value.extract::<Vec<String>>()?).map_err(Error::from)?;
            }
            "keep_query_packets" => settings.keep_query_packets = value.extract()?,
            "clear_resolver_address" => settings.clear_resolver_address = value.extract()?,
            "keep_edns_options" => settings.keep_edns_options = value.extract()?,
            "local_zones" => settings.local_zones = value.extract()?,
            "suppress_special_use" => settings.suppress_special_use = value.extract()?,
            "exclude_qname_regex" => settings.exclude_qname_regex = value.extract()?,
            "admit_private_responders" => settings.admit_private_responders = value.extract()?,
            "admit_recursion_desired" => settings.admit_recursion_desired = value.extract()?,
            "admit_every_address" => settings.admit_every_address = value.extract()?,
            "source" => settings.envelope.source = value.extract()?,
            "operator" => settings.envelope.operator = value.extract()?,
            "group" => settings.envelope.group = value.extract()?,
            "container_bytes" => settings.container_octets = value.extract()?,
            "flush_interval" => {
                settings.flush_interval = seconds("flush_interval", value.extract()?).map_err(Error::from)?;
            }
            "codec" => settings.codec = value.extract::<String>()?.parse().map_err(Error::from)?,
            _ => return Err(PyTypeError::new_err(format!("unexpected keyword argument '{name}'"))),
        }
    }
    Ok(settings)
}

/// The resolvers listed; without any, no packet enters, and dnstap alone is recorded.
fn parse_resolvers(texts: &[String]) -> Result<Resolvers, SettingError> {
    if texts.is_empty() { Ok(Resolvers::none()) } else { Resolvers::parse(texts) }
}

#[pymethods]
impl Recorder {
    #[new]
    #[pyo3(signature = (resolvers, **keywords))]
    fn new(resolvers: Vec<String>, keywords: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let settings = settings(keywords)?;
        let resolvers = parse_resolvers(&resolvers).map_err(Error::from)?;
        Ok(Recorder {
            inner: Mutex::new(recorder::Recorder::new(resolvers, &settings).map_err(Error::from)?),
            at_end: AtomicBool::new(false),
            counters: Mutex::default(),
        })
    }

    #[pyo3(signature = (resolvers, **keywords))]
    fn reconfigure(
        &self,
        py: Python<'_>,
        resolvers: Vec<String>,
        keywords: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let settings = settings(keywords)?;
        let resolvers = parse_resolvers(&resolvers).map_err(Error::from)?;
        py.detach(|| lock(&self.inner).reconfigure(resolvers, &settings)).map_err(Error::from)?;
        Ok(())
    }

    fn pump(&self, py: Python<'_>, source: Source<'_>, timeout: f64) -> Result<Vec<Container>, Error> {
        let patience = seconds("timeout", timeout)?;
        let containers = match &source {
            Source::Pcap(source) => {
                let source: &PcapSource = source;
                py.detach(|| self.pump_source(&mut *lock(&source.inner), patience))
            }
            Source::Live(source) => {
                let source: &LiveSource = source;
                py.detach(|| match lock(&source.inner).as_mut() {
                    Some(source) => self.pump_source(source, patience),
                    None => Err(CaptureError::Closed),
                })
            }
            Source::Dnstap(source) => {
                let source: &DnstapSource = source;
                py.detach(|| match lock(&source.inner).as_mut() {
                    Some(source) => self.pump_source(source, patience),
                    None => Err(CaptureError::Closed),
                })
            }
        }?;
        Ok(to_python(py, containers))
    }

    #[getter]
    fn at_end(&self) -> bool {
        self.at_end.load(Ordering::Relaxed)
    }

    fn finish(&self, py: Python<'_>) -> Vec<Container> {
        let containers = py.detach(|| {
            let mut recorder = lock(&self.inner);
            let containers = recorder.finish();
            *lock(&self.counters) = recorder.counters();
            containers
        });
        to_python(py, containers)
    }

    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counters = lock(&self.counters).clone();
        let named = PyDict::new(py);
        for (name, value) in counters.named() {
            named.set_item(name, value)?;
        }
        Ok(named)
    }
}

impl Recorder {
    /// Works on the recorder itself, and takes its counters over afterwards.
    pub fn work<T>(&self, work: impl FnOnce(&mut recorder::Recorder) -> T) -> T {
        let mut recorder = lock(&self.inner);
        let result = work(&mut recorder);
        *lock(&self.counters) = recorder.counters();
        result
    }

    fn pump_source<S: FrameSource<Error = CaptureError>>(
        &self,
        source: &mut S,
        patience: Duration,
    ) -> Result<Vec<nmsg::Container>, CaptureError> {
        let mut recorder = lock(&self.inner);
        let pause = recorder.pump(source, patience);
        *lock(&self.counters) = recorder.counters();
        self.at_end.store(matches!(pause, Ok(Pause::End)), Ordering::Relaxed);
        pause?;
        Ok(recorder.take_sealed())
    }
}
