//! The values of the metadata of a GGUF file: where they are in the header, and what they are.

#![deny(clippy::arithmetic_side_effects, reason = "its operands come from untrusted files")]

use crate::folder::gguf::cursor::{Cursor, Stop};
use std::ops::Range;

/// Longest text of a value. A chat template has some KiB, a license perhaps 30.
const MAX_TEXT_BYTES: u64 = 4 << 20;

/// The type of a value or of the items of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number without sign, of this many bytes.
    Unsigned(u8),
    /// A number with a sign, of this many bytes.
    Signed(u8),
    /// An f32.
    F32,
    /// An f64.
    F64,
    /// One byte, 0 or 1.
    Bool,
    /// A length of 8 bytes, then bytes.
    Text,
    /// The type of items, a count of 8 bytes, then the items.
    List,
}

impl Kind {
    /// The kind with this number in a file.
    fn with_code(code: u32) -> Option<Kind> {
        Some(match code {
            0 => Kind::Unsigned(1),
            1 => Kind::Signed(1),
            2 => Kind::Unsigned(2),
            3 => Kind::Signed(2),
            4 => Kind::Unsigned(4),
            5 => Kind::Signed(4),
            6 => Kind::F32,
            7 => Kind::Bool,
            8 => Kind::Text,
            9 => Kind::List,
            10 => Kind::Unsigned(8),
            11 => Kind::Signed(8),
            12 => Kind::F64,
            _ => return None,
        })
    }

    /// Bytes of a value of this kind; the least if they vary.
    fn bytes(self) -> u64 {
        match self {
            Kind::Unsigned(bytes) | Kind::Signed(bytes) => bytes.into(),
            Kind::F32 => 4,
            Kind::Bool => 1,
            Kind::F64 | Kind::Text => 8,
            Kind::List => 12,
        }
    }

    /// As messages name it.
    fn name(self) -> &'static str {
        match self {
            Kind::Unsigned(_) | Kind::Signed(_) => "a whole number",
            Kind::F32 | Kind::F64 => "a number",
            Kind::Bool => "true or false",
            Kind::Text => "text",
            Kind::List => "a list",
        }
    }
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    Whole(i128),
    /// An f32.
    F32(f32),
    /// An f64.
    F64(f64),
    /// True or false.
    Bool(bool),
    /// The range of the text in the header.
    Text(Range<usize>),
    /// A list.
    List(List),
}

/// A list in the header.
#[derive(Clone, Debug, PartialEq)]
pub struct List {
    /// The type of its items.
    pub kind: Kind,
    /// How many there are.
    pub length: usize,
    /// Where they are.
    pub range: Range<usize>,
}

impl Value {
    /// Reads the type of a value and the value.
    pub(crate) fn read(cursor: &mut Cursor) -> Result<Value, Stop> {
        match kind(cursor)? {
            Kind::List => List::read(cursor).map(Value::List),
            kind => Value::of_kind(cursor, kind),
        }
    }

    /// Reads a value that is not a list.
    fn of_kind(cursor: &mut Cursor, kind: Kind) -> Result<Value, Stop> {
        Ok(match kind {
            Kind::Unsigned(1) => Value::Whole(u8::from_le_bytes(cursor.array()?).into()),
            Kind::Unsigned(2) => Value::Whole(u16::from_le_bytes(cursor.array()?).into()),
            Kind::Unsigned(4) => Value::Whole(cursor.u32()?.into()),
            Kind::Unsigned(_) => Value::Whole(cursor.u64()?.into()),
            Kind::Signed(1) => Value::Whole(i8::from_le_bytes(cursor.array()?).into()),
            Kind::Signed(2) => Value::Whole(i16::from_le_bytes(cursor.array()?).into()),
            Kind::Signed(4) => Value::Whole(i32::from_le_bytes(cursor.array()?).into()),
            Kind::Signed(_) => Value::Whole(i64::from_le_bytes(cursor.array()?).into()),
            Kind::F32 => Value::F32(f32::from_le_bytes(cursor.array()?)),
            Kind::F64 => Value::F64(f64::from_le_bytes(cursor.array()?)),
            Kind::Bool => match cursor.array()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(Stop::bad(format!("a truth value of {other}"), "0 or 1")),
            },
            Kind::Text => Value::Text(cursor.text(MAX_TEXT_BYTES)?),
            Kind::List => return Err(Stop::bad("a list of lists", "a list of numbers or texts")),
        })
    }

    /// As messages name its type.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Value::Whole(_) => "a whole number",
            Value::F32(_) | Value::F64(_) => "a number",
            Value::Bool(_) => "true or false",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
        }
    }
}

impl List {
    /// Reads the type and the number of the items, and passes over them.
    fn read(cursor: &mut Cursor) -> Result<List, Stop> {
        let kind = kind(cursor)?;
        let length = cursor.u64()?;
        if kind == Kind::List {
            return Err(Stop::bad("a list of lists", "a list of numbers or texts"));
        }
        let begin = cursor.at();
        if matches!(kind, Kind::Text | Kind::Bool) {
            // The count is not trusted: it ends at the limit of the header at the latest.
            for _ in 0..length {
                Value::of_kind(cursor, kind)?;
            }
        } else {
            cursor.skip(kind.bytes().saturating_mul(length))?;
        }
        // Each item has at least a byte, and all of them are in memory.
        Ok(List { kind, length: length as usize, range: begin..cursor.at() })
    }

    /// The items, as values.
    pub fn values<'a>(&'a self, header: &'a [u8]) -> impl Iterator<Item = Value> + 'a {
        let mut cursor = Cursor::inside(header, &self.range);
        (0..self.length).map_while(move |_| Value::of_kind(&mut cursor, self.kind).ok())
    }

    /// As messages name it.
    pub(crate) fn name(&self) -> String {
        format!("a list of {} items, each {}", self.length, self.kind.name())
    }
}

/// Reads the type of a value.
fn kind(cursor: &mut Cursor) -> Result<Kind, Stop> {
    let code = cursor.u32()?;
    Kind::with_code(code).ok_or_else(|| Stop::bad(format!("a value of type {code}"), "a type from 0 to 12"))
}
