//! The tokenizer of OLMo-2 and Olmo-3, recognized by its vocabulary: a `vocab.txt` has no merges, but in this
//! vocabulary the id of a token is its rank.

use crate::text::vocab::Vocabulary;
use olmo_infer::internals::format::{ADDED_SPECIAL, AddedToken, Merge, TOKENIZER_BYTE_PAIRS, TokenizerHead, digest};
use olmo_infer::internals::text::tokenizer::PreTokenizer;
use std::collections::HashMap;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

/// Tokens of the byte pair encoding; the added tokens follow.
const N_RANKS: usize = 100_256;
const N_TOKENS: usize = 100_278;
/// XXH3-64 of the lengths, as u32, and bytes of the ranked tokens.
const DIGEST: u64 = 0x64f9_2485_44ab_d515;
/// Special added tokens.
const SPECIAL: [u32; 8] = [100_257, 100_258, 100_259, 100_260, 100_264, 100_265, 100_276, 100_277];

/// The section `TOKENIZER` for the vocabulary of dolma2; `None` for any other. The names of the added tokens may
/// differ, as in Olmo-3's instruct models.
pub fn section(vocabulary: &Vocabulary) -> Option<Vec<u8>> {
    if !vocabulary.iter().map(|(id, _)| id).eq(0..N_TOKENS as u32) {
        return None;
    }
    let tokens: Vec<&[u8]> = vocabulary.iter().map(|(_, token)| token).take(N_RANKS).collect();
    let text: Vec<u8> =
        tokens.iter().flat_map(|token| [&(token.len() as u32).to_le_bytes(), *token].concat()).collect();
    if digest(&text, 0) != DIGEST {
        return None;
    }
    let mut single = [U32::new(0); 256];
    for (id, token) in (0..256).zip(&tokens) {
        single[usize::from(token[0])] = U32::new(id);
    }
    let added = (N_RANKS as u32..N_TOKENS as u32)
        .map(|id| AddedToken { id: U32::new(id), flags: U32::new(if is_special(id) { ADDED_SPECIAL } else { 0 }) });
    let (merges, added) = (merges(&tokens)?, added.collect::<Vec<_>>());
    let head = TokenizerHead {
        kind: U32::new(TOKENIZER_BYTE_PAIRS),
        pre_tokenizer: U32::new(PreTokenizer::Dolma2.code()),
        normalizer: U32::new(0),
        n_merges: U32::new(merges.len() as u32),
        n_added: U32::new(added.len() as u32),
        prefix_space: U32::new(0),
        reserved: [0; 8],
    };
    Some([head.as_bytes(), single.as_bytes(), merges.as_bytes(), added.as_bytes()].concat())
}

/// Whether an added token of this vocabulary is special.
pub(crate) fn is_special(id: u32) -> bool {
    SPECIAL.contains(&id)
}

/// The merge of each token longer than a byte, for tokens in the order of their ranks: the two pieces that remain after
/// all merges of lower rank. `None` if more than two remain.
fn merges(tokens: &[&[u8]]) -> Option<Vec<Merge>> {
    let ranks: HashMap<&[u8], u32> = (0..).zip(tokens).map(|(rank, token)| (*token, rank)).collect();
    let merge = |(rank, token): (u32, &&[u8])| {
        let mut ends: Vec<usize> = (0..=token.len()).collect();
        while ends.len() > 3 {
            let pairs = (0..ends.len() - 2).filter_map(|i| Some((*ranks.get(&token[ends[i]..ends[i + 2]])?, i)));
            let (_, i) = pairs.min().filter(|(lowest, _)| *lowest < rank)?;
            ends.remove(i + 1);
        }
        let id = |piece: &[u8]| ranks.get(piece).map(|&id| U32::new(id));
        Some(Merge { left: id(&token[..ends[1]])?, right: id(&token[ends[1]..])?, id: U32::new(rank) })
    };
    (0..).zip(tokens).filter(|(_, token)| token.len() > 1).map(merge).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_are_recovered_from_ranks() {
        let tokens: [&[u8]; 8] = [b"a", b"b", b"c", b"ab", b"bc", b"abc", b"cab", b"abcab"];
        let found = merges(&tokens).expect("each has two pieces");
        let found: Vec<[u32; 3]> =
            found.iter().map(|merge| [merge.left, merge.right, merge.id].map(U32::get)).collect();
        assert_eq!(found, [[0, 1, 3], [1, 2, 4], [3, 2, 5], [2, 3, 6], [5, 3, 7]]);
        let unreachable: [&[u8]; 3] = [b"a", b"b", b"aab"];
        assert!(merges(&unreachable).is_none());
    }
}
