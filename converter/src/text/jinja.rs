//! Renders chat templates as `apply_chat_template` of transformers does: the Jinja environment of
//! `utils/chat_template_utils.py`, on top of minijinja.
//!
//! Where minijinja and jinja2 differ, this follows jinja2 or reports an error. `tests/chat_templates` compares both
//! with the real library, and lists the expressions that still print differently: no known chat template uses them.

use crate::error::shortened;
use crate::text::python_json::tojson;
use crate::text::python_text::{lines_of, text_method};
use crate::text::template_error::{MAX_TEXT_BYTES, invalid};
use crate::text::template_source::to_minijinja;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, Rest, ValueKind, from_args};
use minijinja::{Environment, Error, State, Value, context};
use minijinja_contrib::pycompat;
use olmo_infer::internals::text::chat::{Message, is_python_space};
use std::io;
use std::mem::take;
use std::sync::{Arc, Mutex, PoisonError};

/// Steps per render; published templates need a few thousand.
const FUEL: u64 = 1_000_000;
/// Longest reason for an unusable template.
const MAX_REASON_CHARS: usize = 300;
/// The name of the template in the environment.
const NAME: &str = "chat";

/// The variables for tokens, as `bos_token`, and their texts.
pub type Names = Vec<(String, String)>;

/// A parsed template, and the variables for tokens.
pub struct Template {
    environment: Environment<'static>,
    names: Value,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// The parse error, in one line.
    pub fn new(source: &str, names: &Names) -> Result<Template, String> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(one_line_reason)?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(method);
        let refuse = |message: String| -> Result<Value, Error> { Err(invalid(message)) };
        environment.add_function("raise_exception", refuse);
        environment.set_formatter(|out, state, value| match prints_like_python(value, false) {
            true => minijinja::escape_formatter(out, state, value),
            false => Err(invalid("prints a value that Python prints differently")),
        });
        add_filters(&mut environment);
        add_tests(&mut environment);
        let source = to_minijinja(&source.replace("\r\n", "\n").replace('\r', "\n"))?;
        environment.add_template_owned(NAME, source).map_err(one_line_reason)?;
        let names = Value::from_pairs(names.iter().map(|(name, text)| (name.clone(), text.clone())));
        Ok(Template { environment, names })
    }

    /// Renders the prompt that follows `messages`; `date` implements `strftime_now`.
    ///
    /// # Errors
    /// The error raised by or found in the template, in one line.
    ///
    /// # Panics
    /// When the interpreter panics: it can divide by zero, as in `loop.cycle()`.
    pub fn render(
        &self,
        messages: &[Message],
        date: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Result<String, String> {
        let now = move |format: &str| date(format).ok_or_else(|| invalid(format!("date in the format {format:?}")));
        let message = |message: &Message| {
            Value::from_pairs([("role", message.role.name()), ("content", message.content.as_str())])
        };
        let context = context! {
            messages => messages.iter().map(message).collect::<Vec<_>>(),
            tools => Value::from(()),
            documents => Value::from(()),
            add_generation_prompt => true,
            strftime_now => Value::from_function(now),
            ..self.names.clone()
        };
        let mut text = Limited(Vec::new());
        let template = self.environment.get_template(NAME).map_err(one_line_reason)?;
        template.render_captured_to(context, &mut text).map_err(one_line_reason)?;
        String::from_utf8(text.0).map_err(|_| "its chat template writes bytes that are not text".to_string())
    }
}

fn one_line_reason(error: Error) -> String {
    shortened(&format!("its chat template cannot be used: {error}").replace('\n', " "), MAX_REASON_CHARS)
}

/// Whether minijinja prints a value as Python does: floats near 1, and strings without characters that Python escapes.
fn prints_like_python(value: &Value, is_inside: bool) -> bool {
    let escapes = |c: char| !c.is_ascii() && (c.is_whitespace() || c.is_control() || is_format_character(c));
    let inside = |value: Value| prints_like_python(&value, true);
    match value.kind() {
        ValueKind::Undefined => !is_inside,
        ValueKind::Number if !value.is_integer() => {
            let number = f64::try_from(value.clone()).unwrap_or(f64::NAN).abs();
            number == 0.0 || (1e-4..1e16).contains(&number)
        }
        ValueKind::String => !is_inside || !value.as_str().is_some_and(|text| text.contains(escapes)),
        ValueKind::Seq => value.try_iter().is_ok_and(|mut items| items.all(inside)),
        ValueKind::Map => value
            .try_iter()
            .is_ok_and(|mut keys| keys.all(|key| inside(key.clone()) && value.get_item(&key).is_ok_and(inside))),
        _ => true,
    }
}

/// Invisible characters, which `repr` of Python escapes.
fn is_format_character(c: char) -> bool {
    let ranges = ['\u{ad}'..='\u{ad}', '\u{200b}'..='\u{200f}', '\u{202a}'..='\u{202e}', '\u{2060}'..='\u{206f}'];
    ranges.iter().any(|range| range.contains(&c)) || matches!(c, '\u{e000}'..='\u{f8ff}' | '\u{feff}' | '\u{f0000}'..)
}

