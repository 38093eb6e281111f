//! Sources of frames.

use std::sync::{Mutex, MutexGuard, PoisonError};

use passive_dns::resolvers::Resolvers;
use passive_dns_capture as capture;
use pyo3::prelude::*;

use crate::error::Error;

/// Locks; a panic elsewhere while the lock was held is Python's to report there, and no reason to panic here.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[pyclass(frozen, module = "sie_core._native")]
pub struct PcapSource {
    pub inner: Mutex<capture::PcapSource>,
}

#[pymethods]
impl PcapSource {
    #[new]
    fn new(py: Python<'_>, path: &str) -> Result<Self, Error> {
        let source = py.detach(|| capture::PcapSource::open(path))?;
        Ok(PcapSource { inner: Mutex::new(source) })
    }

    #[getter]
    fn warning(&self, py: Python<'_>) -> Option<String> {
        py.detach(|| lock(&self.inner).warning().map(str::to_owned))
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
