//! JSON on a line.

use crate::error::shown;
use std::io::{self, Write};

/// A string of JSON, in quotation marks.
pub fn json_string(out: &mut dyn Write, text: &str) -> io::Result<()> {
    out.write_all(b"\"")?;
    json_characters(out, text.as_bytes())?;
    out.write_all(b"\"")
}

/// The characters of a string, without the quotation marks. Invalid UTF-8 becomes U+FFFD.
pub fn json_characters(out: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    for chunk in bytes.utf8_chunks() {
        shown::json_characters(chunk.valid(), |piece| out.write_all(piece.as_bytes()))?;
        if !chunk.invalid().is_empty() {
            out.write_all("\u{fffd}".as_bytes())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_strings_escape_display_controls() {
        let written = |text| {
            let mut out = Vec::new();
            json_string(&mut out, text).expect("writing to memory");
            String::from_utf8(out).expect("UTF-8")
        };
        assert_eq!(written("a\"\\\n\u{1b}"), r#""a\"\\\u000a\u001b""#);
        assert_eq!(written("a\u{202e}b\u{2028}\u{200d}"), "\"a\\u202eb\\u2028\u{200d}\"");
        assert_eq!(written("\u{7f}\u{80}\u{9b}\u{9f}\u{a0}é"), "\"\\u007f\\u0080\\u009b\\u009f\u{a0}é\"");
    }
}
