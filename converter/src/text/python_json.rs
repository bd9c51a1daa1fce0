//! The filter `tojson` of chat templates, with the output of Python's `json.dumps`.

use crate::text::template_error::invalid;
use minijinja::value::{Kwargs, Rest};
use minijinja::{Error, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter};
use std::io;

/// `json.dumps` of Python with the arguments of transformers: `ensure_ascii=False, indent=None, separators=None,
/// sort_keys=False`.
pub(crate) fn tojson(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let argument = |at: usize, key: &str| -> Result<Option<Value>, Error> {
        match args.get(at) {
            Some(value) => Ok(Some(value.clone())),
            None => kwargs.get::<Option<Value>>(key),
        }
    };
    let is_set = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let ascii = is_set(argument(0, "ensure_ascii")?);
    let indent = argument(1, "indent")?.filter(|indent| !indent.is_none());
    let separators = argument(2, "separators")?.filter(|separators| !separators.is_none());
    let sort = is_set(argument(3, "sort_keys")?);
    kwargs.assert_all_used()?;
    let indent = match indent {
        None => None,
        Some(indent) => match (indent.as_usize(), indent.as_str()) {
            (Some(n), _) if n <= 64 => Some(" ".repeat(n)),
            (_, Some(text)) if text.len() <= 64 => Some(text.to_string()),
            _ => return Err(invalid("unsupported tojson indent")),
        },
    };
    let separators = match separators {
        None if indent.is_some() => (",".to_string(), ": ".to_string()),
        None => (", ".to_string(), ": ".to_string()),
        Some(pair) => {
            let pair: Vec<Value> = pair.try_iter()?.collect();
            match pair.as_slice() {
                [item, key] => (item.to_string(), key.to_string()),
                _ => return Err(invalid("tojson separators are not a pair")),
            }
        }
    };
    let json = serde_json::to_value(value).map_err(|error| invalid(format!("tojson: {error}")))?;
    let json = if sort { sorted(json) } else { json };
    let pretty = indent.as_deref().map(|indent| PrettyFormatter::with_indent(indent.as_bytes()));
    let mut out = Vec::new();
    let formatter = PythonFormatter { pretty, separators, ascii };
    let written = json.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter));
    written.map_err(|error| invalid(format!("tojson: {error}")))?;
    String::from_utf8(out).map(Value::from).map_err(|_| invalid("tojson wrote bytes that are not text"))
}

/// JSON with sorted keys in all objects.
fn sorted(json: serde_json::Value) -> serde_json::Value {
    match json {
        serde_json::Value::Object(object) => {
            let mut entries: Vec<_> = object.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            serde_json::Value::Object(entries.into_iter().collect())
        }
        serde_json::Value::Array(list) => list.into_iter().map(sorted).collect(),
        other => other,
    }
}

/// A number in the notation of Python's `repr`.
fn python_float(value: f64) -> String {
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = value.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// Writes JSON with the separators and escapes of Python.
struct PythonFormatter<'i> {
    pretty: Option<PrettyFormatter<'i>>,
    separators: (String, String),
    ascii: bool,
}

impl Formatter for PythonFormatter<'_> {
    fn begin_array<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        match &mut self.pretty {
            Some(pretty) => pretty.begin_array(out),
            None => out.write_all(b"["),
        }
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        match &mut self.pretty {
            Some(pretty) => pretty.end_array(out),
            None => out.write_all(b"]"),
        }
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.begin_item(out, first, |pretty, out| pretty.begin_array_value(out, true))
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.pretty.as_mut().map_or(Ok(()), |pretty| pretty.end_array_value(out))
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        match &mut self.pretty {
            Some(pretty) => pretty.begin_object(out),
            None => out.write_all(b"{"),
        }
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        match &mut self.pretty {
            Some(pretty) => pretty.end_object(out),
            None => out.write_all(b"}"),
        }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.begin_item(out, first, |pretty, out| pretty.begin_object_key(out, true))
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(self.separators.1.as_bytes())
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.pretty.as_mut().map_or(Ok(()), |pretty| pretty.end_object_value(out))
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, out: &mut W, value: f64) -> io::Result<()> {
        out.write_all(python_float(value).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        if !self.ascii {
            return out.write_all(fragment.as_bytes());
        }
        for unit in fragment.encode_utf16() {
            match u8::try_from(unit) {
                Ok(byte) if byte.is_ascii() && byte != 0x7f => out.write_all(&[byte])?,
                _ => write!(out, "\\u{unit:04x}")?,
            }
        }
        Ok(())
    }
}

impl<'i> PythonFormatter<'i> {
    /// The separator before an item other than the first, and the line break if indented.
    fn begin_item<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
        begin: impl FnOnce(&mut PrettyFormatter<'i>, &mut W) -> io::Result<()>,
    ) -> io::Result<()> {
        if !first {
            out.write_all(self.separators.0.as_bytes())?;
        }
        self.pretty.as_mut().map_or(Ok(()), |pretty| begin(pretty, out))
    }
}
