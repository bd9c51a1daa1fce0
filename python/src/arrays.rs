//! Token ids from Python, and arrays of numpy from results.

use crate::errors::named;
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1};
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

/// Token ids: an array of numpy, a list, or what numpy makes an array of integers of.
///
/// # Errors
/// TypeError for something else; TokenError for a number that is not a u32. `place` precedes the text.
pub fn ids(given: &Bound<'_, PyAny>, place: &str) -> PyResult<Vec<u32>> {
    if let Ok(array) = given.extract::<PyReadonlyArray1<'_, u32>>() {
        return copied(given.py(), &array);
    }
    let py = given.py();
    let refused = |found: &str| {
        Err(PyTypeError::new_err(format!("{place}token ids are {found}, expected a list or an array of integers")))
    };
    if given.is_instance_of::<PyString>() {
        return refused("a text");
    }
    let numpy = py.import(intern!(py, "numpy"))?;
    let array = numpy.call_method1(intern!(py, "asarray"), (given,))?;
    if array.getattr(intern!(py, "ndim"))?.extract::<usize>()? != 1 {
        return refused("not a sequence");
    }
    if array.len()? == 0 {
        return Ok(Vec::new());
    }
    let kind: String = array.getattr(intern!(py, "dtype"))?.getattr(intern!(py, "kind"))?.extract()?;
    if kind != "i" && kind != "u" {
        return refused("not integers");
    }
    for extreme in ["min", "max"] {
        let number = array.call_method0(extreme)?;
        if number.extract::<u32>().is_err() {
            return Err(named(
                py,
                "TokenError",
                format!("{place}{number} is not a token id, expected 0 to {}", u32::MAX),
            ));
        }
    }
    let array = array.call_method1(intern!(py, "astype"), (intern!(py, "uint32"),))?;
    let array = array.extract::<PyReadonlyArray1<'_, u32>>()?;
    copied(py, &array)
}

fn copied(py: Python<'_>, array: &PyReadonlyArray1<'_, u32>) -> PyResult<Vec<u32>> {
    let array = array.as_array();
    let mut ids = room(py, array.len())?;
    ids.extend(array.iter());
    Ok(ids)
}

/// An empty vector with room for `n` elements of a result.
///
/// # Errors
/// OutOfMemory.
pub fn room<T>(py: Python<'_>, n: usize) -> PyResult<Vec<T>> {
    let mut room = Vec::new();
    let bytes = n.saturating_mul(size_of::<T>());
    let no_room = |_| named(py, "OutOfMemory", format!("out of memory: cannot allocate {bytes} bytes for a result"));
    room.try_reserve_exact(n).map_err(no_room)?;
    Ok(room)
}

/// An item to score: ids, or a tuple of ids and the first token that is scored.
///
/// # Errors
/// Those of [`ids`], TypeError.
pub fn item(given: &Bound<'_, PyAny>, place: &str) -> PyResult<(Vec<u32>, usize)> {
    let pair = given.cast::<PyTuple>().ok().filter(|tuple| tuple.len() == 2);
    let pair = pair.map(|tuple| Ok::<_, PyErr>((tuple.get_item(0)?, tuple.get_item(1)?))).transpose()?;
    match pair {
        // A tuple of two ids is ids.
        Some((tokens, first)) if tokens.extract::<i64>().is_err() => {
            let first = first.extract().map_err(|_| {
                PyTypeError::new_err(format!("{place}the first scored token is {first}, expected a number from 1"))
            })?;
            Ok((ids(&tokens, place)?, first))
        }
        _ => Ok((ids(given, place)?, 1)),
    }
}

/// `[rows, width]`, without a copy.
///
/// # Errors
/// Numpy cannot make the array.
pub fn matrix(py: Python<'_>, numbers: Vec<f32>, width: usize) -> PyResult<Bound<'_, PyArray2<f32>>> {
    let rows = numbers.len() / width;
    PyArray1::from_vec(py, numbers).reshape([rows, width])
}
