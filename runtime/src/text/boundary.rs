//! Where one text ends in the ids of two, and how much text there is, as EleutherAI's evaluation harness has it.

use crate::error::Error;
use crate::format::config::ModelConfig;
use crate::os::memory;
use crate::text::encoder::Encoder;
use crate::text::vocabulary::Vocabulary;

/// The text of the token that separates documents in the training of OLMo models.
const END_OF_TEXT: &[u8] = b"<|endoftext|>";

/// The token that a text follows when nothing else precedes it: `<|endoftext|>`, which all OLMo models have, else the
/// BOS token, else the first EOS id.
pub fn start_token(vocabulary: Option<&Vocabulary>, config: &ModelConfig) -> Option<u32> {
    let named = vocabulary.and_then(|vocabulary| {
        let mut ids = (0..vocabulary.n_tokens() as u32).rev();
        ids.find(|&id| vocabulary.bytes(id) == Some(END_OF_TEXT))
    });
    named.or(config.bos_token_id).or_else(|| config.eos_token_ids.first().copied())
}

/// The ids of a text and its continuation, and how many of them are the text's.
///
/// Both are encoded as one text, and the text by itself; what follows its ids is the continuation, which has at least
/// one. White space at the end of the text counts as part of the continuation.
///
/// # Errors
/// Those of [`Encoder::encode`].
pub fn encode_pair(encoder: &Encoder, context: &str, continuation: &str) -> Result<(Vec<u32>, usize), Error> {
    let context_end = context.trim_end_matches(is_python_space).len();
    let mut whole = String::new();
    let room = memory::asking(|| whole.try_reserve_exact(context.len() + continuation.len()));
    room.map_err(|_| memory::too_little_for::<u8>(context.len() + continuation.len(), "a text and its continuation"))?;
    whole.push_str(context);
    whole.push_str(continuation);
    let n_context = encoder.encode(&context[..context_end])?.len();
    Ok((encoder.encode(&whole)?, n_context))
}

/// Number of words, as Python's `len(re.split(r"\s+", text))` counts them: an empty text has one.
pub fn count_words(text: &str) -> u64 {
    let mut n = 1;
    let mut was_space = false;
    for c in text.chars() {
        let is_space = is_python_space(c);
        n += u64::from(is_space && !was_space);
        was_space = is_space;
    }
    n
}

/// Python's white space has the separators of ASCII too.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_as_python_does() {
        // Each number by `len(re.split(r"\s+", text))`.
        for (text, n) in [
            ("", 1),
            ("a", 1),
            (" ", 2),
            ("a b", 2),
            (" a  b\n", 4),
            ("a\u{1f}b\u{85}c\u{a0}d\u{3000}e", 5),
            ("a\u{200b}b", 1),
            ("a\u{1c}\u{1d}b", 2),
        ] {
            assert_eq!(count_words(text), n, "{text:?}");
        }
    }
}
