//! Probe contents for chat templates: contents that reveal what is stripped or cut, contents with the strings, lengths
//! and numbers of the template itself, and random ones.

use crate::text::jinja::Names;
use crate::text::template_source::{tags, texts};
use std::str::Chars;

/// Longest string of a template that is probed.
const MAX_LITERAL_BYTES: usize = 1 << 12;
/// Most strings of one statement that are probed in pairs.
const MAX_PAIRED: usize = 12;
/// Largest number of a template that may count characters, lines or words of a message.
const MAX_LENGTH: usize = 20_000;
/// The default end of thinking.
const THINK_END: &str = "</think>";

/// Contents that distinguish all rules with different results; `think_end` ends thinking.
pub fn contents(think_end: &str) -> Vec<String> {
    let long = "a long story, ".repeat(400);
    let lines = "line\n".repeat(120);
    let contents = [
        "a",
        "42",
        "HELLO WORLD",
        "Hello",
        " Hi,\n \"there\" ",
        "\n\n a\n b\n\n",
        "a\r\nb\rc\r\n",
        "\t\u{85}\u{a0}a\u{200b}\u{2028}b\u{1c}\u{3000}",
        " \n a \n ",
        "<think>\nR r\n</think>\n\n A b \n",
        "<think>R</think> A</think>\nB",
        " R\n</think>\n \nA\n",
        "R</think> \n A \n\n",
        "<think>open",
        "<b>'a' & {{ b }} {% c %} \\n</b>",
        &long,
        &lines,
    ];
    let think = think_begin(think_end);
    contents.map(|content| content.replace(THINK_END, think_end).replace("<think>", &think)).to_vec()
}

/// The start tag for an end tag: `<think>` for `</think>`.
pub fn think_begin(think_end: &str) -> String {
    think_end.replacen("</", "<", 1).replacen("[/", "[", 1).replacen("END", "START", 1)
}

/// The first string that looks like an end of thinking.
pub fn think_end(literals: &[String]) -> String {
    let ends = |literal: &&String| {
        let small = literal.trim().to_lowercase();
        let is_tag = small.starts_with("</") || small.starts_with("[/") || small.contains("end");
        is_tag && small.len() < 40 && ["think", "reason", "thought"].iter().any(|word| small.contains(word))
    };
    literals.iter().find(ends).map_or(THINK_END.into(), |literal| literal.trim().to_string())
}

/// The distinct strings of a template: quoted ones, text between statements, and tokens.
pub fn literals(source: &str, names: &Names) -> Vec<String> {
    let quoted = tags(source).flat_map(|tag| {
        let parts = literals_of(tag);
        // A string may be concatenated from parts.
        let whole = parts.concat();
        parts.into_iter().chain([whole])
    });
    let between = texts(source).map(|text| text.trim().to_string());
    let tokens = names.iter().map(|(_, token)| token.clone());
    let mut literals: Vec<String> = Vec::new();
    for text in quoted.chain(between).chain(tokens) {
        if !text.is_empty() && text.len() <= MAX_LITERAL_BYTES && !literals.contains(&text) {
            literals.push(text);
        }
    }
    literals
}

/// Pairs of strings of one statement, which may test for both.
pub fn pairs(source: &str) -> Vec<[String; 2]> {
    let mut pairs: Vec<[String; 2]> = Vec::new();
    for tag in tags(source) {
        let literals = literals_of(tag);
        let some = &literals[..literals.len().min(MAX_PAIRED)];
        for (a, b) in some.iter().flat_map(|a| some.iter().map(move |b| (a, b))).filter(|(a, b)| a != b) {
            let pair = [a.clone(), b.clone()];
            if !pairs.contains(&pair) {
                pairs.push(pair);
            }
        }
    }
    pairs
}

/// The distinct integers of a template, which may count something.
pub fn numbers(source: &str) -> Vec<usize> {
    let words = tags(source).flat_map(|tag| tag.split(|c: char| !c.is_alphanumeric() && c != '_'));
    let mut numbers: Vec<usize> = words.filter_map(|word| word.parse().ok()).filter(|&n| n <= MAX_LENGTH).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Contents with `n` characters, lines and words.
pub fn contents_of_length(n: usize) -> [String; 3] {
    ["x".repeat(n), "line\n".repeat(n), "word ".repeat(n)]
}

/// Contents with a string at the positions that templates test.
pub fn contents_with(literal: &str) -> Vec<String> {
    let mut contents = Vec::new();
    let variants = [literal.to_string(), literal.to_uppercase(), literal.to_lowercase(), title(literal)];
    for (i, text) in variants.iter().enumerate().filter(|(i, text)| !variants[..*i].contains(text)) {
        contents.push(text.clone());
        contents.push(format!("{text} b"));
        if i == 0 {
            contents.extend([format!("a {text}"), format!("a\n{text}\nb {text}c")]);
        }
    }
    contents
}

/// A text with its first letter in upper case.
fn title(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().collect::<String>() + chars.as_str()).unwrap_or_default()
}