/// The output of a template, up to a limit.
struct Limited(Vec<u8>);

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_TEXT_BYTES {
            return Err(io::Error::other("more than 1 MiB of text"));
        }
        self.0.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn add_filters(environment: &mut Environment) {
    environment.add_filter("tojson", tojson);
    for name in ["escape", "e", "forceescape"] {
        environment.add_filter(name, |text: &Value| escaped(&text.to_string()));
    }
    // Jinja has none of these, or prints them differently. `format` may request any width.
    for name in ["pprint", "split", "bool", "chain", "zip", "lines", "format"] {
        environment.remove_filter(name);
    }
    environment.add_filter("indent", indent);
    // The built-in filters that are lazy in jinja2.
    let mut built_in = Environment::new();
    built_in.set_fuel(Some(FUEL));
    add_tests(&mut built_in);
    let built_in = Arc::new(built_in);
    for name in ["select", "reject", "selectattr", "rejectattr", "map", "unique", "batch", "slice"] {
        let built_in = built_in.clone();
        environment.add_filter(name, move |args: Rest<Value>, kwargs: Kwargs| -> Result<Value, Error> {
            let mut args = args.0;
            if kwargs.args().next().is_some() {
                args.push(Value::from(kwargs));
            }
            let items = built_in.empty_state().apply_filter(name, &args)?;
            Ok(Value::from_object(Generator(Mutex::new(items.try_iter()?.collect()))))
        });
    }
    environment.add_filter("title", |text: &Value| title_of_words(&text.to_string()));
    environment.add_filter("trim", |text: &Value, chars: Option<String>| -> Result<String, Error> {
        let text = text.to_string();
        Ok(match chars {
            Some(chars) => text.trim_matches(|c| chars.contains(c)).to_string(),
            None => text.trim_matches(is_python_space).to_string(),
        })
    });
}

/// Jinja's filter `title`: a character after white space, an opening bracket or a hyphen is upper case.
fn title_of_words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut starts_word = true;
    for c in text.chars() {
        match starts_word {
            true => out.extend(c.to_uppercase()),
            false => out.extend(c.to_lowercase()),
        }
        starts_word = is_python_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    }
    out
}

/// Jinja's filter `escape`.
fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('\'', "&#39;").replace('"', "&#34;")
}

/// The result of a lazy filter of jinja2: true in conditions, and empty after one pass.
#[derive(Debug)]
struct Generator(Mutex<Vec<Value>>);

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        // A poisoned lock has not lost items.
        let items = take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        Enumerator::Iter(Box::new(items.into_iter()))
    }

    // Loops need it for `loop.last`, which jinja2 supports too.
    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.0.lock().unwrap_or_else(PoisonError::into_inner).len())
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }
}

/// Jinja's filter `indent`: `width=4, first=False, blank=False`.
fn indent(text: &str, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let argument = |at: usize, key: &str| match args.get(at) {
        Some(value) => Ok(Some(value.clone())),
        None => kwargs.get::<Option<Value>>(key),
    };
    let width = argument(0, "width")?;
    let is_set = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let (first, blank) = (is_set(argument(1, "first")?), is_set(argument(2, "blank")?));
    kwargs.assert_all_used()?;
    let indention = match width.as_ref().map(|width| (width.as_usize(), width.as_str())) {
        None => " ".repeat(4),
        Some((Some(n), _)) if n <= 1024 => " ".repeat(n),
        Some((_, Some(text))) => text.to_string(),
        _ => return Err(invalid("unsupported indent width")),
    };
    let mut out = if first { indention.clone() } else { String::new() };
    for (i, line) in lines_of(&format!("{text}\n"), false).into_iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        if i > 0 && (blank || !line.is_empty()) {
            out += &indention;
        }
        out += line;
        if out.len() > MAX_TEXT_BYTES {
            return Err(invalid("more than 1 MiB of text"));
        }
    }
    Ok(out)
}

fn add_tests(environment: &mut Environment) {
    // Jinja has none of these.
    for name in ["startingwith", "endingwith", "safe"] {
        environment.remove_test(name);
    }
    environment.add_test("iterable", |value: &Value| {
        let kind = value.kind();
        value.is_undefined()
            || matches!(kind, ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
    });
    environment.add_test("sequence", |value: &Value| {
        value.is_undefined() || matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map)
    });
}

/// The methods of Python's strings, lists and dictionaries that minijinja lacks or implements differently. Methods that
/// modify a list or a dictionary are errors, as in the sandbox of transformers.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(result) = value.as_str().and_then(|text| text_method(text, name, args)) {
        return result;
    }
    match (value.kind(), name) {
        (ValueKind::Seq, "index") => {
            let (wanted,): (&Value,) = from_args(args)?;
            let at = value.try_iter()?.position(|item| item == *wanted);
            at.map(Value::from).ok_or_else(|| invalid("the list does not have this item"))
        }
        (ValueKind::Seq | ValueKind::Map, "copy") => {
            let () = from_args(args)?;
            Ok(value.clone())
        }
        _ => pycompat::unknown_method_callback(state, value, name, args),
    }
}
