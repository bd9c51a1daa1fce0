//! The class `Session`.

use crate::arrays;
use crate::errors::{Failure, raised};
use crate::generation::{Ends, Generation, used};
use crate::model::Model;
use crate::settings;
use crate::signals::Signals;
use numpy::{IntoPyArray, PyArray1, PyArray2};
use olmo_infer::{self as library, Error, Options, SamplingWishes};
use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// A sequence with its KV cache.
#[pyclass(frozen, module = "olmo_infer")]
pub struct Session {
    model: Py<Model>,
    session: Arc<Mutex<library::Session>>,
}

impl Session {
    /// A session of `model`.
    pub fn new(model: Py<Model>, session: library::Session) -> Session {
        Session { model, session: Arc::new(Mutex::new(session)) }
    }

    fn handle(&self) -> &library::Model {
        self.model.get().handle()
    }

    /// Runs `call` without the GIL, and checks that the model file has not changed.
    fn run<T: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&mut library::Session) -> Result<T, Failure> + Send,
    ) -> PyResult<T> {
        let mut session = used("session", &self.session)?;
        let session = &mut *session;
        Ok(py.detach(|| Model::unchanged(self.handle(), call(session)))?)
    }

    /// Appends and evaluates tokens. A signal leaves the sequence as it was.
    fn prefilled(&self, py: Python<'_>, ids: &[u32]) -> PyResult<Vec<f32>> {
        let mut logits = arrays::room(py, self.handle().vocab_size())?;
        self.run(py, |session| {
            let before = session.position();
            if ids.is_empty() {
                return Err(Error::NoTokens.into());
            }
            if ids.len() > session.left() {
                let (left, positions) = (session.left(), session.options().positions);
                return Err(Error::ContextFull { tokens: ids.len(), left, positions }.into());
            }
            let all = [session.tokens(), ids].concat();
            let mut signals = Signals::new();
            let resumed = session.resume_while(&all, || signals.proceed());
            if let Some(raised) = signals.raised() {
                session.truncate(before);
                return Err(raised.into());
            }
            resumed?;
            logits.extend_from_slice(session.logits());
            Ok(logits)
        })
    }
}

#[pymethods]
impl Session {
    fn prefill<'py>(&self, py: Python<'py>, ids: &Bound<'_, PyAny>) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let ids = arrays::ids(ids, "")?;
        Ok(self.prefilled(py, &ids)?.into_pyarray(py))
    }

    fn decode<'py>(&self, py: Python<'py>, id: u32) -> PyResult<Bound<'py, PyArray1<f32>>> {
        Ok(self.prefilled(py, &[id])?.into_pyarray(py))
    }

    fn truncate(&self, n: usize) -> PyResult<()> {
        used("session", &self.session)?.truncate(n);
        Ok(())
    }

    #[getter]
    fn logits<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyArray1<f32>>>> {
        let session = used("session", &self.session)?;
        let logits = session.logits();
        Ok((!logits.is_empty()).then(|| PyArray1::from_slice(py, logits)))
    }

    #[getter]
    fn tokens<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<u32>>> {
        Ok(PyArray1::from_slice(py, used("session", &self.session)?.tokens()))
    }

    #[getter]
    fn position(&self) -> PyResult<usize> {
        Ok(used("session", &self.session)?.position())
    }

    #[getter]
    fn positions(&self) -> PyResult<usize> {
        Ok(used("session", &self.session)?.options().positions)
    }

    #[getter]
    fn model(&self, py: Python<'_>) -> Py<Model> {
        self.model.clone_ref(py)
    }

    fn fork(&self, py: Python<'_>) -> PyResult<Session> {
        let fork = self.run(py, |session| Ok(session.fork()?))?;
        Ok(Session::new(self.model.clone_ref(py), fork))
    }

    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        self.run(py, |session| Ok(session.save(&path)?))
    }

    fn hidden<'py>(&self, py: Python<'py>, layer: usize) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let (ids, options) = {
            let session = used("session", &self.session)?;
            let positions = session.position().max(1);
            (session.tokens().to_vec(), Options { positions, ..*session.options() })
        };
        let hidden = self.model.get().hidden_states(py, &ids, &[layer], options)?;
        hidden.into_iter().next().ok_or_else(|| raised(py, &Error::NothingEvaluated))
    }

    #[pyo3(signature = (
        *, max_tokens = 256, temperature = None, top_k = None, top_p = None, min_p = None,
        repetition_penalty = None, seed = None, stop = None, as_ids = false,
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn generate(
        &self,
        py: Python<'_>,
        max_tokens: usize,
        temperature: Option<f64>,
        top_k: Option<usize>,
        top_p: Option<f64>,
        min_p: Option<f64>,
        repetition_penalty: Option<f64>,
        seed: Option<u64>,
        stop: Option<Bound<'_, PyAny>>,
        as_ids: bool,
    ) -> PyResult<Generation> {
        let wishes = SamplingWishes { temperature, top_k, top_p, min_p, repetition_penalty, seed };
        let stops = settings::stops(py, stop)?;
        let model = self.model.get();
        let text = if as_ids && stops.is_empty() { None } else { Some(model.text(py, stops)?) };
        let ends = Ends { max_tokens, special: Arc::from([]) };
        Generation::new(py, self.handle().clone(), self.session.clone(), wishes.sampling(None), text, as_ids, ends)
    }

    fn __len__(&self) -> PyResult<usize> {
        self.position()
    }

    fn __repr__(&self) -> PyResult<String> {
        let session = used("session", &self.session)?;
        Ok(format!("Session({} of {} positions)", session.position(), session.options().positions))
    }
}
