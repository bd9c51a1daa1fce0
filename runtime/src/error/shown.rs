//! Printing text from untrusted sources: one rule for all output of the programs.
//!
//! Display controls are the control characters, which terminals execute (all of Cc), the separators of lines and
//! paragraphs, and the bidirectional embeddings, overrides and isolates, which change the display order of other text
//! and so can make a line read as something else. Lines, tables and JSON escape them. Text for a terminal has U+FFFD
//! instead, except for newlines and tabs.
//!
//! Characters that writing needs are kept: the joiners of emoji and scripts, and the direction marks, which affect
//! their neighbours only.

use std::convert::Infallible;
use std::path::Path;

/// Whether a character is a display control.
pub fn is_display_control(c: char) -> bool {
    let is_format = matches!(c,
        // Separators of lines and paragraphs, embeddings and overrides, isolates, and the deprecated ones that follow.
        '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}'
        // Annotations, which can hide the text that they enclose.
        | '\u{fff9}'..='\u{fffb}');
    c.is_control() || is_format
}

/// Hands `text` to `put` in pieces, with a replacement for each character that has one.
fn replace<E>(
    text: &str,
    replacement: impl Fn(char) -> Option<String>,
    mut put: impl FnMut(&str) -> Result<(), E>,
) -> Result<(), E> {
    let mut from = 0;
    for (at, c) in text.char_indices() {
        if let Some(replacement) = replacement(c) {
            put(&text[from..at])?;
            put(&replacement)?;
            from = at + c.len_utf8();
        }
    }
    put(&text[from..])
}

/// [`replace`] in memory.
fn replaced(text: &str, replacement: impl Fn(char) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let Ok(()) = replace(text, replacement, |piece| {
        out.push_str(piece);
        Ok::<(), Infallible>(())
    });
    out
}

/// Text for a line: display controls are escaped as in Rust, `\n` and `\u{202e}`, so that it remains one line. It has
/// at most ten bytes for each character of the text.
pub fn one_line(text: &str) -> String {
    replaced(text, |c| match c {
        '\n' | '\r' | '\t' => Some(c.escape_default().to_string()),
        c => is_display_control(c).then(|| c.escape_unicode().to_string()),
    })
}

/// Text for a terminal: U+FFFD for display controls other than newlines and tabs.
pub fn for_terminal(text: &str) -> String {
    replaced(text, |c| (is_display_control(c) && !matches!(c, '\n' | '\t')).then(|| '\u{fffd}'.into()))
}

/// Escapes bytes for a double-quoted string in a line of output: `"` and `\` with a backslash, display controls
/// as `\n`, `\t`, `\r` or `\xHH`, invalid UTF-8 as `\xHH`.
pub fn quoted(bytes: &[u8]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("\\x{byte:02X}")).collect::<String>();
    let escape = |c: char| match c {
        '"' | '\\' => Some(format!("\\{c}")),
        '\n' | '\t' | '\r' => Some(c.escape_default().to_string()),
        c => is_display_control(c).then(|| hex(c.encode_utf8(&mut [0; 4]).as_bytes())),
    };
    bytes.utf8_chunks().map(|chunk| replaced(chunk.valid(), escape) + &hex(chunk.invalid())).collect()
}

/// Hands text for a string of JSON to `put`, without the quotation marks. Display controls are escaped too, which JSON
/// leaves to the writer.
///
/// # Errors
/// Those of `put`.
pub fn json_characters<E>(text: &str, put: impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
    let escape = |c: char| match c {
        '"' | '\\' => Some(format!("\\{c}")),
        c => json_escape(c),
    };
    replace(text, escape, put)
}

/// A line of JSON with display controls escaped, which are in its strings only.
pub fn json_line(json: &str) -> String {
    replaced(json, json_escape)
}

/// All display controls have four hexadecimal digits.
fn json_escape(c: char) -> Option<String> {
    is_display_control(c).then(|| format!("\\u{:04x}", u32::from(c)))
}

/// A path as text: bytes that are not UTF-8 as `\xHH`, an empty path as `""`.
pub fn path_text(path: &Path) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
    let chunks = path.as_os_str().as_encoded_bytes().utf8_chunks();
    let text: String = chunks.map(|chunk| chunk.valid().to_string() + &hex(chunk.invalid())).collect();
    if text.is_empty() { "\"\"".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn display_controls_are_escaped_in_lines_and_replaced_in_terminals() {
        let terminal = for_terminal;
        for (c, line) in [
            ('\u{1b}', "\\u{1b}"),
            ('\r', "\\r"),
            ('\0', "\\u{0}"),
            ('\u{7f}', "\\u{7f}"),
            ('\u{85}', "\\u{85}"),
            ('\u{9b}', "\\u{9b}"),
            ('\u{2028}', "\\u{2028}"),
            ('\u{2029}', "\\u{2029}"),
            ('\u{202a}', "\\u{202a}"),
            ('\u{202e}', "\\u{202e}"),
            ('\u{2066}', "\\u{2066}"),
            ('\u{2069}', "\\u{2069}"),
            ('\u{206f}', "\\u{206f}"),
            ('\u{fff9}', "\\u{fff9}"),
        ] {
            let text = format!("a{c}é");
            assert_eq!((one_line(&text), terminal(&text)), (format!("a{line}é"), "a\u{fffd}é".into()));
        }
        assert_eq!((one_line("a\n\tb"), terminal("a\n\tb")), ("a\\n\\tb".into(), "a\n\tb".into()));
    }

    #[test]
    fn joiners_and_direction_marks_are_kept() {
        // A family emoji, a Persian word, a Hebrew word with direction marks, a soft hyphen, a tag-sequence flag.
        let family = "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}\u{fe0f}";
        let scripts = "می\u{200c}خواهم \u{200e}שלום\u{200f} a\u{ad}b \u{61c}\u{1f3f4}\u{e0067}\u{e007f} x\u{301}";
        for text in [family, scripts, "\"a\\b\" \u{2027}\u{202f}\u{2065}\u{2070}\u{feff}"] {
            assert_eq!((one_line(text).as_str(), for_terminal(text).as_str()), (text, text));
        }
    }

    #[test]
    fn quoted_escapes_quotes_and_control_characters() {
        for (bytes, expected) in [
            (&b" of"[..], " of"),
            (b"\"", "\\\""),
            (b"a\\b", "a\\\\b"),
            (b"\n\t\r\0\x7f", "\\n\\t\\r\\x00\\x7F"),
            ("é\u{85}".as_bytes(), "é\\xC2\\x85"),
            ("a\u{202e}b".as_bytes(), "a\\xE2\\x80\\xAEb"),
            (b"\xe4\xbd x", "\\xE4\\xBD x"),
            (b"\xff", "\\xFF"),
        ] {
            assert_eq!(quoted(bytes), expected);
        }
    }

    #[test]
    fn json_line_escapes_display_controls() {
        assert_eq!(json_line("{\"a\u{9b}\":\"\u{202e}é\\n\"}"), "{\"a\\u009b\":\"\\u202eé\\n\"}");
    }

    #[test]
    fn path_text_shows_invalid_bytes_in_hexadecimal() {
        let text = |bytes: &[u8]| path_text(Path::new(OsStr::from_bytes(bytes)));
        assert_eq!((text(b""), text(b"a\xff/b"), text("é".as_bytes())), ("\"\"".into(), "a\\xff/b".into(), "é".into()));
    }
}
