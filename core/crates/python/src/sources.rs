//! Sources of frames.

use std::sync::{Mutex, MutexGuard, PoisonError};

use passive_dns::error::SettingError;
use passive_dns::resolvers::Resolvers;
use passive_dns_capture as capture;
use passive_dns_capture::dnstap;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::Error;

/// The slowest and the fastest pace of a file: a second of it in 17 minutes, and a day of it in 0.1 s.
const SPEED_MIN: f64 = 1e-3;
const SPEED_MAX: f64 = 1e6;

/// Locks; a panic elsewhere while the lock was held is Python's to report there, and no reason to panic here.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[pyclass(frozen, module = "sie_core._native")]
pub struct PcapSource {
    pub inner: Mutex<capture::Paced<capture::PcapSource>>,
}

#[pymethods]
impl PcapSource {
    #[new]
    #[pyo3(signature = (path, *, speed = None))]
    fn new(py: Python<'_>, path: &str, speed: Option<f64>) -> PyResult<Self> {
        if speed.is_some_and(|speed| !(SPEED_MIN..=SPEED_MAX).contains(&speed)) {
            let error = SettingError::Range {
                name: "speed",
                given: format!("{}", speed.unwrap_or_default()),
                least: SPEED_MIN.to_string(),
                most: SPEED_MAX.to_string(),
            };
            return Err(Error::from(error).into());
        }
        // What a signal's handler raises while a pipe says nothing.
        let mut raised = Ok(());
        let opened = py.detach(|| {
            capture::PcapSource::open(path, || {
                raised = Python::attach(|py| py.check_signals());
                raised.is_ok()
            })
        });
        raised?;
        let source = opened.map_err(Error::from)?;
        Ok(PcapSource { inner: Mutex::new(capture::Paced::new(source, speed)) })
    }

    #[getter]
    fn warning(&self, py: Python<'_>) -> Option<String> {
        py.detach(|| lock(&self.inner).source().warning().map(str::to_owned))
    }
}

#[pyclass(frozen, module = "sie_core._native")]
pub struct LiveSource {
    /// None once it is closed.
    pub inner: Mutex<Option<capture::LiveSource>>,
    statuses: capture::Statuses,
}

/// What is said of each interface; every name of `encapsulated` must be one of them.
fn settings_of(
    interfaces: Vec<(String, bool)>,
    encapsulated: Vec<String>,
) -> Result<Vec<capture::InterfaceSettings>, capture::CaptureError> {
    let unknown = encapsulated.iter().find(|name| interfaces.iter().all(|(known, _)| known != *name));
    if let Some(unknown) = unknown {
        return Err(capture::CaptureError::NotAmong { interface: unknown.clone() });
    }
    let one = |(name, promiscuous)| {
        let encapsulated = encapsulated.contains(&name);
        capture::InterfaceSettings { name, promiscuous, encapsulated }
    };
    Ok(interfaces.into_iter().map(one).collect())
}

#[pymethods]
impl LiveSource {
    #[new]
    #[pyo3(signature = (interfaces, resolvers, *, ring_bytes = 16_777_216, encapsulated = Vec::new()))]
    fn new(
        py: Python<'_>,
        interfaces: Vec<(String, bool)>,
        resolvers: Vec<String>,
        ring_bytes: usize,
        encapsulated: Vec<String>,
    ) -> Result<Self, Error> {
        let resolvers = Resolvers::parse(&resolvers)?;
        let interfaces = settings_of(interfaces, encapsulated)?;
        let source = py.detach(|| capture::LiveSource::open(&interfaces, &resolvers, ring_bytes))?;
        let statuses = source.statuses();
        Ok(LiveSource { inner: Mutex::new(Some(source)), statuses })
    }

    #[staticmethod]
    fn check_system() -> Result<(), Error> {
        Ok(capture::LiveSource::check_system()?)
    }

    fn status<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        // While a pump holds the source, its drops are as of the last time that none did.
        if let Ok(mut guard) = self.inner.try_lock()
            && let Some(source) = guard.as_mut()
        {
            source.update_drops();
        }
        let one = |status: capture::InterfaceStatus| {
            let dict = PyDict::new(py);
            dict.set_item("interface", status.interface)?;
            dict.set_item("up", status.up)?;
            dict.set_item("failures", status.failures)?;
            dict.set_item("kernel_drops", status.kernel_drops)?;
            dict.set_item("last_error", status.last_error)?;
            Ok(dict)
        };
        self.statuses.get().into_iter().map(one).collect()
    }

    fn set_resolvers(&self, py: Python<'_>, resolvers: Vec<String>) -> Result<(), Error> {
        let resolvers = Resolvers::parse(&resolvers)?;
        py.detach(|| match lock(&self.inner).as_mut() {
            Some(source) => source.set_resolvers(&resolvers),
            None => Err(capture::CaptureError::Closed),
        })?;
        Ok(())
    }

    fn drain(&self, py: Python<'_>) {
        py.detach(|| {
            if let Some(source) = lock(&self.inner).as_mut() {
                source.drain();
            }
        });
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| {
            if let Some(source) = lock(&self.inner).take() {
                source.close();
            }
        });
    }
}

#[pyclass(frozen, module = "sie_core._native")]
pub struct DnstapSource {
    /// None once it is closed.
    pub inner: Mutex<Option<dnstap::DnstapSource>>,
    reports: dnstap::Reports,
}

#[pymethods]
impl DnstapSource {
    #[new]
    fn new() -> Self {
        let source = dnstap::DnstapSource::new(dnstap::PATIENCE);
        let reports = source.reports();
        DnstapSource { inner: Mutex::new(Some(source)), reports }
    }

    #[pyo3(signature = (endpoint, *, mode = 0o660, group = None, senders = None))]
    fn listen(
        &self,
        py: Python<'_>,
        endpoint: &str,
        mode: u32,
        group: Option<u32>,
        senders: Option<Vec<String>>,
    ) -> Result<Option<u16>, Error> {
        let senders = senders.map(|senders| Resolvers::parse(&senders)).transpose()?;
        let access = dnstap::Access { mode, group, senders };
        let port = py.detach(|| match lock(&self.inner).as_mut() {
            Some(source) => source.listen(endpoint, access),
            None => Err(capture::CaptureError::Closed),
        })?;
        Ok(port)
    }

    fn drain(&self, py: Python<'_>) {
        py.detach(|| {
            if let Some(source) = lock(&self.inner).as_mut() {
                source.drain();
            }
        });
    }

    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let report = self.reports.latest();
        let peers = report.peers.iter().map(|peer| {
            let named = PyDict::new(py);
            named.set_item("endpoint", &peer.endpoint)?;
            named.set_item("peer", &peer.peer)?;
            named.set_item("version", &peer.version)?;
            named.set_item("frames", peer.frames)?;
            named.set_item("resolver", peer.resolver)?;
            Ok(named)
        });
        let status = PyDict::new(py);
        status.set_item("connections", peers.collect::<PyResult<Vec<_>>>()?)?;
        status.set_item("last_refusal", &report.last_refusal)?;
        for (name, value) in report.counters() {
            status.set_item(name, value)?;
        }
        Ok(status)
    }

    fn take_notices(&self) -> Vec<(bool, String)> {
        let notices = self.reports.take_notices();
        notices.into_iter().map(|notice| (notice.trouble, notice.sentence)).collect()
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| drop(lock(&self.inner).take()));
    }
}
