//! `Model.score` and the class `Score`.

use crate::arrays;
use crate::errors::{Failure, named, raised, raised_at};
use crate::model::Model;
use crate::signals::Signals;
use numpy::{IntoPyArray, PyArray1};
use olmo_infer::{self as library, Error, Options, ScoreEvent, ScoreItem, TokenScore};
use pyo3::prelude::*;

/// How well the model predicts the tokens of an item.
#[pyclass(frozen, module = "olmo_infer")]
pub struct Score {
    found: Result<Found, PyErr>,
}

struct Found {
    nll: Py<PyArray1<f64>>,
    is_greedy: Py<PyArray1<bool>>,
    sum_nll: f64,
    all_greedy: bool,
}

impl Score {
    fn new(py: Python<'_>, scores: &[TokenScore]) -> PyResult<Score> {
        let mut nll = arrays::room(py, scores.len())?;
        nll.extend(scores.iter().map(|score| score.nll));
        let mut is_greedy = arrays::room(py, scores.len())?;
        is_greedy.extend(scores.iter().map(|score| score.is_greedy));
        // The order of the program's own sums.
        let sum_nll = scores.iter().fold(0.0, |sum, score| sum + score.nll);
        let all_greedy = scores.iter().all(|score| score.is_greedy);
        let (nll, is_greedy) = (nll.into_pyarray(py).unbind(), is_greedy.into_pyarray(py).unbind());
        Ok(Score { found: Ok(Found { nll, is_greedy, sum_nll, all_greedy }) })
    }

    /// What was found, or the error of this item.
    fn found(&self, py: Python<'_>) -> PyResult<&Found> {
        self.found.as_ref().map_err(|error| error.clone_ref(py))
    }
}

#[pymethods]
impl Score {
    #[getter]
    fn nll(&self, py: Python<'_>) -> PyResult<Py<PyArray1<f64>>> {
        Ok(self.found(py)?.nll.clone_ref(py))
    }

    #[getter]
    fn is_greedy(&self, py: Python<'_>) -> PyResult<Py<PyArray1<bool>>> {
        Ok(self.found(py)?.is_greedy.clone_ref(py))
    }

    #[getter]
    fn sum_nll(&self, py: Python<'_>) -> PyResult<f64> {
        Ok(self.found(py)?.sum_nll)
    }

    #[getter]
    fn all_greedy(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.found(py)?.all_greedy)
    }

    #[getter]
    fn error(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.found.as_ref().err().map(|error| error.clone_ref(py).into_value(py).into_any())
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.found(py)?.nll.bind(py).len()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(match &self.found {
            Ok(found) => {
                let n = found.nll.bind(py).len()?;
                format!("Score({n} tokens, sum_nll={}, all_greedy={})", found.sum_nll, python_bool(found.all_greedy))
            }
            Err(error) => format!("Score(error={})", error.value(py).repr()?),
        })
    }
}

fn python_bool(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

/// Refuses tokens that cannot be scored from the token number `first` on.
fn check(model: &library::Model, tokens: &[u32], first: usize) -> Result<(), Error> {
    let (vocab_size, most) = (model.vocab_size(), model.max_positions());
    if tokens.is_empty() {
        return Err(Error::NoTokens);
    }
    // The last token is not evaluated.
    if tokens.len() > first && tokens.len() - 1 > most {
        return Err(Error::TooManyPositions { asked: tokens.len() - 1, most });
    }
    match tokens.iter().find(|&&token| token as usize >= vocab_size) {
        Some(&token) => Err(Error::UnknownToken { token, vocab_size }),
        None => Ok(()),
    }
}

/// The scores of `items`, in their order.
pub fn score(
    model: &library::Model,
    items: &Bound<'_, PyAny>,
    options: Options,
    at_once: Option<usize>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Vec<Score>> {
    let py = items.py();
    let mut given = Vec::new();
    for (index, item) in items.try_iter()?.enumerate() {
        let place = format!("item {index}: ");
        let (tokens, first) = arrays::item(&item?, &place)?;
        if first == 0 {
            let found = "the first scored token is 0, expected at least 1: nothing predicts token 0";
            return Err(named(py, "TokenError", format!("{place}{found}")));
        }
        check(model, &tokens, first).map_err(|error| raised_at(py, &error, &place))?;
        given.push((tokens, first));
    }
    let mut found: Vec<Option<Result<Vec<TokenScore>, Error>>> = arrays::room(py, given.len())?;
    found.resize_with(given.len(), || None);
    let mut items = arrays::room(py, given.len())?;
    items.extend(given.iter().map(|(tokens, first)| ScoreItem { tokens, first: *first }));
    let mut evaluate = || {
        let mut signals = Signals::new();
        let mut n_done = 0;
        model.score(&items, options, at_once, |event| {
            match event {
                ScoreEvent::Scored(index, scores) => {
                    found[index] = Some(scores);
                    n_done += 1;
                }
                ScoreEvent::Pass(n_tokens) => {
                    signals.check()?;
                    if let Some(progress) = &progress {
                        Python::attach(|py| progress.call1(py, (n_tokens, n_done)))?;
                    }
                }
            }
            Ok::<_, Failure>(())
        })
    };
    py.detach(|| Model::unchanged(model, evaluate()))?;
    let score = |(index, found): (usize, Option<Result<Vec<TokenScore>, Error>>)| match found {
        Some(Ok(scores)) => Score::new(py, &scores),
        Some(Err(error)) => Ok(Score { found: Err(raised_at(py, &error, &format!("item {index}: "))) }),
        // The library reports every item, or returns an error.
        None => Err(raised(py, &Error::NothingEvaluated)),
    };
    found.into_iter().enumerate().map(score).collect()
}
