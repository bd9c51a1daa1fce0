//! The source of a chat template: its statements, and a translation to the dialect of minijinja.

use crate::error::shortened;

/// A piece of a template.
enum Piece<'s> {
    /// Text and comments.
    Text(&'s str),
    /// A statement or an expression, including its delimiters.
    Tag(&'s str),
    /// `{% raw %}`, and the text up to the tag that ends it.
    Raw(&'s str, &'s str),
}

/// Splits a template into pieces. An unterminated tag is text; the parser reports it.
fn pieces(source: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = source;
    // One search for all three: a separate search would scan the whole rest for an absent one.
    let begin = |text: &str| text.as_bytes().windows(2).position(|pair| matches!(pair, b"{%" | b"{{" | b"{#"));
    while let Some(at) = begin(rest) {
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

/// The content of a statement; empty for an expression.
fn body(tag: &str) -> &str {
    let body = tag.strip_prefix("{%").and_then(|tag| tag.strip_suffix("%}")).unwrap_or_default();
    body.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim()
}

/// Translates a template where minijinja reads it differently from jinja2.
///
/// `{% generation %}` marks the assistant's text for training, and has its own scope, as `{% with %}` has. A newline
/// after `{% raw %}` stays. Escapes in quoted strings are those of Python.
pub(crate) fn to_minijinja(source: &str) -> Result<String, String> {
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
                // minijinja binds their names in another order, or escapes their text differently.
                body if binds_differently(body) => {
                    let body = shortened(body, 60);
                    return Err(format!("its chat template cannot be used: {body:?} is not supported"));
                }
                _ => out += &with_known_escapes(tag)?,
            },
        }
    }
    Ok(out)
}

/// Whether minijinja runs a tag differently: automatic escapes, several names in one `with`, and a macro whose defaults
/// refer to its other arguments.
fn binds_differently(body: &str) -> bool {
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

/// A tag with the escapes of Python translated to those of minijinja.
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

/// The end of a tag that begins with two characters; quoted strings are skipped.
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

/// The start of the tag that ends raw text; the end of `text` if there is none.
fn end_of_raw(text: &str) -> usize {
    let is_end = |at: &usize| text[at + 2..].trim_start_matches(['-', '+']).trim_start().starts_with("endraw");
    text.match_indices("{%").map(|(at, _)| at).find(is_end).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_tags_become_scopes_except_in_raw_and_comments() {
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
            assert_eq!(to_minijinja(source).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn python_escapes_become_minijinja_escapes() {
        for (source, expected) in [
            ("{{ '\\a\\v\\101\\0' }}", "{{ '\\u0007\\u000b\\u0041\\u0000' }}"),
            ("{{ \"\\n\\x41\\'\\d\\\\a\" }}\\a", "{{ \"\\n\\x41\\'\\d\\\\a\" }}\\a"),
            ("{% set a = 'b\\\nc' %}", "{% set a = 'bc' %}"),
        ] {
            assert_eq!(to_minijinja(source).as_deref(), Ok(expected));
        }
        assert!(to_minijinja("{{ '\\N{BULLET}' }}").is_err());
    }
}
