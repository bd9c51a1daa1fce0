//! Chat templates run as `apply_chat_template` of transformers runs them: the Jinja environment of
//! `utils/chat_template_utils.py` there, on top of minijinja.
//!
//! Where minijinja and jinja2 part, this follows jinja2, or is an error of the template. `tests/chat_templates` holds both
//! against the real library, and lists the expressions that still print otherwise: none that a chat template is known
//! to use.

use crate::error::shortened;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, Rest, Tuple, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value, context};
use minijinja_contrib::pycompat;
use olmo_infer::chat::{Message, is_python_space};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter};
use std::io;
use std::mem::take;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

/// Steps that a render may take; the published templates take some thousands.
const FUEL: u64 = 1_000_000;
/// Longest text that a template may write.
const MAX_TEXT_BYTES: usize = 1 << 20;
/// Longest reason why a template cannot be used.
const MAX_REASON_CHARS: usize = 300;
/// The name under which the template is known to the environment.
const NAME: &str = "chat";

/// Texts by which a template may call tokens: `bos_token` and the like, with what they stand for.
pub type Names = Vec<(String, String)>;

/// A parsed template, and the names of tokens that it may use.
pub struct Template {
    environment: Environment<'static>,
    names: Value,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn new(source: &str, names: &Names) -> Result<Template, String> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(in_words)?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(method);
        let refuse = |message: String| -> Result<Value, Error> { Err(invalid(message)) };
        environment.add_function("raise_exception", refuse);
        environment.set_formatter(|out, state, value| match prints_as_in_python(value, false) {
            true => minijinja::escape_formatter(out, state, value),
            false => Err(invalid("prints a value that Python prints otherwise")),
        });
        add_filters(&mut environment);
        add_tests(&mut environment);
        let source = in_the_dialect_of_minijinja(&source.replace("\r\n", "\n").replace('\r', "\n"))?;
        environment.add_template_owned(NAME, source).map_err(in_words)?;
        let names = Value::from_pairs(names.iter().map(|(name, text)| (name.clone(), text.clone())));
        Ok(Template { environment, names })
    }

    /// The text that asks for an answer after `messages`; `date` answers `strftime_now`.
    ///
    /// # Errors
    /// What the template says or does wrong, in one line.
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
        let template = self.environment.get_template(NAME).map_err(in_words)?;
        // The interpreter has divisions by zero of its own, as in `loop.cycle()`.
        let render = AssertUnwindSafe(|| template.render_captured_to(context, &mut text).map(|_| ()));
        let rendered = catch_unwind(render);
        rendered.map_err(|_| "its chat template cannot be used: it panics".to_string())?.map_err(in_words)?;
        String::from_utf8(text.0).map_err(|_| "its chat template writes bytes that are not text".to_string())
    }
}

