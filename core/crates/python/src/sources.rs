//! Sources of frames.

use std::sync::{Mutex, MutexGuard, PoisonError};

use passive_dns::error::SettingError;
use passive_dns::resolvers::Resolvers;
use passive_dns_capture as capture;
use pyo3::prelude::*;

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
    fn new(py: Python<'_>, path: &str, speed: Option<f64>) -> Result<Self, Error> {
        if speed.is_some_and(|speed| !(SPEED_MIN..=SPEED_MAX).contains(&speed)) {
            return Err(SettingError::Range {
                name: "speed",
                given: format!("{}", speed.unwrap_or_default()),
                least: SPEED_MIN.to_string(),
                most: SPEED_MAX.to_string(),
            }
            .into());
        }
        let source = py.detach(|| capture::PcapSource::open(path))?;
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
    drops: capture::Drops,
}

#[pymethods]
impl LiveSource {
    #[new]
    #[pyo3(signature = (interface, resolvers, *, promiscuous = false, ring_bytes = 16_777_216))]
    fn new(
        py: Python<'_>,
        interface: &str,
        resolvers: Vec<String>,
        promiscuous: bool,
        ring_bytes: usize,
    ) -> Result<Self, Error> {
        let resolvers = Resolvers::parse(&resolvers)?;
        let source =
            py.detach(|| capture::LiveSource::open(interface, &resolvers, promiscuous, ring_bytes))?;
        let drops = source.drops();
        Ok(LiveSource { inner: Mutex::new(Some(source)), drops })
    }

    fn kernel_drops(&self) -> Result<u64, Error> {
        // While a pump holds the source it keeps the number fresh itself.
        if let Ok(guard) = self.inner.try_lock()
            && let Some(source) = guard.as_ref()
        {
            source.update_drops()?;
        }
        Ok(self.drops.get())
    }

    fn close(&self, py: Python<'_>) -> Result<(), Error> {
        let source = py.detach(|| lock(&self.inner).take());
        if let Some(source) = source {
            source.update_drops()?;
        }
        Ok(())
    }
}
