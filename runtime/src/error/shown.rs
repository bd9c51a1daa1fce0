//! Printing text from untrusted sources: one rule for all output of the programs.
//!
//! Display controls are the control characters, which terminals execute (all of Cc), the separators of lines and
//! paragraphs, and the bidirectional embeddings, overrides and isolates, which change the display order of other text
//! and so can make a line read as something else. Lines, tables and JSON escape them. Text for a terminal has U+FFFD
//! instead, except for newlines and tabs.
//!
//! Characters that writing needs are kept: the joiners of emoji and scripts, and the direction marks, which affect
//! their neighbours only.

/// Whether a character controls a terminal or the display order of other characters.
pub fn is_display_control(c: char) -> bool {
    let is_format = matches!(c,
        // Separators of lines and paragraphs, embeddings and overrides, isolates, and the deprecated ones that follow.
        '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}'
        // Annotations, which can hide the text that they enclose.
        | '\u{fff9}'..='\u{fffb}');
    c.is_control() || is_format
}

/// Text as one line: display controls are escaped as in Rust, `\n` and `\u{202e}`. The line has at most ten bytes for
/// each character of the text.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => line.extend(c.escape_default()),
            c if is_display_control(c) => line.extend(c.escape_unicode()),
            c => line.push(c),
        }
    }
    line
}

/// Appends text for a terminal: display controls except newlines and tabs become U+FFFD.
pub fn push_for_terminal(text: &str, out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some((at, c)) = rest.char_indices().find(|&(_, c)| is_display_control(c) && !matches!(c, '\n' | '\t')) {
        out.extend(&rest.as_bytes()[..at]);
        out.extend("\u{fffd}".as_bytes());
        rest = &rest[at + c.len_utf8()..];
    }
    out.extend(rest.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_escape_and_terminals_replace_display_controls() {
        let terminal = |text: &str| {
            let mut out = Vec::new();
            push_for_terminal(text, &mut out);
            String::from_utf8(out).expect("whole characters")
        };
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
            let mut out = Vec::new();
            push_for_terminal(text, &mut out);
            assert_eq!((one_line(text).as_str(), out.as_slice()), (text, text.as_bytes()));
        }
    }
}