fn in_words(error: Error) -> String {
    shortened(&format!("its chat template cannot be used: {error}").replace('\n', " "), MAX_REASON_CHARS)
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// Whether minijinja prints a value as Python does: floats near 1 and texts without characters that Python escapes.
fn prints_as_in_python(value: &Value, is_inside: bool) -> bool {
    let escapes = |c: char| !c.is_ascii() && (c.is_whitespace() || c.is_control() || is_format_character(c));
    let inside = |value: Value| prints_as_in_python(&value, true);
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

/// Characters without a shape, which `repr` of Python escapes.
fn is_format_character(c: char) -> bool {
    let ranges = ['\u{ad}'..='\u{ad}', '\u{200b}'..='\u{200f}', '\u{202a}'..='\u{202e}', '\u{2060}'..='\u{206f}'];
    ranges.iter().any(|range| range.contains(&c)) || matches!(c, '\u{e000}'..='\u{f8ff}' | '\u{feff}' | '\u{f0000}'..)
}

/// What a template writes, up to a limit.
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

/// A piece of a template.
enum Piece<'s> {
    /// What is written as it is: text, and comments, which are not.
    Text(&'s str),
    /// A statement or an expression with its brackets.
    Tag(&'s str),
    /// `{% raw %}`, and the text up to the tag that ends it.
    Raw(&'s str, &'s str),
}

/// Takes a template apart. A tag without an end, an error that the parser reports, is text.
fn pieces(source: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = source;
    while let Some(at) = rest.find("{%").into_iter().chain(rest.find("{{")).chain(rest.find("{#")).min() {
        let (text, tagged) = rest.split_at(at);
        let end = match &tagged[..2] {
            "{#" => tagged.find("#}").map(|at| at + 2),
            "{{" => end_of_tag(tagged, "}}"),
            _ => end_of_tag(tagged, "%}"),
        };
        let Some(end) = end else { break };
        let (tag, others) = tagged.split_at(end);
        pieces.push(Piece::Text(text));
        rest = others;
        if tag.starts_with("{#") {
            pieces.push(Piece::Text(tag));
        } else if body(tag) == "raw" {
            let (raw, others) = rest.split_at(end_of_raw(rest));
            pieces.push(Piece::Raw(tag, raw));
            rest = others;
        } else {
            pieces.push(Piece::Tag(tag));
        }
    }
    pieces.push(Piece::Text(rest));
    pieces
}

/// The statements and expressions of a template.
pub(crate) fn tags(source: &str) -> impl Iterator<Item = &str> {
    pieces(source).into_iter().filter_map(|piece| match piece {
        Piece::Tag(tag) => Some(tag),
        Piece::Text(_) | Piece::Raw(..) => None,
    })
}

/// The texts between the statements and expressions of a template.
pub(crate) fn texts(source: &str) -> impl Iterator<Item = &str> {
    pieces(source).into_iter().filter_map(|piece| match piece {
        Piece::Text(text) if !text.starts_with("{#") => Some(text),
        Piece::Raw(_, text) => Some(text),
        Piece::Text(_) | Piece::Tag(_) => None,
    })
}

/// What is in a statement; empty for an expression.
fn body(tag: &str) -> &str {
    let body = tag.strip_prefix("{%").and_then(|tag| tag.strip_suffix("%}")).unwrap_or_default();
    body.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim()
}

/// What minijinja reads otherwise than jinja2 becomes what it reads alike.
///
/// `{% generation %}` marks what the assistant wrote for training, and runs what it encloses in a scope of its own, as
/// `{% with %}` does. A newline after `{% raw %}` stays. Escapes in quoted texts are those of Python.
fn in_the_dialect_of_minijinja(source: &str) -> Result<String, String> {
    let mut out = String::with_capacity(source.len());
    for piece in pieces(source) {
        match piece {
            Piece::Text(text) => out += text,
            Piece::Raw(tag, text) => {
                out += tag;
                if text.starts_with('\n') && !tag.ends_with("-%}") {
                    out.push('\n');
                }
                out += text;
            }
            Piece::Tag(tag) => match body(tag) {
                "generation" => out += &tag.replacen("generation", "with", 1),
                "endgeneration" => out += &tag.replacen("endgeneration", "endwith", 1),
                // Their names are bound in another order, or their texts escaped otherwise.
                body if is_bound_otherwise(body) => {
                    let body = shortened(body, 60);
                    return Err(format!("its chat template cannot be used: {body:?} is not supported"));
                }
                _ => out += &with_known_escapes(tag)?,
            },
        }
    }
    Ok(out)
}

/// Whether a tag is one that minijinja carries out otherwise: automatic escapes, several names in one `with`, and a macro
/// whose defaults name its other arguments.
fn is_bound_otherwise(body: &str) -> bool {
    let (word, rest) = body.split_once(char::is_whitespace).unwrap_or((body, ""));
    match word {
        "autoescape" => true,
        "with" => rest.contains(',') && rest.matches('=').count() > 1,
        "macro" => {
            let arguments = rest.split_once('(').map_or("", |(_, arguments)| arguments);
            let arguments = arguments.trim_end().trim_end_matches(')').split(',');
            let mut names: Vec<&str> = Vec::new();
            arguments.map(|argument| argument.split_once('=').unwrap_or((argument, ""))).any(|(name, default)| {
                let is_name = |c: char| c.is_alphanumeric() || c == '_';
                let uses = default.split(|c| !is_name(c)).any(|word| names.contains(&word));
                names.push(name.trim());
                uses
            })
        }
        _ => false,
    }
}

/// A tag whose quoted texts have no escapes that minijinja reads otherwise than Python.
fn with_known_escapes(tag: &str) -> Result<String, String> {
    let mut out = String::with_capacity(tag.len());
    let mut quote = None;
    let mut chars = tag.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (Some(_), '\\') => {
                match chars.next() {
                    Some('\n') => {}
                    Some('a') => out += "\\u0007",
                    Some('v') => out += "\\u000b",
                    Some(digit @ '0'..='7') => {
                        let mut value = digit.to_digit(8).unwrap_or(0);
                        for _ in 0..2 {
                            let Some(digit) = chars.peek().and_then(|c| c.to_digit(8)) else { break };
                            value = 8 * value + digit;
                            chars.next();
                        }
                        out += &format!("\\u{value:04x}");
                    }
                    Some(c @ ('U' | 'N')) => {
                        return Err(format!("its chat template cannot be used: the escape \\{c} is not supported"));
                    }
                    Some(other) => out.extend(['\\', other]),
                    None => out.push('\\'),
                }
                continue;
            }
            _ => {}
        }
        out.push(c);
    }
    Ok(out)
}

/// Where a tag ends that begins with two characters, quoted texts left out.
fn end_of_tag(tag: &str, end: &str) -> Option<usize> {
    let bytes = tag.as_bytes();
    let mut at = 2;
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'"' | b'\'') => {
                at += 1;
                while *bytes.get(at)? != quote {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            _ if bytes[at..].starts_with(end.as_bytes()) => return Some(at + end.len()),
            _ => at += 1,
        }
    }
    None
}

/// Where the tag begins that ends raw text; the end of `text` without one.
fn end_of_raw(text: &str) -> usize {
    let is_end = |at: &usize| text[at + 2..].trim_start_matches(['-', '+']).trim_start().starts_with("endraw");
    text.match_indices("{%").map(|(at, _)| at).find(is_end).unwrap_or(text.len())
}

