//! Contents on which chat templates are tried: those that show what is stripped or cut, the texts that a template itself
//! contains, and random ones.

use crate::jinja;

/// Most texts of a template that are tried.
const MAX_LITERALS: usize = 100;
/// Longest text of a template that is tried.
const MAX_LITERAL_BYTES: usize = 200;
/// What ends thinking where the template does not say it.
const THINK_END: &str = "</think>";

/// Contents that tell all rules apart that write different things.
pub fn contents(think_end: &str) -> Vec<String> {
    [
        "a",
        " Hi,\n \"there\" ",
        "\n\n a\n b\n\n",
        "\t\u{85}\u{a0}a\u{1c}\u{3000}",
        " \n a \n ",
        "<think>\nR r\n</think>\n\n A b \n",
        "<think>R</think> A</think>\nB",
        " R\n</think>\n \nA\n",
        "R</think> \n A \n\n",
        "<think>open",
        "<b>'a' & {{ b }} {% c %} \\n</b>",
    ]
    .map(|content| content.replace(THINK_END, think_end))
    .to_vec()
}

/// The quoted texts of a template, unescaped as far as that matters, each once.
pub fn literals(source: &str) -> Vec<String> {
    let mut literals: Vec<String> = Vec::new();
    for tag in jinja::tags(source) {
        let mut chars = tag.chars();
        while let Some(quote) = chars.find(|c| matches!(c, '"' | '\'')) {
            let mut text = String::new();
            while let Some(c) = chars.next().filter(|&c| c != quote) {
                text.extend(match c {
                    '\\' => chars.next().map(|escaped| match escaped {
                        'n' => '\n',
                        't' => '\t',
                        other => other,
                    }),
                    c => Some(c),
                });
            }
            let is_new = !text.is_empty() && text.len() <= MAX_LITERAL_BYTES && !literals.contains(&text);
            if is_new && literals.len() < MAX_LITERALS {
                literals.push(text);
            }
        }
    }
    literals
}

/// The text that ends thinking: the first that looks like it.
pub fn think_end(literals: &[String]) -> String {
    let ends = |literal: &&String| {
        let small = literal.to_lowercase();
        let is_tag = small.starts_with("</") || small.starts_with("[/") || small.contains("end");
        is_tag && ["think", "reason", "thought"].iter().any(|word| small.contains(word))
    };
    literals.iter().find(ends).map_or(THINK_END.into(), |literal| literal.trim().to_string())
}

/// Random contents, the same in every run.
pub struct Random(u64);

impl Random {
    /// Numbers that begin with this one.
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

    /// A content of some pieces, with thinking and texts of the template now and then.
    pub fn content(&mut self, think_end: &str, literals: &[String]) -> String {
        const PIECES: [&str; 24] = [
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
        ];
        let mut content = String::new();
        for _ in 0..=self.below(6) {
            content += PIECES[self.below(PIECES.len())];
        }
        match self.below(8) {
            0 => content = format!("<think>\n{content}\n{think_end}\n\nYes"),
            1 => content = format!("{content}{think_end}{content}{think_end} No"),
            2 if !literals.is_empty() => content += &literals[self.below(literals.len())],
            _ => {}
        }
        content
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_the_quoted_texts() {
        let source =
            "{{ 'a\\n' }} don't {# 'no' #}{{ \"b'c\" }}{% if 'a\\n' %} {{ '' }} \"open{% raw %}{{ 'raw' }}{% endraw %}";
        assert_eq!(literals(source), ["a\n", "b'c"]);
    }
}