/// The quoted strings of a statement or an expression, unescaped.
fn literals_of(tag: &str) -> Vec<String> {
    let mut literals: Vec<String> = Vec::new();
    let mut chars = tag.chars();
    while let Some(quote) = chars.find(|c| matches!(c, '"' | '\'')) {
        let mut text = String::new();
        while let Some(c) = chars.next().filter(|&c| c != quote) {
            text.extend(if c == '\\' { unescaped(&mut chars) } else { Some(c) });
        }
        if !text.is_empty() && !literals.contains(&text) {
            literals.push(text);
        }
    }
    literals
}

/// The character of an escape sequence, after its backslash.
fn unescaped(chars: &mut Chars) -> Option<char> {
    let code = |chars: &mut Chars, digits: usize| {
        let hex: String = chars.by_ref().take(digits).collect();
        u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32)
    };
    match chars.next()? {
        'n' => Some('\n'),
        't' => Some('\t'),
        'r' => Some('\r'),
        'v' => Some('\u{b}'),
        'f' => Some('\u{c}'),
        'b' => Some('\u{8}'),
        'a' => Some('\u{7}'),
        '0' => Some('\0'),
        'x' => code(chars, 2),
        'u' => code(chars, 4),
        other => Some(other),
    }
}

/// Deterministic random contents.
pub struct Random(u64);

impl Random {
    /// A generator with this seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A number below `n`: splitmix64 (Steele et al. 2014).
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % n as u64) as usize
    }

    /// A content of some pieces, sometimes with thinking and strings of the template.
    pub fn content(&mut self, think_end: &str, literals: &[String]) -> String {
        const PIECES: [&str; 28] = [
            "Hello",
            " world",
            ".",
            "\n",
            "\n\n",
            " ",
            "  ",
            "é",
            "\u{1f600}",
            "12345",
            "```\ncode\n```",
            "- item\n",
            "\"q\"",
            "'s",
            "<b>",
            "&amp;",
            "{{ x }}",
            "{% if %}",
            "\\n",
            "\t",
            "\u{a0}",
            "\u{85}",
            "<think>",
            "/",
            "\r\n",
            "\u{200b}",
            "**b**",
            "## h",
        ];
        let mut content = String::new();
        for _ in 0..=self.below(6) {
            content += PIECES[self.below(PIECES.len())];
        }
        let think = think_begin(think_end);
        match self.below(8) {
            0 => content = format!("{think}\n{content}\n{think_end}\n\nYes"),
            1 => content = format!("{content}{think_end}{content}{think_end} No"),
            2 if !literals.is_empty() => content += &literals[self.below(literals.len())],
            3 => content = content.repeat(60),
            _ => {}
        }
        content
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_finds_strings_of_template_and_tokens() {
        let source =
            "{{ 'a\\n' }} don't {# 'no' #}{{ \"b'c\" }}{% if 'a\\n' %} {{ '' }} {% raw %}{{ 'raw' }}{% endraw %}";
        let names = vec![("bos_token".to_string(), "<s>".to_string())];
        assert_eq!(literals(source, &names), ["a\n", "b'c", "don't", "{{ 'raw' }}", "<s>"]);
        assert_eq!(literals("{{ '<' ~ \"s>\" }}", &Names::new()), ["<", "s>", "<s>"]);
        assert_eq!(literals_of("{{ '\\x41\\u200b\\r\\q' ~ \"\" }}"), ["A\u{200b}\rq"]);
        let pair = |a: &str, b: &str| [a.to_string(), b.to_string()];
        assert_eq!(pairs("{% if 'a' in b or \"c\" in b %}"), [pair("a", "c"), pair("c", "a")]);
        assert_eq!(numbers("{{ x[:20] if n > 3 else y2 }} 7 {{ 1000000 }}"), [3, 20]);
        assert_eq!(think_begin("</reasoning>"), "<reasoning>");
    }
}
