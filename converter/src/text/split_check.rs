//! Detects a `tokenizer.json` whose split differs from the one that its vocabulary was trained with.
//!
//! Some versions of transformers save the tokenizer of OLMo-2 and Olmo-3 with the split of GPT-2. Its ids are valid and
//! detokenize correctly, but the model was trained with other ids. Every token made by merges was once inside a word:
//! if the split cannot produce such a word, it is the wrong one.

use olmo_infer::internals::text::tokenizer::PreTokenizer;

/// One in this many tokens must be impossible: single ones may come from a split with small differences.
const ONE_IN: usize = 200;

/// A warning if `merged`, the bytes of tokens made by merges, fit the other split better.
pub(crate) fn warning<'a>(kind: PreTokenizer, merged: impl Iterator<Item = &'a [u8]>) -> Option<String> {
    // Letters, numbers and spaces outside ASCII depend on the Unicode version.
    let tokens: Vec<&[u8]> = merged.filter(|token| token.is_ascii()).collect();
    let other = match kind {
        PreTokenizer::Dolma2 => PreTokenizer::Gpt2,
        PreTokenizer::Gpt2 => PreTokenizer::Dolma2,
    };
    let impossible = |kind| tokens.iter().copied().filter(move |token| !can_be_in_a_word(kind, token));
    let (n, n_other) = (impossible(kind).count(), impossible(other).count());
    if n == 0 || n * ONE_IN < tokens.len() || n_other * 4 > n {
        return None;
    }
    let example = olmo_infer::internals::error::shown::quoted(impossible(kind).next()?);
    let models = |kind| match kind {
        PreTokenizer::Dolma2 => "OLMo-2 and Olmo-3",
        PreTokenizer::Gpt2 => "OLMo-1",
    };
    Some(format!(
        "tokenizer.json splits text as {} does, which cannot produce {n} of its tokens, such as \"{example}\"; its \
         vocabulary was made with the split of {}, as in {}: the model was probably trained with other ids than text \
         now gets; pack it with the tokenizer.json of the base model (--vocab)",
        kind.name(),
        other.name(),
        models(other)
    ))
}

/// Whether a word of this split can contain an ASCII text.
fn can_be_in_a_word(kind: PreTokenizer, token: &[u8]) -> bool {
    let letters = |text: &[u8]| text.iter().all(u8::is_ascii_alphabetic);
    let numbers = |text: &[u8]| text.iter().all(u8::is_ascii_digit);
    let is_space = |byte: u8| byte.is_ascii_whitespace() || byte == 0x0b;
    let signs = |text: &[u8]| text.iter().all(|&byte| !byte.is_ascii_alphanumeric() && !is_space(byte));
    let after_space = token.strip_prefix(b" ").unwrap_or(token);
    let lower = token.to_ascii_lowercase();
    let contraction = matches!(
        if kind == PreTokenizer::Dolma2 { lower.as_slice() } else { token },
        b"'s" | b"'t" | b"'r" | b"'re" | b"'v" | b"'ve" | b"'m" | b"'l" | b"'ll" | b"'d"
    );
    if contraction || token.iter().all(|&byte| is_space(byte)) {
        return true;
    }
    match kind {
        PreTokenizer::Gpt2 => letters(after_space) || numbers(after_space) || signs(after_space),
        PreTokenizer::Dolma2 => {
            let first_is_any = !matches!(token[0], b'\r' | b'\n' | b'0'..=b'9');
            let ends = after_space.iter().rev().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            letters(token)
                || (first_is_any && letters(&token[1..]))
                || (token.len() <= 3 && numbers(token))
                || signs(&after_space[..after_space.len() - ends])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn can_be_in_a_word_follows_split() {
        let both = ["ab", " ab", "12", "'s", "'ll", "  ", "\n\n", " \n ", "==", " ==", "'l", "\u{b}\u{b}"];
        let dolma2 = [".org", "\tif", "'LL", ");\n", " {\r\n", "'x"];
        let gpt2 = ["1234", " 1", " 2023"];
        let neither = ["a1", "a.", "a b", "1a", "\nab", "-1", "ab\n", "1\n"];
        for (tokens, expected) in
            [(&both[..], [true, true]), (&dolma2, [true, false]), (&gpt2, [false, true]), (&neither, [false, false])]
        {
            for token in tokens {
                let found = PreTokenizer::ALL.map(|kind| can_be_in_a_word(kind, token.as_bytes()));
                assert_eq!(found, expected, "{token:?}");
            }
        }
    }

    #[test]
    fn few_impossible_tokens_give_no_warning() {
        let plain = vec![&b"ab"[..]; 199];
        let with = |more: &[&'static [u8]]| {
            let tokens = plain.iter().copied().chain(more.iter().copied());
            warning(PreTokenizer::Gpt2, tokens)
        };
        assert!(with(&[]).is_none() && with(&[b"a1"]).is_none());
        let text = with(&[b".org"]).expect("one in 200");
        assert!(text.contains(
            "cannot produce 1 of its tokens, such as \".org\"; its vocabulary was made with the split of dolma2"
        ));
        assert!(
            warning(PreTokenizer::Gpt2, plain.iter().copied().chain(plain.iter().copied()).chain([&b".org"[..]]))
                .is_none()
        );
    }
}
