//! What Python sees of `passive-dns` and its sources: conversions, and nothing else.
//!
//! Typed by `python/sie_core/_native.pyi`. Every failure leaves through [`error::Error`]; the interpreter is
//! released wherever octets are worked on.

mod containers;
mod error;
mod explain;
mod names;
mod recorder;
mod sources;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::containers::{DedupeWindow, decode, dedupe_records};
    #[pymodule_export]
    use crate::error::{CaptureError, FormatError, NativeError, WindowFullError};
    #[pymodule_export]
    use crate::explain::explain;
    #[pymodule_export]
    use crate::names::{name_from_text, name_to_text, reverse_name};
    #[pymodule_export]
    use crate::recorder::{Container, Recorder};
    #[pymodule_export]
    use crate::sources::{DnstapSource, LiveSource, PcapSource};

    #[pymodule_export]
    #[expect(non_upper_case_globals, reason = "Python's name for it")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
