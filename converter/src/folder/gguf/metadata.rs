//! The metadata of a GGUF file by key, with errors that name the key.

use crate::error::Problem;
use crate::folder::gguf::value::{Kind, List, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Advice for a value of the wrong type.
const AGAIN: &str = "convert the model again with a current convert_hf_to_gguf.py";

/// The metadata, and the bytes that texts and lists are in.
#[derive(Clone, Debug)]
pub struct Metadata {
    path: PathBuf,
    header: Vec<u8>,
    keys: BTreeMap<String, Value>,
}

impl Metadata {
    pub(crate) fn new(path: &Path, header: Vec<u8>, keys: BTreeMap<String, Value>) -> Metadata {
        Metadata { path: path.to_path_buf(), header, keys }
    }

    /// The file, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The keys, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// Whether there is such a key.
    pub fn has(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    /// A problem with a key.
    pub fn problem(&self, key: &str, found: impl Into<String>) -> Problem {
        Problem::new(&self.path, found).tensor(key)
    }

    /// The error for a value of another type.
    fn other(&self, key: &str, value: &Value, expected: &str) -> Problem {
        let found = match value {
            Value::List(list) => list.name(),
            value => value.name().into(),
        };
        self.problem(key, found).expected(expected).advice(AGAIN)
    }

    /// A whole number that is not negative.
    ///
    /// # Errors
    /// It is another value.
    pub fn whole(&self, key: &str) -> Result<Option<u64>, Problem> {
        match self.keys.get(key) {
            None => Ok(None),
            Some(Value::Whole(number)) => match u64::try_from(*number) {
                Ok(number) => Ok(Some(number)),
                Err(_) => {
                    Err(self.problem(key, number.to_string()).expected("a number that is not negative").advice(AGAIN))
                }
            },
            Some(value) => Err(self.other(key, value, "a whole number")),
        }
    }

    /// A finite number. An f32 becomes the f64 with the same shortest decimal: 1e-6, and not the next f32 to it.
    ///
    /// # Errors
    /// It is another value.
    pub fn real(&self, key: &str) -> Result<Option<f64>, Problem> {
        let number = match self.keys.get(key) {
            None => return Ok(None),
            Some(Value::Whole(number)) => *number as f64,
            Some(Value::F32(number)) => number.to_string().parse().unwrap_or(f64::NAN),
            Some(Value::F64(number)) => *number,
            Some(value) => return Err(self.other(key, value, "a number")),
        };
        match number.is_finite() {
            true => Ok(Some(number)),
            false => Err(self.problem(key, number.to_string()).expected("a finite number").advice(AGAIN)),
        }
    }

    /// True or false.
    ///
    /// # Errors
    /// It is another value.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, Problem> {
        match self.keys.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(value) => Err(self.other(key, value, "true or false")),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// It is another value, or not UTF-8.
    pub fn text(&self, key: &str) -> Result<Option<&str>, Problem> {
        match self.keys.get(key) {
            None => Ok(None),
            Some(Value::Text(range)) => match str::from_utf8(self.header.get(range.clone()).unwrap_or_default()) {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err(self.problem(key, "text that is not UTF-8").expected("UTF-8").advice(AGAIN)),
            },
            Some(value) => Err(self.other(key, value, "text")),
        }
    }

    /// Whether the value is a list.
    pub fn is_list(&self, key: &str) -> bool {
        matches!(self.keys.get(key), Some(Value::List(_)))
    }

    fn list(&self, key: &str, expected: &str, is_right: impl Fn(Kind) -> bool) -> Result<Option<&List>, Problem> {
        match self.keys.get(key) {
            None => Ok(None),
            Some(Value::List(list)) if is_right(list.kind) => Ok(Some(list)),
            Some(value) => Err(self.other(key, value, expected)),
        }
    }

    /// A list of whole numbers or truth values, as numbers.
    ///
    /// # Errors
    /// It is another value.
    pub fn wholes(&self, key: &str) -> Result<Option<impl Iterator<Item = i128> + '_>, Problem> {
        let is_whole = |kind| matches!(kind, Kind::Unsigned(_) | Kind::Signed(_) | Kind::Bool);
        let list = self.list(key, "a list of whole numbers", is_whole)?;
        Ok(list.map(|list| list.values(&self.header).map(number)))
    }

    /// A list of texts. Each is `None` if it is not UTF-8.
    ///
    /// # Errors
    /// It is another value.
    pub fn texts(&self, key: &str) -> Result<Option<impl Iterator<Item = Option<&str>> + '_>, Problem> {
        let text = |value| match value {
            Value::Text(range) => str::from_utf8(self.header.get(range)?).ok(),
            _ => None,
        };
        let list = self.list(key, "a list of texts", |kind| kind == Kind::Text)?;
        Ok(list.map(|list| list.values(&self.header).map(text)))
    }

    /// How many items a list has; 0 for another value.
    pub fn length(&self, key: &str) -> usize {
        match self.keys.get(key) {
            Some(Value::List(list)) => list.length,
            _ => 0,
        }
    }
}

/// A whole number or a truth value as a number.
fn number(value: Value) -> i128 {
    match value {
        Value::Whole(number) => number,
        Value::Bool(value) => value.into(),
        _ => 0,
    }
}
