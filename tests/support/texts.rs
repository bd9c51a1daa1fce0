//! Texts that cost much to become ids, and a tokenizer that has much to do with them.

use crate::crafted::vocabulary;
use olmo_infer::internals::format::{Merge, TOKENIZER_BYTE_PAIRS, TokenizerHead, section};
use olmo_infer::internals::text::tokenizer::PreTokenizer;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

/// How many merges the tokenizer has.
const N_MERGES: usize = 20;
/// Rows that its model needs.
pub const N_ROWS: usize = 256 + N_MERGES;

/// The sections of a tokenizer that normalizes, adds a space, and doubles `a` twenty times, to a word of 1 MiB.
pub fn doubling() -> [(u32, Vec<u8>); 2] {
    let longest = vec![b'a'; 1 << N_MERGES];
    let bytes: Vec<u8> = (0..=255).collect();
    let tokens: Vec<&[u8]> = bytes.chunks(1).chain((1..=N_MERGES).map(|i| &longest[..1 << i])).collect();
    let ids = || [u32::from(b'a')].into_iter().chain(256..).map(U32::new);
    let merges = ids().zip(ids().skip(1)).map(|(of, id)| Merge { left: of, right: of, id });
    let merges: Vec<Merge> = merges.take(N_MERGES).collect();
    let head = TokenizerHead {
        kind: U32::new(TOKENIZER_BYTE_PAIRS),
        pre_tokenizer: U32::new(PreTokenizer::Gpt2.code()),
        normalizer: U32::new(1),
        n_merges: U32::new(merges.len() as u32),
        n_added: U32::new(0),
        prefix_space: U32::new(1),
        reserved: [0; 8],
    };
    let single: Vec<U32> = (0..256).map(U32::new).collect();
    let tokenizer = [head.as_bytes(), single.as_bytes(), merges.as_bytes()].concat();
    [(section::VOCABULARY, vocabulary(&tokens)), (section::TOKENIZER, tokenizer)]
}

/// What they are, and a piece of which each consists.
pub fn costly() -> [(&'static str, String); 6] {
    [
        ("words of one letter that are as long as they may be", format!("{} ", "a".repeat((1 << 20) - 1))),
        ("words of two letters", format!("{} ", "ab".repeat((1 << 19) - 1))),
        ("words of a letter", "a ".into()),
        ("signs that normalization makes three times as long", format!("{} ", "\u{1d160}".repeat(80_000))),
        ("marks", format!("a{} ", "\u{301}\u{327}".repeat(32 << 10))),
        ("spaces", format!("{}b", " ".repeat((1 << 20) - 1))),
    ]
}

/// Most bytes of memory that a text of `n` bytes takes to become ids.
pub fn most_bytes(n: usize) -> u64 {
    16 * n as u64 + (64 << 20)
}
