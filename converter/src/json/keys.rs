//! The keys of a JSON object, with errors that name them.

use crate::error::{Problem, shortened};
use serde_json::{Map, Value};
use std::path::Path;

/// Most characters of a value in a message.
const SHOWN_CHARS: usize = 60;

/// The keys of one JSON object; null counts as absent.
pub(crate) struct Keys<'a> {
    pub(crate) path: &'a Path,
    pub(crate) object: &'a Map<String, Value>,
    /// The prefix of keys in messages.
    pub(crate) prefix: &'static str,
}

impl<'a> Keys<'a> {
    /// The value of `key`, if present and not null.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// The error for an invalid value.
    pub(crate) fn bad(&self, key: &str, found: &Value, expected: &str) -> Problem {
        let found = shortened(&found.to_string(), SHOWN_CHARS);
        Problem::new(self.path, format!("{}{key} is {found}", self.prefix)).expected(expected)
    }

    /// The error for a missing key.
    pub(crate) fn missing(&self, key: &str, flag: Option<&str>) -> Problem {
        let problem = Problem::new(self.path, format!("no {}{key}", self.prefix)).expected("the model's value");
        match flag {
            Some(flag) => problem.advice(format!("add it or pass {flag}")),
            None => problem.advice("add it"),
        }
    }

    /// A non-negative integer; 4096.0 counts as one.
    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>, Problem> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let count = whole(value).and_then(|count| usize::try_from(count).ok());
        count.map(Some).ok_or_else(|| self.bad(key, value, "a whole number"))
    }

    pub(crate) fn real(&self, key: &str) -> Result<Option<f64>, Problem> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.bad(key, value, "a number"))
    }

    /// A boolean.
    pub(crate) fn boolean(&self, key: &str) -> Result<Option<bool>, Problem> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.bad(key, value, "true or false"))
    }

    /// A string.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, Problem> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.bad(key, value, "text"))
    }

    /// A token id or a list of them.
    pub(crate) fn ids(&self, key: &str) -> Result<Option<Vec<u32>>, Problem> {
        let id = |value: &Value| token_id(value).ok_or_else(|| self.bad(key, value, "a token id or a list of them"));
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(list)) => list.iter().map(id).collect::<Result<_, _>>().map(Some),
            Some(value) => Ok(Some(vec![id(value)?])),
        }
    }

    /// An object.
    pub(crate) fn keys(&self, key: &str, prefix: &'static str) -> Result<Option<Keys<'a>>, Problem> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Keys { path: self.path, object, prefix })),
            Some(other) => Err(self.bad(key, other, "an object or null")),
        }
    }
}

/// A non-negative integer; 4096.0 counts as one.
pub(crate) fn whole(value: &Value) -> Option<u64> {
    let whole = |real: f64| (real.fract() == 0.0 && (0.0..9e15).contains(&real)).then_some(real as u64);
    value.as_u64().or_else(|| value.as_f64().and_then(whole))
}

pub(crate) fn token_id(value: &Value) -> Option<u32> {
    whole(value).and_then(|id| u32::try_from(id).ok()).filter(|&id| id != u32::MAX)
}
