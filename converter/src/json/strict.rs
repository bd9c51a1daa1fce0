//! JSON without duplicate keys. serde_json keeps the last of two equal keys; here that is an error, because two
//! programs that read the same file must not see two models.

use crate::error::shortened;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::marker::PhantomData;

/// Most values of a document that is parsed to a tree. The largest valid one, an index of the tensors of 1024 layers,
/// has twelve thousand. A value takes up to several hundred bytes of memory for a few bytes of the file.
const MAX_VALUES: usize = 1 << 15;
/// Most characters of a key in a message: the whole name of a tensor.
const SHOWN_CHARS: usize = 255;

/// Parses a document. serde_json limits the depth to 128.
///
/// # Errors
/// The defect and its position, in one line.
pub fn parse(bytes: &[u8]) -> Result<Value, String> {
    read(bytes, &Budget::new())
}

/// The number of values that may still be stored.
pub(crate) struct Budget(Cell<usize>);

impl Budget {
    /// That of one document.
    pub(crate) fn new() -> Budget {
        Budget(Cell::new(MAX_VALUES))
    }

    fn take<E: Error>(&self) -> Result<(), E> {
        let left = self.0.get().checked_sub(1);
        self.0.set(left.ok_or_else(|| E::custom(format!("more than {MAX_VALUES} values")))?);
        Ok(())
    }
}

/// Parses all of `bytes` to a tree.
///
/// # Errors
/// As [`parse`].
pub(crate) fn read(bytes: &[u8], budget: &Budget) -> Result<Value, String> {
    whole(bytes, Tree(budget))
}

/// The keys of the object in `bytes`, without duplicates. The values are valid JSON, but not parsed further.
///
/// # Errors
/// As [`parse`], and when it is not an object.
pub(crate) fn parts<'a>(bytes: &'a [u8], budget: &Budget) -> Result<BTreeMap<String, &'a RawValue>, String> {
    whole(bytes, Parts(budget))
}

/// Deserializes all of `bytes`.
fn whole<'a, S: DeserializeSeed<'a>>(bytes: &'a [u8], seed: S) -> Result<S::Value, String> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = seed.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    value.map_err(|error| error.to_string())
}

/// Reads a value and rejects duplicate keys.
#[derive(Clone, Copy)]
struct Tree<'b>(&'b Budget);

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.0.take()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(self)? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(self)?;
            if map.contains_key(&key) {
                return Err(duplicate(&key));
            }
            map.insert(key, value);
        }
        Ok(map.into())
    }
}

/// Reads an object, without its values.
struct Parts<'b>(&'b Budget);

impl<'de> DeserializeSeed<'de> for Parts<'_> {
    type Value = BTreeMap<String, &'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Parts<'_> {
    type Value = BTreeMap<String, &'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut parts = BTreeMap::new();
        while let Some(key) = entries.next_key::<String>()? {
            self.0.take()?;
            insert_next(&mut parts, key, &mut entries)?;
        }
        Ok(parts)
    }
}

/// The error for a duplicate key.
fn duplicate<E: Error>(key: &str) -> E {
    E::custom(format!("duplicate key \"{}\"", shortened(key, SHOWN_CHARS)))
}

/// An object without duplicate keys whose values are all a `T`, read without an intermediate tree. An error in a value
/// names its key.
pub struct Object<T>(pub BTreeMap<String, T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Object<T>, A::Error> {
        let mut object = BTreeMap::new();
        while let Some(key) = entries.next_key::<String>()? {
            insert_next(&mut object, key, &mut entries)?;
        }
        Ok(Object(object))
    }
}

/// Reads the value of `key`, which must be new.
pub(crate) fn insert_next<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    object: &mut BTreeMap<String, T>,
    key: String,
    entries: &mut A,
) -> Result<(), A::Error> {
    match object.entry(key) {
        Entry::Occupied(entry) => Err(duplicate(entry.key())),
        Entry::Vacant(entry) => {
            let value = entries.next_value();
            let key = || shortened(entry.key(), SHOWN_CHARS);
            let value = value.map_err(|error| A::Error::custom(format!("{}: {error}", key())))?;
            entry.insert(value);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::value::BytesDeserializer;

    #[test]
    fn tree_rejects_value_outside_json() {
        let bytes = BytesDeserializer::<serde_json::Error>::new(b"x");
        let error = Tree(&Budget::new()).deserialize(bytes).expect_err("not a JSON value");
        assert_eq!(error.to_string(), "invalid type: byte array, expected JSON");
    }

    #[test]
    fn values_are_limited_in_trees_and_parts() {
        let list = |n: usize| format!("[{}0]", "0,".repeat(n - 2));
        assert!(parse(list(MAX_VALUES).as_bytes()).is_ok());
        let error = parse(list(MAX_VALUES + 1).as_bytes()).expect_err("one too many");
        assert!(error.starts_with("more than 32768 values at line 1 column "), "{error}");
        let object = |n: usize| format!("{{{}}}", (0..n).map(|i| format!("\"{i}\":[]")).collect::<Vec<_>>().join(","));
        let parts = |n: usize| super::parts(object(n).as_bytes(), &Budget::new()).map(|parts| parts.len());
        assert_eq!(parts(MAX_VALUES), Ok(MAX_VALUES));
        assert!(parts(MAX_VALUES + 1).is_err_and(|error| error.starts_with("more than 32768 values")));
    }

    #[test]
    fn parts_rejects_list() {
        let error = parts(b"[1]", &Budget::new()).expect_err("a list");
        assert_eq!(error, "invalid type: sequence, expected an object at line 1 column 0");
    }

    #[test]
    fn numbers_round_to_nearest_double_as_in_python() {
        for text in
            ["1.2079441541679836", "1.20794415416783969007199254740993", "1e-06", "9.999999999999999e22", "0.1e-5"]
        {
            let expected: f64 = text.parse().expect("a number");
            assert_eq!(parse(text.as_bytes()), Ok(Value::from(expected)), "{text}");
        }
    }
}
