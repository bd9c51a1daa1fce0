//! The methods of Python's `str` that chat templates call and minijinja lacks or implements differently.

use crate::text::template_error::{MAX_TEXT_BYTES, invalid};
use minijinja::value::{Kwargs, Rest, Tuple, from_args};
use minijinja::{Error, Value};
use olmo_infer::internals::text::chat::is_python_space;

/// Rejects formats with a very large width.
fn refuse_wide(format: &str) -> Result<(), Error> {
    match format.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 4) {
        true => Err(invalid("a format of more than 9999 characters")),
        false => Ok(()),
    }
}

/// Methods of a string; `None` for those left to minijinja.
pub(crate) fn text_method(text: &str, name: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    // Python counts characters, and these methods cut at character boundaries.
    let strip = |args: &[Value], left: bool, right: bool| -> Result<Value, Error> {
        let (chars,): (Option<String>,) = from_args(args)?;
        let is_stripped = |c: char| chars.as_ref().map_or_else(|| is_python_space(c), |chars| chars.contains(c));
        let text = if left { text.trim_start_matches(is_stripped) } else { text };
        Ok(Value::from(if right { text.trim_end_matches(is_stripped) } else { text }))
    };
    let one = |args: &[Value]| -> Result<String, Error> { from_args::<(String,)>(args).map(|(text,)| text) };
    let cut = |at: Option<(usize, usize)>| -> Option<[Value; 3]> {
        at.map(|(begin, end)| [&text[..begin], &text[begin..end], &text[end..]].map(Value::from))
    };
    Some(match name {
        "format" => match refuse_wide(text) {
            Ok(()) => return None,
            Err(error) => Err(error),
        },
        "strip" => strip(args, true, true),
        "lstrip" => strip(args, true, false),
        "rstrip" => strip(args, false, true),
        "removeprefix" => one(args).map(|prefix| Value::from(text.strip_prefix(prefix.as_str()).unwrap_or(text))),
        "removesuffix" => one(args).map(|suffix| Value::from(text.strip_suffix(suffix.as_str()).unwrap_or(text))),
        "split" | "rsplit" => split(text, args, name == "rsplit"),
        "splitlines" => splitlines(text, args),
        "partition" => one(args).and_then(|by| match by.is_empty() {
            true => Err(invalid("empty separator")),
            false => {
                let found = cut(text.find(&by).map(|at| (at, at + by.len())));
                Ok(Value::from(Tuple::from(found.unwrap_or_else(|| [text, "", ""].map(Value::from)))))
            }
        }),
        "rpartition" => one(args).and_then(|by| match by.is_empty() {
            true => Err(invalid("empty separator")),
            false => {
                let found = cut(text.rfind(&by).map(|at| (at, at + by.len())));
                Ok(Value::from(Tuple::from(found.unwrap_or_else(|| ["", "", text].map(Value::from)))))
            }
        }),
        "title" => from_args::<()>(args).map(|()| Value::from(title(text))),
        "capitalize" => from_args::<()>(args).map(|()| Value::from(capitalized(text))),
        "swapcase" => from_args::<()>(args).map(|()| {
            let swapped = text.chars().map(|c| match c.is_lowercase() {
                true => c.to_uppercase().to_string(),
                false => c.to_lowercase().to_string(),
            });
            Value::from(swapped.collect::<String>())
        }),
        "isspace" => from_args::<()>(args).map(|()| (!text.is_empty() && text.chars().all(is_python_space)).into()),
        "zfill" => from_args::<(usize,)>(args).and_then(|(width,)| {
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            padded(width, text).map(|n| Value::from([sign, &"0".repeat(n), digits].concat()))
        }),
        "ljust" | "rjust" | "center" => from_args::<(usize, Option<String>)>(args).and_then(|(width, fill)| {
            let fill = fill.unwrap_or_else(|| " ".into());
            if fill.chars().count() != 1 {
                return Err(invalid("the fill character must be one character"));
            }
            let n = padded(width, text)?;
            // Python rounds up on the left when both the padding and the width are odd.
            let left = match name {
                "ljust" => 0,
                "rjust" => n,
                _ => n / 2 + (n & width & 1),
            };
            Ok(Value::from([&fill.repeat(left), text, &fill.repeat(n - left)].concat()))
        }),
        _ => return None,
    })
}

