//! Domain names.

use std::borrow::Cow;

use passive_dns::dns::name;
use pyo3::prelude::*;

use crate::error::Error;

#[pyfunction]
pub fn name_to_text(wire: &[u8]) -> Result<String, Error> {
    Ok(name::to_text(wire)?)
}

#[pyfunction]
pub fn name_from_text(text: &str) -> Result<Cow<'static, [u8]>, Error> {
    Ok(name::from_text(text)?.into())
}

#[pyfunction]
pub fn reverse_name(wire: &[u8]) -> Result<Cow<'static, [u8]>, Error> {
    Ok(name::reverse(wire)?.into())
}
