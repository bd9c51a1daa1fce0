//! Text of strangers for people: one rule for everything that the programs print.
//!
//! A character steers when it does more than to show something at its place: control characters, which terminals obey
//! (all of Cc), the separators of lines and paragraphs, and those that turn the order around in which the text up to
//! their end is shown, so that a line reads as something that it does not say. Lines escape them, tables and JSON too;
//! text that goes to a terminal has U+FFFD in their place, but for newlines and tabs.
//!
//! Everything that writing needs stays: the joiners of emoji and of scripts, and the marks of direction, which turn
//! nothing around but what stands beside them.

/// Whether a character steers: a terminal, or the order in which others are shown.
pub fn steers(c: char) -> bool {
    let is_format = matches!(c,
        // Separators of lines and paragraphs, embeddings and overrides, isolates, and the deprecated ones behind them.
        '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}'
        // Annotations, which can hide the text that they enclose.
        | '\u{fff9}'..='\u{fffb}');
    c.is_control() || is_format
}

/// Text for a line: what steers is escaped as in Rust, `\n` and `\u{202e}`, so that the line stays one and says what it
/// says. It has at most ten bytes for each character of the text.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => line.extend(c.escape_default()),
            c if steers(c) => line.extend(c.escape_unicode()),
            c => line.push(c),
        }
    }
    line
}

/// Appends text for a terminal: U+FFFD for what steers, but for newlines and tabs.
pub fn push_for_terminal(text: &str, out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some((at, c)) = rest.char_indices().find(|&(_, c)| steers(c) && !matches!(c, '\n' | '\t')) {
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
    fn what_steers_is_escaped_in_lines_and_replaced_in_terminals() {
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
    fn what_writing_needs_stays() {
        // A family, a word of Persian, one of Hebrew with a mark of direction, a soft hyphen, a flag of tags.
        let family = "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}\u{fe0f}";
        let scripts = "می\u{200c}خواهم \u{200e}שלום\u{200f} a\u{ad}b \u{61c}\u{1f3f4}\u{e0067}\u{e007f} x\u{301}";
        for text in [family, scripts, "\"a\\b\" \u{2027}\u{202f}\u{2065}\u{2070}\u{feff}"] {
            let mut out = Vec::new();
            push_for_terminal(text, &mut out);
            assert_eq!((one_line(text).as_str(), out.as_slice()), (text, text.as_bytes()));
        }
    }
}
