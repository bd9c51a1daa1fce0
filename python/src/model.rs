//! The class `Model`.

use crate::arrays;
use crate::errors::{Failure, named, raised, raised_at};
use crate::generate_many::{Requests, generate_many};
use crate::generation::{Ends, Generation, Text};
use crate::score::{self, Score};
use crate::session::Session;
use crate::settings;
use crate::signals::Signals;
use numpy::{IntoPyArray, PyArray1, PyArray2};
use olmo_infer::chat::{Message, Role};
use olmo_infer::{self as library, Error, Evaluated, Options, Run, Sampling, SamplingWishes, Vocabulary};
use pyo3::exceptions::{PyKeyError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyMapping, PyString};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

/// Positions of a session by default, or those of the model if they are fewer.
const SESSION_POSITIONS: usize = 4096;

/// A model file and the threads that compute with it.
#[pyclass(frozen, module = "olmo_infer")]
pub struct Model {
    model: library::Model,
    /// Copied for the first text.
    text: OnceLock<TextParts>,
}

/// What turns ids into text.
#[derive(Clone)]
struct TextParts {
    vocabulary: Vocabulary,
    /// Ids of special tokens, which are not shown.
    special: Arc<[u32]>,
}

impl Model {
    /// The model of the library.
    pub fn handle(&self) -> &library::Model {
        &self.model
    }

    /// The result of a call, unless the model file changed meanwhile.
    pub fn unchanged<T>(model: &library::Model, result: Result<T, Failure>) -> Result<T, Failure> {
        // A changed file is where numbers that are not finite come from.
        if matches!(result, Ok(_) | Err(Failure::Olmo(Error::NotFinite { .. }))) {
            model.check_unchanged()?;
        }
        result
    }

