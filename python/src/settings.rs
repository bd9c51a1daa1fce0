//! Keyword arguments as options of the library.

use crate::errors::named;
use olmo_infer::{Activations, KvType, Load, Options};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// The way to load of this name.
pub fn load(name: &str) -> PyResult<Load> {
    Load::named(name).ok_or_else(|| unknown("load", name, "\"auto\", \"mmap\" or \"read\""))
}

/// The options of these names, for sequences of `positions` positions.
pub fn options(positions: usize, chunk: Option<usize>, kv: &str, activations: &str) -> PyResult<Options> {
    let kv = KvType::named(kv).ok_or_else(|| unknown("kv", kv, "\"f32\" or \"bf16\""))?;
    let activations = Activations::named(activations)
        .ok_or_else(|| unknown("activations", activations, "\"auto\", \"int16\", \"int8\" or \"f32\""))?;
    let plain = Options::new(positions);
    Ok(Options { chunk: chunk.unwrap_or(plain.chunk), kv, activations, ..plain })
}

fn unknown(argument: &str, found: &str, expected: &str) -> PyErr {
    PyValueError::new_err(format!("{argument} is {found:?}, expected {expected}"))
}

/// Refuses what ends no text.
pub fn stops(py: Python<'_>, stop: Option<Bound<'_, PyAny>>) -> PyResult<Vec<String>> {
    let Some(stop) = stop else { return Ok(Vec::new()) };
    let stops = match stop.extract::<String>() {
        Ok(stop) => vec![stop],
        Err(_) => stop.extract::<Vec<String>>()?,
    };
    if stops.iter().any(String::is_empty) {
        return Err(named(py, "TextError", "a stop text is empty, expected a text".into()));
    }
    Ok(stops)
}
