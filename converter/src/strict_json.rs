//! JSON in which no key stands twice. serde_json keeps the last of two equal keys; here that is an error, because two
//! programs that read the same file must not see two models.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::marker::PhantomData;

/// Parses a document. Depth is capped by serde_json (128).
///
/// # Errors
/// What is wrong and where, in one line.
pub fn parse(bytes: &[u8]) -> Result<Value, String> {
    serde_json::from_slice::<Strict>(bytes).map(|strict| strict.0).map_err(|error| error.to_string())
}

/// A value whose objects have no key twice.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Strict, D::Error> {
        deserializer.deserialize_any(StrictVisitor)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Strict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Strict, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Strict(values.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Strict, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let Strict(value) = entries.next_value()?;
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("key \"{key}\" twice")));
            }
            map.insert(key, value);
        }
        Ok(Strict(map.into()))
    }
}

/// An object in which no key stands twice and every value is a `T`, read without a tree of values in between. An error
/// in a value names its key.
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
        Entry::Occupied(entry) => Err(A::Error::custom(format!("key \"{}\" twice", entry.key()))),
        Entry::Vacant(entry) => {
            let value = entries.next_value();
            let value = value.map_err(|error| A::Error::custom(format!("{}: {error}", entry.key())))?;
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
    fn a_value_that_json_does_not_have_is_told() {
        let bytes = BytesDeserializer::<serde_json::Error>::new(b"x");
        let error = Strict::deserialize(bytes).err().expect("no value of JSON");
        assert_eq!(error.to_string(), "invalid type: byte array, expected JSON");
    }

    #[test]
    fn numbers_become_the_nearest_double_as_in_python() {
        for text in
            ["1.2079441541679836", "1.20794415416783969007199254740993", "1e-06", "9.999999999999999e22", "0.1e-5"]
        {
            let expected: f64 = text.parse().expect("a number");
            assert_eq!(parse(text.as_bytes()), Ok(Value::from(expected)), "{text}");
        }
    }
}
