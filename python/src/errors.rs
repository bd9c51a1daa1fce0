//! Errors of the library as the exceptions of `olmo_infer.errors`.

use olmo_infer::Error;
use pyo3::PyTypeInfo;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

/// The name of the exception for an error.
fn class_of(error: &Error) -> &'static str {
    match error {
        Error::Io { .. } | Error::NotAFile { .. } | Error::NotOlmo { .. } | Error::Version { .. } => "FileError",
        Error::Map { .. } | Error::AddressSpace { .. } => "FileError",
        Error::Length { .. } | Error::Damaged { .. } | Error::Unfinished { .. } | Error::Config { .. } => {
            "DamagedError"
        }
        Error::Changed { .. } => "ChangedError",
        Error::OutOfMemory { .. } | Error::ModelTooLarge { .. } | Error::ContextTooLarge { .. } => "OutOfMemory",
        Error::NotRun { .. } => "NotRun",
        Error::TooManyPositions { .. } | Error::NoPositions | Error::ContextFull { .. } => "ContextError",
        Error::NoTokens | Error::UnknownToken { .. } | Error::NothingEvaluated => "TokenError",
        Error::Sampling { .. } => "SamplingError",
        Error::NoVocabulary { .. } | Error::NoTokenizer { .. } | Error::NoChatTemplate { .. } => "TextError",
        Error::NoText { .. } | Error::UnusableTokenizer { .. } | Error::UnusableChatTemplate { .. } => "TextError",
        Error::NoEmbedding { .. } | Error::Unencodable { .. } => "TextError",
        Error::Messages { .. } => "MessagesError",
        Error::SavedSession { .. } => "SavedSessionError",
        Error::NotFinite { .. } => "NotFiniteError",
        _ => "Error",
    }
}

/// The exception for an error; `place` precedes its text, as in "item 3: ".
pub fn raised_at(py: Python<'_>, error: &Error, place: &str) -> PyErr {
    named(py, class_of(error), format!("{place}{error}"))
}

/// The exception for an error.
pub fn raised(py: Python<'_>, error: &Error) -> PyErr {
    raised_at(py, error, "")
}

/// The exception `olmo_infer.errors.{class}`.
pub fn named(py: Python<'_>, class: &str, text: String) -> PyErr {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let module = MODULE.get_or_try_init(py, || py.import("olmo_infer.errors").map(Bound::unbind));
    let class = module.and_then(|module| Ok(module.bind(py).getattr(class)?.cast_into::<PyType>()?));
    match class {
        Ok(class) => PyErr::from_type(class, text),
        // The package is incomplete: the text is still right.
        Err(_) => PyErr::from_type(PyRuntimeError::type_object(py), text),
    }
}

/// An error of the library, or an exception of Python: of a callback, or of a signal.
pub enum Failure {
    /// Of the library.
    Olmo(Error),
    /// Of Python.
    Python(PyErr),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Olmo(error)
    }
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Failure {
        Failure::Python(error)
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> PyErr {
        match failure {
            Failure::Olmo(error) => Python::attach(|py| raised(py, &error)),
            Failure::Python(error) => error,
        }
    }
}
