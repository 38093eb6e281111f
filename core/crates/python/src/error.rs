//! The one way out for failures.

use passive_dns::dedupe::AddError;
use passive_dns::error as core;
use passive_dns_capture as capture;
use pyo3::exceptions::PyException;
use pyo3::{PyErr, create_exception};

create_exception!(sie_core._native, NativeError, PyException, "The root of every failure here.");
create_exception!(sie_core._native, FormatError, NativeError, "Octets that are not what they were given as.");
create_exception!(sie_core._native, CaptureError, NativeError, "An interface or a file cannot be read.");
create_exception!(sie_core._native, WindowFullError, NativeError, "The window must be taken first.");

/// Everything that can fail.
pub enum Error {
    Format(core::FormatError),
    Setting(core::SettingError),
    Capture(capture::CaptureError),
    Add(AddError),
    /// Python itself, making a value.
    Python(PyErr),
}

impl From<core::FormatError> for Error {
    fn from(error: core::FormatError) -> Self {
        Error::Format(error)
    }
}

impl From<core::NameError> for Error {
    fn from(error: core::NameError) -> Self {
        Error::Format(error.into())
    }
}

impl From<core::SettingError> for Error {
    fn from(error: core::SettingError) -> Self {
        Error::Setting(error)
    }
}

impl From<capture::CaptureError> for Error {
    fn from(error: capture::CaptureError) -> Self {
        Error::Capture(error)
    }
}

impl From<AddError> for Error {
    fn from(error: AddError) -> Self {
        Error::Add(error)
    }
}

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        use capture::CaptureError as Capture;
        match error {
            Error::Python(error) => error,
            Error::Format(error) | Error::Add(AddError::Format(error)) => {
                FormatError::new_err(error.to_string())
            }
            Error::Setting(error) | Error::Capture(Capture::Setting(error)) => {
                NativeError::new_err(error.to_string())
            }
            Error::Capture(
                error @ (Capture::RingSize { .. }
                | Capture::NoInterfaces
                | Capture::Repeated { .. }
                | Capture::NotAmong { .. }
                | Capture::Endpoint { .. }),
            ) => NativeError::new_err(error.to_string()),
            Error::Capture(error @ Capture::NotPcap { .. }) => FormatError::new_err(error.to_string()),
            Error::Capture(error) => CaptureError::new_err(error.to_string()),
            Error::Add(error @ AddError::Full { .. }) => WindowFullError::new_err(error.to_string()),
        }
    }
}
