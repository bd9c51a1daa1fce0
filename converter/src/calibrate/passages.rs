//! The parts of a text that a model is run over.

use crate::error::{Error, Problem};
use crate::folder::source_file;
use crate::text::Text;
use crate::text::part::Part;
use olmo_infer::internals::text::encoder::Encoder;
use olmo_infer::internals::text::tokenizer::Tokenizer;
use olmo_infer::internals::text::vocabulary::Vocabulary;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// Largest text.
const MAX_BYTES: u64 = 8 << 20;
/// Most passages: more were measured to change little.
const MOST_PASSAGES: usize = 8;
/// Tokens of a passage, where the model has the positions.
const PASSAGE_TOKENS: usize = 256;
/// Fewest tokens of a text.
const FEWEST_TOKENS: usize = 128;

/// Passages of a text, spread evenly over it.
#[derive(Clone, Debug, PartialEq)]
pub struct Passages {
    /// The file.
    pub path: PathBuf,
    /// XXH3 digest of its bytes.
    pub digest: u64,
    /// Number of tokens of the text.
    pub n_tokens: usize,
    /// The tokens of each passage; at least one passage.
    pub passages: Vec<Vec<u32>>,
}

impl Passages {
    /// Those of the UTF-8 text at `path`, for a model of `vocab_size` rows and `max_positions` positions with the
    /// tokenizer of `text`.
    ///
    /// # Errors
    /// The text cannot be read, is not UTF-8, too long or too short; the model has no tokenizer.
    pub fn read(path: &Path, text: &Text, vocab_size: usize, max_positions: usize) -> Result<Passages, Error> {
        let encoder = encoder(path, text)?;
        let problem = |found: String| Problem::new(path, found);
        let bytes = source_file::read_at_most(path, MAX_BYTES)?;
        let bytes = bytes.ok_or_else(|| {
            problem("is too long".into())
                .expected(format!("at most {} MiB", MAX_BYTES >> 20))
                .advice("give a part of it")
        })?;
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            problem(format!("byte {} is not UTF-8", error.valid_up_to())).expected("a text, such as a page of a book")
        })?;
        let tokens = encoder.encode(text).map_err(|error| problem(error.to_string()))?;
        if tokens.len() < FEWEST_TOKENS {
            let found = format!("has {} tokens", tokens.len());
            return Err(problem(found).expected(format!("at least {FEWEST_TOKENS}, better 2000")).into());
        }
        if let Some(id) = tokens.iter().find(|&&id| id as usize >= vocab_size) {
            let found = format!("has token {id}, for which the embedding has no row");
            return Err(problem(found).expected(format!("tokens below {vocab_size}")).into());
        }
        let length = PASSAGE_TOKENS.min(max_positions);
        let passages = spread(&tokens, (MOST_PASSAGES * PASSAGE_TOKENS).div_ceil(length), length);
        Ok(Passages { path: path.to_path_buf(), digest: xxh3_64(&bytes), n_tokens: tokens.len(), passages })
    }

    /// Number of tokens of the passages.
    pub fn n_used(&self) -> usize {
        self.passages.iter().map(Vec::len).sum()
    }
}

/// The tokenizer of a model that is to be packed.
fn encoder(path: &Path, text: &Text) -> Result<Encoder, Error> {
    let problem = |why: &str| {
        let found = format!("cannot become tokens: {why}");
        Error::from(Problem::new(path, found).expected("a model with a tokenizer").advice("add its tokenizer.json"))
    };
    let (section, tokens) = match (&text.tokenizer, &text.vocabulary) {
        (Part::Known(section, _), Some(tokens)) => (section, tokens.section()),
        (Part::Missing(why), _) => return Err(problem(why)),
        (Part::Unknown(why), _) => return Err(problem(why)),
        _ => return Err(problem("the weights have no tokenizer")),
    };
    let vocabulary = Vocabulary::in_section(&tokens).ok_or_else(|| problem("its vocabulary cannot be stored"))?;
    let tokenizer = Tokenizer::in_section(section, &vocabulary).map_err(|_| problem("it cannot be stored"))?;
    Ok(Encoder::new(&tokenizer)?)
}

/// Up to `most` passages of `length` tokens, the first and the last tokens among them.
fn spread(tokens: &[u32], most: usize, length: usize) -> Vec<Vec<u32>> {
    if tokens.len() <= most * length {
        return tokens.chunks(length).map(<[u32]>::to_vec).collect();
    }
    let last = tokens.len() - length;
    let start = |passage: usize| last * passage / (most - 1).max(1);
    (0..most).map(|passage| tokens[start(passage)..][..length].to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passages_are_spread_over_the_text() {
        let tokens: Vec<u32> = (0..1000).collect();
        let passages = spread(&tokens, 8, 10);
        assert_eq!((passages.len(), &passages[0], &passages[7]), (8, &tokens[..10].to_vec(), &tokens[990..].to_vec()));
        assert!(passages.windows(2).all(|pair| pair[0][9] < pair[1][0]));
        assert_eq!(spread(&tokens[..75], 8, 10).concat(), tokens[..75]);
        assert_eq!(spread(&tokens[..80], 8, 10).len(), 8);
        assert_eq!(spread(&tokens[..81], 8, 10).concat().len(), 80);
    }
}