    fn text_parts(&self) -> Result<TextParts, Error> {
        if let Some(parts) = self.text.get() {
            return Ok(parts.clone());
        }
        let none = || Error::NoVocabulary { path: self.model.path().to_path_buf() };
        let vocabulary = self.model.vocabulary()?.ok_or_else(none)?;
        let special = match self.model.special_ids() {
            Ok(special) => special,
            // Without a tokenizer that can be used there are no special tokens.
            Err(Error::NoTokenizer { .. } | Error::UnusableTokenizer { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(self.text.get_or_init(|| TextParts { vocabulary, special: special.into() }).clone())
    }

    /// The ids of a prompt: a text, or ids.
    fn prompt_ids(&self, prompt: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
        match prompt.cast::<PyString>() {
            Ok(text) => self.encoded(text.py(), text.to_str()?),
            Err(_) => arrays::ids(prompt, ""),
        }
    }

    fn encoded(&self, py: Python<'_>, text: &str) -> PyResult<Vec<u32>> {
        py.detach(|| self.model.encode(text)).map_err(|error| raised(py, &error))
    }

    /// What shows generated ids.
    pub fn text(&self, py: Python<'_>, stops: Vec<String>) -> PyResult<Text> {
        let parts = py.detach(|| self.text_parts()).map_err(|error| raised(py, &error))?;
        Ok(Text::new(parts.vocabulary, parts.special, &stops))
    }

    /// Evaluates a prompt in a session of its own; the tokens that follow come from the iterator.
    #[expect(clippy::too_many_arguments, reason = "they are the keyword arguments of two methods")]
    fn continued(
        &self,
        py: Python<'_>,
        prompt: Vec<u32>,
        author: Option<Sampling>,
        wishes: SamplingWishes,
        max_tokens: usize,
        stops: Vec<String>,
        as_ids: bool,
        is_chat: bool,
        (chunk, kv, activations): (Option<usize>, &str, &str),
    ) -> PyResult<Generation> {
        let sampling = wishes.sampling(author);
        sampling.check().map_err(|error| raised(py, &error))?;
        let most = self.model.max_positions();
        let positions = prompt.len().saturating_add(max_tokens).min(most);
        if prompt.len() > most {
            let error = Error::TooManyPositions { asked: prompt.len(), most };
            return Err(raised_at(py, &error, "the prompt: "));
        }
        let text = if as_ids && stops.is_empty() { None } else { Some(self.text(py, stops)?) };
        let special = if is_chat { self.text(py, Vec::new())?.special() } else { Arc::from([]) };
        let options = settings::options(positions.max(1), chunk, kv, activations)?;
        let evaluate = || {
            let mut signals = Signals::new();
            let mut session = self.model.session(options)?;
            session.resume_while(&prompt, || signals.proceed())?;
            signals.raised().map_or(Ok(session), |raised| Err(raised.into()))
        };
        let session = py.detach(|| Model::unchanged(&self.model, evaluate()))?;
        let ends = Ends { max_tokens, special };
        Generation::new(py, self.model.clone(), Arc::new(Mutex::new(session)), sampling, text, as_ids, ends)
    }

    /// The hidden states of `ids`, `[positions, hidden_size]` for each of `layers`.
    pub fn hidden_states<'py>(
        &self,
        py: Python<'py>,
        ids: &[u32],
        layers: &[usize],
        options: Options,
    ) -> PyResult<Vec<Bound<'py, PyArray2<f32>>>> {
        let (n_layers, width) = (self.model.n_layers(), self.model.hidden_size());
        if let Some(layer) = layers.iter().find(|&&layer| layer > n_layers) {
            return Err(PyValueError::new_err(format!("layer {layer}, the model has layers 0 to {n_layers}")));
        }
        let room = |_: &usize| arrays::room(py, ids.len().saturating_mul(width));
        let mut found = layers.iter().map(room).collect::<PyResult<Vec<Vec<f32>>>>()?;
        let mut evaluate = || {
            let mut signals = Signals::new();
            let mut session = self.model.session(options)?;
            session.prefill_visiting(ids, |hidden| {
                let wanted = layers.iter().zip(&mut found).filter(|(layer, _)| **layer == hidden.layer);
                wanted.for_each(|(_, found)| found.extend_from_slice(hidden.rows));
                if signals.proceed() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            signals.raised().map_or(Ok(()), |raised| Err(raised.into()))
        };
        py.detach(|| Model::unchanged(&self.model, evaluate()))?;
        found.into_iter().map(|rows| arrays::matrix(py, rows, width)).collect()
    }

    /// The messages of a conversation, from dictionaries with "role" and "content".
    fn messages(given: &Bound<'_, PyAny>) -> PyResult<Vec<Message>> {
        let py = given.py();
        let message = |(index, message): (usize, PyResult<Bound<'_, PyAny>>)| {
            let message = message?;
            let message = message.cast_into::<PyMapping>().map_err(|_| {
                PyTypeError::new_err(format!("message {index} is not a dict with \"role\" and \"content\""))
            })?;
            let text = |key: &str| -> PyResult<String> {
                let value = message.get_item(key);
                let value = value.map_err(|_| PyKeyError::new_err(format!("message {index} has no {key:?}")))?;
                let not_text = |_| PyTypeError::new_err(format!("{key:?} of message {index} is not a str"));
                value.extract().map_err(not_text)
            };
            let (role, content) = (text("role")?, text("content")?);
            // Another key would change what a chat template writes.
            if message.len()? != 2 {
                return Err(PyTypeError::new_err(format!("message {index} has more than \"role\" and \"content\"")));
            }
            let Some(role) = Role::ALL.into_iter().find(|known| known.name() == role) else {
                let found = format!("message {index} has the role {role:?}, expected system, user or assistant");
                return Err(named(py, "MessagesError", found));
            };
            Ok(Message::new(role, content))
        };
        given.try_iter()?.enumerate().map(message).collect()
    }
}

#[pymethods]
impl Model {
    #[new]
    #[pyo3(signature = (path, threads = None, load = "auto"))]
    fn new(py: Python<'_>, path: PathBuf, threads: Option<usize>, load: &str) -> PyResult<Model> {
        let load = settings::load(load)?;
        let open = || {
            let cores = || thread::available_parallelism().map_or(1, usize::from);
            let model = library::Model::open_with(&path, load, threads.filter(|&n| n > 0).unwrap_or_else(cores))?;
            model.check_complete()?;
            Ok(model)
        };
        let model = py.detach(open).map_err(|error: Error| raised(py, &error))?;
        Ok(Model { model, text: OnceLock::new() })
    }

    #[getter]
    fn path(&self) -> PathBuf {
        self.model.path().to_path_buf()
    }

    #[getter]
    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    #[getter]
    fn max_positions(&self) -> usize {
        self.model.max_positions()
    }

    #[getter]
    fn n_layers(&self) -> usize {
        self.model.n_layers()
    }

    #[getter]
    fn hidden_size(&self) -> usize {
        self.model.hidden_size()
    }

    #[getter]
    fn eos_ids<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.model.eos_ids())
    }

    #[getter]
    fn special_ids(&self, py: Python<'_>) -> PyResult<Vec<u32>> {
        py.detach(|| self.model.special_ids()).map_err(|error| raised(py, &error))
    }

    #[getter]
    fn recommended_sampling<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let sampling = self.model.recommended_sampling().map_err(|error| raised(py, &error))?;
        let Some(sampling) = sampling else { return Ok(None) };
        let values = PyDict::new(py);
        values.set_item("temperature", sampling.temperature)?;
        values.set_item("top_k", sampling.top_k)?;
        values.set_item("top_p", sampling.top_p)?;
        values.set_item("min_p", sampling.min_p)?;
        values.set_item("repetition_penalty", sampling.repetition_penalty)?;
        Ok(Some(values))
    }