fn add_filters(environment: &mut Environment) {
    environment.add_filter("tojson", tojson);
    for name in ["escape", "e", "forceescape"] {
        environment.add_filter(name, |text: &Value| escaped(&text.to_string()));
    }
    // Jinja has none of these, or prints in another form. `format` may ask for any width.
    for name in ["pprint", "split", "bool", "chain", "zip", "lines", "format"] {
        environment.remove_filter(name);
    }
    environment.add_filter("indent", indent);
    // The built-in filters, for those that are lazy in jinja2.
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
    let mut begins = true;
    for c in text.chars() {
        match begins {
            true => out.extend(c.to_uppercase()),
            false => out.extend(c.to_lowercase()),
        }
        begins = is_python_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    }
    out
}

/// Jinja's filter `escape`.
fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('\'', "&#39;").replace('"', "&#34;")
}

/// Refuses formats that ask for very many characters.
fn refuse_wide(format: &str) -> Result<(), Error> {
    match format.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 4) {
        true => Err(invalid("a format of more than 9999 characters")),
        false => Ok(()),
    }
}

/// What a lazy filter of jinja2 yields: true in conditions, and empty after one pass.
#[derive(Debug)]
struct Generator(Mutex<Vec<Value>>);

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        // A poisoned lock has lost no item.
        let items = take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        Enumerator::Iter(Box::new(items.into_iter()))
    }

    // A loop asks for it, whose `loop.last` jinja2 knows too.
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
        _ => return Err(invalid("indent by such a width")),
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

/// `json.dumps` of Python, as transformers calls it: `ensure_ascii=False, indent=None, separators=None,
/// sort_keys=False`.
fn tojson(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
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
            _ => return Err(invalid("tojson with such an indent")),
        },
    };
    let separators = match separators {
        None if indent.is_some() => (",".to_string(), ": ".to_string()),
        None => (", ".to_string(), ": ".to_string()),
        Some(pair) => {
            let pair: Vec<Value> = pair.try_iter()?.collect();
            match pair.as_slice() {
                [item, key] => (item.to_string(), key.to_string()),
                _ => return Err(invalid("tojson with separators that are no pair")),
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

/// JSON with the keys of all objects in order.
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

/// A number as `repr` of Python writes it.
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
    /// The separator before an item that is not the first, and the line break of an indented form.
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

/// The methods of Python's texts, lists and dictionaries that minijinja does not have, or has otherwise. Methods that
/// change a list or a dictionary are errors, as in the sandbox of transformers.
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

/// Methods of a text; `None` for one that is left to minijinja.
fn text_method(text: &str, name: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    // Python counts characters, and these methods cut between them.
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

/// Characters that bring a text to a width.
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
        match by.as_ref().map(|by| by.as_str().ok_or_else(|| invalid("split by something else than a text"))) {
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

/// Python's `str.splitlines`, which knows more line ends than `\n`.
fn splitlines(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (keep, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
    let keep = match keep {
        Some(keep) => keep,
        None => kwargs.get::<Option<bool>>("keepends")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    Ok(lines_of(text, keep).into_iter().map(Value::from).collect())
}

/// The lines of a text as Python has them, with their ends or without.
fn lines_of(text: &str, keep_ends: bool) -> Vec<&str> {
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

/// Python's `str.title`: a letter after something else is upper case.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_tags_become_scopes_outside_of_raw_texts_and_comments() {
        for (source, expected) in [
            ("{% generation %}a{% endgeneration %}", "{% with %}a{% endwith %}"),
            ("{%- generation -%}a{%-endgeneration+%}", "{%- with -%}a{%-endwith+%}"),
            ("{# {% generation %} #}{{ '{% generation %}' }}", "{# {% generation %} #}{{ '{% generation %}' }}"),
            ("{% raw %}{% generation %}{% endraw %}", "{% raw %}{% generation %}{% endraw %}"),
            ("{% raw %}\n'\\v'{% endraw %}", "{% raw %}\n\n'\\v'{% endraw %}"),
            ("{% raw -%}\n{% endraw %}", "{% raw -%}\n{% endraw %}"),
            ("{% set a = '%}' %}{% generation %}", "{% set a = '%}' %}{% with %}"),
            ("{% generation", "{% generation"),
            ("{{ 'a\\'{% generation %}' }}", "{{ 'a\\'{% generation %}' }}"),
        ] {
            assert_eq!(in_the_dialect_of_minijinja(source).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn escapes_of_python_become_those_of_minijinja() {
        for (source, expected) in [
            ("{{ '\\a\\v\\101\\0' }}", "{{ '\\u0007\\u000b\\u0041\\u0000' }}"),
            ("{{ \"\\n\\x41\\'\\d\\\\a\" }}\\a", "{{ \"\\n\\x41\\'\\d\\\\a\" }}\\a"),
            ("{% set a = 'b\\\nc' %}", "{% set a = 'bc' %}"),
        ] {
            assert_eq!(in_the_dialect_of_minijinja(source).as_deref(), Ok(expected));
        }
        assert!(in_the_dialect_of_minijinja("{{ '\\N{BULLET}' }}").is_err());
    }
}
