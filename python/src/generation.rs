//! The class `Generation`: an iterator of what a model generates.

use crate::errors::{Failure, named, raised};
use crate::model::Model;
use numpy::PyArray1;
use olmo_infer::{self as library, Chooser, Sampling, Session, TextStream, Vocabulary};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

/// Shows ids as text, in whole characters, up to a stop text.
pub struct Text {
    vocabulary: Vocabulary,
    /// Ids that are not shown.
    special: Arc<[u32]>,
    /// Those of them that a stop text names.
    stops: Vec<u32>,
    stream: TextStream,
}

impl Text {
    /// Text that ends before the first of `stops`, of which none is empty.
    pub fn new(vocabulary: Vocabulary, special: Arc<[u32]>, stops: &[String]) -> Text {
        let is_stop = |id: &u32| stops.iter().any(|stop| vocabulary.bytes(*id) == Some(stop.as_bytes()));
        let stop_ids = special.iter().copied().filter(is_stop).collect();
        Text { vocabulary, special, stops: stop_ids, stream: TextStream::new(stops) }
    }

    /// The ids that are not shown.
    pub fn special(&self) -> Arc<[u32]> {
        self.special.clone()
    }

    /// Appends what a token shows; true where a stop text ends it.
    pub fn push(&mut self, token: u32, shown: &mut Vec<u8>) -> bool {
        if self.stops.contains(&token) {
            return true;
        }
        let is_shown = !self.special.contains(&token);
        let bytes = self.vocabulary.bytes(token).filter(|_| is_shown).unwrap_or_default();
        self.stream.push(bytes, shown)
    }

    /// Appends what a stop text could still have begun with, at the end.
    pub fn finish(&mut self, shown: &mut Vec<u8>) {
        self.stream.finish(shown);
    }
}

/// Where a generation ends, besides EOS ids and stop texts.
pub struct Ends {
    /// Most tokens.
    pub max_tokens: usize,
    /// Ids that end it: those of special tokens, in an answer.
    pub special: Arc<[u32]>,
}

/// Why a generation ended.
#[derive(Clone, Copy)]
enum End {
    /// At an id that ends it.
    Eos,
    /// Before a stop text.
    Stop,
    /// At the requested number of tokens, or at the last position.
    Length,
}

/// An iterator of what a model generates.
#[pyclass(frozen, generic, module = "olmo_infer")]
pub struct Generation {
    model: library::Model,
    session: Arc<Mutex<Session>>,
    sampling: Sampling,
    as_ids: bool,
    ends: Ends,
    state: Mutex<State>,
}

struct State {
    chooser: Chooser,
    text: Option<Text>,
    /// What was generated.
    ids: Vec<u32>,
    /// Length of the sequence after the last of them.
    position: usize,
    end: Option<End>,
    /// Ended by an error.
    failed: bool,
}

/// What a step yields: text, and a token if there was one.
struct Step {
    token: Option<u32>,
    shown: Vec<u8>,
}

/// The lock of something that only one thread uses at a time.
///
/// # Errors
/// `NotRun` when another thread uses it.
pub fn used<'a, T>(what: &str, lock: &'a Mutex<T>) -> Result<MutexGuard<'a, T>, Failure> {
    match lock.try_lock() {
        Ok(guard) => Ok(guard),
        // A panic of another call has ended its own thread of work; the library keeps its state whole.
        Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => {
            let text = format!("the {what} is in use by another thread; give each thread one of its own");
            Err(Failure::Python(Python::attach(|py| named(py, "NotRun", text))))
        }
    }
}

impl Generation {
    /// What follows the sequence of `session`.
    pub fn new(
        py: Python<'_>,
        model: library::Model,
        session: Arc<Mutex<Session>>,
        sampling: Sampling,
        text: Option<Text>,
        as_ids: bool,
        ends: Ends,
    ) -> PyResult<Generation> {
        let (chooser, position) = {
            let session = used("session", &session)?;
            (session.chooser(sampling).map_err(|error| raised(py, &error))?, session.position())
        };
        let state = State { chooser, text, ids: Vec::new(), position, end: None, failed: false };
        Ok(Generation { model, session, sampling, as_ids, ends, state: Mutex::new(state) })
    }

    /// One token, or the end.
    fn step(&self, state: &mut State) -> Result<Step, Failure> {
        let mut step = Step { token: None, shown: Vec::new() };
        let next = if state.ids.len() >= self.ends.max_tokens { None } else { self.next_token(state)? };
        match next {
            None => state.end = state.end.or(Some(End::Length)),
            Some(token) if self.ends.special.contains(&token) => state.end = Some(End::Eos),
            Some(token) => {
                state.ids.push(token);
                step.token = Some(token);
                if state.text.as_mut().is_some_and(|text| text.push(token, &mut step.shown)) {
                    state.end = Some(End::Stop);
                }
            }
        }
        if let (Some(_), Some(text)) = (state.end, &mut state.text) {
            text.finish(&mut step.shown);
        }
        Ok(step)
    }

    fn next_token(&self, state: &mut State) -> Result<Option<u32>, Failure> {
        let mut session = used("session", &self.session)?;
        if session.position() != state.position {
            let text = "the sequence was changed by another call; generate again";
            return Err(Failure::Python(Python::attach(|py| named(py, "NotRun", text.into()))));
        }
        let is_full = session.left() == 0;
        let token = session.generate_next(&mut state.chooser)?;
        state.position = session.position();
        if token.is_none() {
            state.end = Some(if is_full { End::Length } else { End::Eos });
        }
        Ok(token)
    }
}

#[pymethods]
impl Generation {
    fn __iter__(this: Py<Generation>) -> Py<Generation> {
        this
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let mut state = used("generation", &self.state)?;
        let state = &mut *state;
        loop {
            if state.end.is_some() || state.failed {
                return Ok(None);
            }
            let step = py.detach(|| Model::unchanged(&self.model, self.step(state)));
            let Step { token, shown } = step.inspect_err(|_| state.failed = true)?;
            match token {
                Some(token) if self.as_ids => return Ok(Some(token.into_py_any(py)?)),
                _ if self.as_ids || shown.is_empty() => {}
                // A stream shows whole characters.
                _ => return Ok(Some(String::from_utf8_lossy(&shown).into_py_any(py)?)),
            }
            py.check_signals()?;
        }
    }

    #[getter]
    fn ids<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<u32>>> {
        Ok(PyArray1::from_slice(py, &used("generation", &self.state)?.ids))
    }

    #[getter]
    fn end(&self) -> PyResult<Option<&'static str>> {
        Ok(used("generation", &self.state)?.end.map(|end| match end {
            End::Eos => "eos",
            End::Stop => "stop",
            End::Length => "length",
        }))
    }

    #[getter]
    fn seed(&self) -> Option<u64> {
        (self.sampling.temperature > 0.0).then_some(self.sampling.seed)
    }

    fn __repr__(&self) -> String {
        format!("Generation({:?})", self.model.path())
    }
}