/// The number of characters to add to reach a width.
fn padded(width: usize, text: &str) -> Result<usize, Error> {
    match width <= MAX_TEXT_BYTES {
        true => Ok(width.saturating_sub(text.chars().count())),
        false => Err(invalid("more than 1 MiB of text")),
    }
}

/// Python's `str.split` and `str.rsplit`.
fn split(text: &str, args: &[Value], from_the_right: bool) -> Result<Value, Error> {
    let (args, kwargs): (Rest<Value>, Kwargs) = from_args(args)?;
    let argument = |at: usize, key: &str| -> Result<Option<Value>, Error> {
        Ok(match args.get(at) {
            Some(value) => Some(value.clone()),
            None => kwargs.get::<Option<Value>>(key)?,
        }
        .filter(|value| !value.is_none()))
    };
    let (by, most) = (argument(0, "sep")?, argument(1, "maxsplit")?);
    kwargs.assert_all_used()?;
    let most = match most {
        None => usize::MAX,
        Some(most) => {
            let most = most.as_i64().ok_or_else(|| invalid("maxsplit is not a number"))?;
            usize::try_from(most).unwrap_or(usize::MAX)
        }
    };
    let parts: Vec<&str> =
        match by.as_ref().map(|by| by.as_str().ok_or_else(|| invalid("split by something other than a string"))) {
            Some(Err(error)) => return Err(error),
            Some(Ok("")) => return Err(invalid("empty separator")),
            Some(Ok(by)) if from_the_right => {
                let mut parts: Vec<&str> = text.rsplitn(most.saturating_add(1), by).collect();
                parts.reverse();
                parts
            }
            Some(Ok(by)) => text.splitn(most.saturating_add(1), by).collect(),
            None if from_the_right => {
                let mut parts = Vec::new();
                let mut rest = text.trim_end_matches(is_python_space);
                while !rest.is_empty() {
                    let at = if parts.len() < most { rest.rfind(is_python_space) } else { None };
                    let begin = at.map_or(0, |at| at + rest[at..].chars().next().map_or(0, char::len_utf8));
                    parts.push(&rest[begin..]);
                    rest = rest[..begin].trim_end_matches(is_python_space);
                }
                parts.reverse();
                parts
            }
            None => {
                let mut parts = Vec::new();
                let mut rest = text.trim_start_matches(is_python_space);
                while !rest.is_empty() {
                    let at = if parts.len() < most { rest.find(is_python_space) } else { None };
                    let end = at.unwrap_or(rest.len());
                    parts.push(&rest[..end]);
                    rest = rest[end..].trim_start_matches(is_python_space);
                }
                parts
            }
        };
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Python's `str.splitlines`, which has more line ends than `\n`.
fn splitlines(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (keep, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
    let keep = match keep {
        Some(keep) => keep,
        None => kwargs.get::<Option<bool>>("keepends")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    Ok(lines_of(text, keep).into_iter().map(Value::from).collect())
}

/// The lines of a text by Python's rules, with or without their ends.
pub(crate) fn lines_of(text: &str, keep_ends: bool) -> Vec<&str> {
    let is_end = |c: char| matches!(c, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let at = rest.find(is_end).unwrap_or(rest.len());
        let end = if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(0, char::len_utf8) };
        lines.push(&rest[..if keep_ends { at + end } else { at }]);
        rest = &rest[at + end..];
    }
    lines
}

/// Python's `str.title`: a letter after a non-letter is upper case.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_word = false;
    for c in text.chars() {
        match in_word {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
        in_word = c.is_alphabetic();
    }
    out
}

/// Python's `str.capitalize`.
fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    first + &chars.as_str().to_lowercase()
}