    fn check_unchanged(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.model.check_unchanged()).map_err(|error| raised(py, &error))
    }

    fn tokenize<'py>(&self, py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyArray1<u32>>> {
        Ok(self.encoded(py, text)?.into_pyarray(py))
    }

    fn detokenize(&self, py: Python<'_>, ids: &Bound<'_, PyAny>) -> PyResult<String> {
        let ids = arrays::ids(ids, "")?;
        py.detach(|| self.model.decode_text(&ids)).map_err(|error| raised(py, &error))
    }

    fn apply_chat_template<'py>(
        &self,
        py: Python<'py>,
        messages: &Bound<'_, PyAny>,
    ) -> PyResult<Bound<'py, PyArray1<u32>>> {
        let text = self.render_chat_template(py, messages)?;
        self.tokenize(py, &text)
    }

    fn render_chat_template(&self, py: Python<'_>, messages: &Bound<'_, PyAny>) -> PyResult<String> {
        let messages = Model::messages(messages)?;
        py.detach(|| self.model.render_messages(&messages)).map_err(|error| raised(py, &error))
    }

    #[pyo3(signature = (
        prompt, *, max_tokens = 256, temperature = None, top_k = None, top_p = None, min_p = None,
        repetition_penalty = None, seed = None, stop = None, as_ids = false, chunk = None, kv = "f32",
        activations = "auto",
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn generate(
        &self,
        prompt: &Bound<'_, PyAny>,
        max_tokens: usize,
        temperature: Option<f64>,
        top_k: Option<usize>,
        top_p: Option<f64>,
        min_p: Option<f64>,
        repetition_penalty: Option<f64>,
        seed: Option<u64>,
        stop: Option<Bound<'_, PyAny>>,
        as_ids: bool,
        chunk: Option<usize>,
        kv: &str,
        activations: &str,
    ) -> PyResult<Generation> {
        let py = prompt.py();
        let wishes = SamplingWishes { temperature, top_k, top_p, min_p, repetition_penalty, seed };
        let (stops, prompt) = (settings::stops(py, stop)?, self.prompt_ids(prompt)?);
        let computing = (chunk, kv, activations);
        self.continued(py, prompt, None, wishes, max_tokens, stops, as_ids, false, computing)
    }

    #[pyo3(signature = (
        messages, *, max_tokens = 256, temperature = None, top_k = None, top_p = None, min_p = None,
        repetition_penalty = None, seed = None, stop = None, as_ids = false, chunk = None, kv = "f32",
        activations = "auto",
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn chat(
        &self,
        messages: &Bound<'_, PyAny>,
        max_tokens: usize,
        temperature: Option<f64>,
        top_k: Option<usize>,
        top_p: Option<f64>,
        min_p: Option<f64>,
        repetition_penalty: Option<f64>,
        seed: Option<u64>,
        stop: Option<Bound<'_, PyAny>>,
        as_ids: bool,
        chunk: Option<usize>,
        kv: &str,
        activations: &str,
    ) -> PyResult<Generation> {
        let py = messages.py();
        let wishes = SamplingWishes { temperature, top_k, top_p, min_p, repetition_penalty, seed };
        let stops = settings::stops(py, stop)?;
        let prompt = self.render_chat_template(py, messages)?;
        let prompt = self.encoded(py, &prompt)?;
        let author = self.model.recommended_sampling().map_err(|error| raised(py, &error))?;
        let computing = (chunk, kv, activations);
        self.continued(py, prompt, author, wishes, max_tokens, stops, as_ids, true, computing)
    }

    #[pyo3(signature = (
        prompts, *, max_tokens = 256, temperature = None, top_k = None, top_p = None, min_p = None,
        repetition_penalty = None, seed = None, stop = None, at_once = None, chunk = None, kv = "f32",
        activations = "auto", progress = None,
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn generate_many(
        &self,
        prompts: &Bound<'_, PyAny>,
        max_tokens: usize,
        temperature: Option<f64>,
        top_k: Option<usize>,
        top_p: Option<f64>,
        min_p: Option<f64>,
        repetition_penalty: Option<f64>,
        seed: Option<u64>,
        stop: Option<Bound<'_, PyAny>>,
        at_once: Option<usize>,
        chunk: Option<usize>,
        kv: &str,
        activations: &str,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Vec<String>> {
        let py = prompts.py();
        let sampling = SamplingWishes { temperature, top_k, top_p, min_p, repetition_penalty, seed }.sampling(None);
        sampling.check().map_err(|error| raised(py, &error))?;
        let stops = settings::stops(py, stop)?;
        let prompts = prompts.try_iter()?.map(|prompt| self.prompt_ids(&prompt?)).collect::<PyResult<Vec<_>>>()?;
        let texts = prompts.iter().map(|_| self.text(py, stops.clone())).collect::<PyResult<Vec<_>>>()?;
        let options = settings::options(self.model.max_positions(), chunk, kv, activations)?;
        let requests = Requests { prompts, max_tokens, sampling, texts };
        generate_many(py, &self.model, requests, (options, at_once), progress.as_ref())
    }

    #[pyo3(signature = (ids, *, last = false, chunk = None, kv = "f32", activations = "auto"))]
    fn logits<'py>(
        &self,
        ids: &Bound<'py, PyAny>,
        last: bool,
        chunk: Option<usize>,
        kv: &str,
        activations: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = ids.py();
        let ids = arrays::ids(ids, "")?;
        let vocab_size = self.model.vocab_size();
        let options = settings::options(ids.len().max(1), chunk, kv, activations)?;
        let n_rows = if last { 1 } else { ids.len() };
        let mut logits = arrays::room(py, n_rows.saturating_mul(vocab_size))?;
        let runs = [Run { visit_prompt: !last, ..Run::new(&ids, ids.len().max(1)) }];
        let mut evaluate = || {
            let mut signals = Signals::new();
            let visit = |evaluated: Evaluated<'_>| {
                logits.extend_from_slice(evaluated.logits);
                signals.check()?;
                Ok::<_, Failure>(ControlFlow::Continue(()))
            };
            self.model.generate(&runs, options, None, visit)
        };
        py.detach(|| Model::unchanged(&self.model, evaluate()))?;
        match last {
            true => Ok(logits.into_pyarray(py).into_any()),
            false => Ok(arrays::matrix(py, logits, vocab_size)?.into_any()),
        }
    }

    #[pyo3(signature = (ids, layer, *, chunk = None, kv = "f32", activations = "auto"))]
    fn hidden<'py>(
        &self,
        ids: &Bound<'py, PyAny>,
        layer: &Bound<'py, PyAny>,
        chunk: Option<usize>,
        kv: &str,
        activations: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = ids.py();
        let ids = arrays::ids(ids, "")?;
        let options = settings::options(ids.len().max(1), chunk, kv, activations)?;
        if let Ok(layer) = layer.extract::<usize>() {
            return PyList::new(py, self.hidden_states(py, &ids, &[layer], options)?)?.get_item(0);
        }
        let layers: Vec<usize> = layer.extract()?;
        Ok(PyList::new(py, self.hidden_states(py, &ids, &layers, options)?)?.into_any())
    }

    #[pyo3(signature = (positions = None, *, chunk = None, kv = "f32", activations = "auto"))]
    fn session(
        this: &Bound<'_, Model>,
        positions: Option<usize>,
        chunk: Option<usize>,
        kv: &str,
        activations: &str,
    ) -> PyResult<Session> {
        let (py, model) = (this.py(), &this.get().model);
        let positions = positions.unwrap_or_else(|| model.max_positions().min(SESSION_POSITIONS));
        let options = settings::options(positions, chunk, kv, activations)?;
        let session = py.detach(|| model.session(options)).map_err(|error| raised(py, &error))?;
        Ok(Session::new(this.clone().unbind(), session))
    }

    fn load_session(this: &Bound<'_, Model>, path: PathBuf) -> PyResult<Session> {
        let (py, model) = (this.py(), &this.get().model);
        let session = py.detach(|| model.load_session(&path)).map_err(|error| raised(py, &error))?;
        Ok(Session::new(this.clone().unbind(), session))
    }

    #[pyo3(signature = (items, *, at_once = None, chunk = None, kv = "f32", activations = "auto", progress = None))]
    fn score(
        &self,
        items: &Bound<'_, PyAny>,
        at_once: Option<usize>,
        chunk: Option<usize>,
        kv: &str,
        activations: &str,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Vec<Score>> {
        let options = settings::options(self.model.max_positions(), chunk, kv, activations)?;
        score::score(&self.model, items, options, at_once, progress)
    }

    fn __repr__(&self) -> String {
        format!("Model({:?})", self.model.path())
    }
}
