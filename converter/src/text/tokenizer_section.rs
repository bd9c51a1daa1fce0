//! The section `TOKENIZER`, derived from a `tokenizer.json`.
//!
//! It supports the tokenizer of the OLMo models: byte-level byte pair encoding, words split as by dolma2 or GPT-2, and
//! optionally NFC before. Anything else in the file that changes an id makes the tokenizer unsupported: the model can
//! still be packed, and then accepts ids but no text.

use crate::json::keys::Keys;
use crate::text::split_check;
use crate::text::tokenizer_parts;
use crate::text::tokenizer_settings::Settings;
use crate::text::vocab::byte_table;
use olmo_infer::internals::format::{ADDED_SPLIT, AddedToken, Merge, NONE, TOKENIZER_BYTE_PAIRS, TokenizerHead};
use olmo_infer::internals::text::bpe::{BytePairs, NoIds, NoPairs, Word};
use olmo_infer::internals::text::tokenizer::{PreTokenizer, in_utf8};
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::{HashMap, HashSet};
use std::fmt;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

/// A token that is matched as a whole.
pub(crate) struct Added {
    pub(crate) id: u32,
    pub(crate) text: String,
    pub(crate) flags: u32,
    /// An unsupported property for the error; empty for none.
    pub(crate) beyond: &'static str,
}

/// A token of the model.
pub(crate) struct Token {
    pub(crate) id: u32,
    /// Its bytes, unless it is an added token with different ones.
    pub(crate) bytes: Option<Box<[u8]>>,
}

/// Derives the section from the parts of a `tokenizer.json`.
pub(crate) struct Reader<'a> {
    pub(crate) root: &'a Keys<'a>,
    pub(crate) model: &'a Keys<'a>,
    pub(crate) merges: Option<&'a RawValue>,
    pub(crate) tokens: &'a HashMap<&'a str, Token>,
    pub(crate) added: &'a [Added],
}

/// Why there is no section.
pub(crate) enum NoSection {
    /// Why the tokenizer is not supported.
    Unknown(String),
    /// Out of memory.
    NoMemory,
}

impl From<String> for NoSection {
    fn from(why: String) -> NoSection {
        NoSection::Unknown(why)
    }
}

impl Reader<'_> {
    /// The bytes of the section, or why the tokenizer is not supported. `is_rebuilt`: transformers uses only the
    /// tokens.
    pub(crate) fn section(
        &self,
        settings: &Settings,
        is_rebuilt: bool,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<u8>, NoSection> {
        self.refuse_other_models()?;
        let parts = tokenizer_parts::read(self.root)?;
        let prefix_space = match (is_rebuilt, settings.add_prefix_space) {
            (true, given) => given,
            (false, given) => {
                if given && !parts.prefix_space {
                    let says = "which transformers 5 ignores for this model: no space is put before a text";
                    warnings.push(format!("tokenizer_config.json has add_prefix_space, {says}"));
                }
                parts.prefix_space
            }
        };
        if is_rebuilt && (parts.pre_tokenizer != PreTokenizer::Gpt2 || !parts.nfc) {
            warnings.push(
                "transformers 5 builds the tokenizer of OLMo-1 with the split of GPT-2 and NFC; tokenizer.json \
                 differs and is used here: ids of some texts differ"
                    .into(),
            );
        }
        if settings.split_special_tokens {
            warnings.push(
                "tokenizer_config.json has split_special_tokens: special tokens in a text, those of a chat format too, \
                 become the ids of their characters"
                    .into(),
            );
        }
        let head = TokenizerHead {
            kind: U32::new(TOKENIZER_BYTE_PAIRS),
            pre_tokenizer: U32::new(parts.pre_tokenizer.code()),
            normalizer: U32::new(parts.nfc.into()),
            n_merges: U32::new(0),
            n_added: U32::new(self.added.len() as u32),
            prefix_space: U32::new(prefix_space.into()),
            reserved: [0; 8],
        };
        let (merges, single) = (self.merges()?, self.single_bytes()?);
        self.refuse_ignored_merges(&single, &merges)?;
        let head = TokenizerHead { n_merges: U32::new(merges.len() as u32), ..head };
        let added: Vec<AddedToken> = self.added_tokens()?;
        warnings.extend(split_check::warning(parts.pre_tokenizer, self.merged(&merges).into_iter()));
        Ok([head.as_bytes(), single.as_bytes(), merges.as_bytes(), added.as_bytes()].concat())
    }

    /// The bytes of the tokens that merges make, in the order of their ids.
    fn merged(&self, merges: &[Merge]) -> Vec<&[u8]> {
        let made: HashSet<u32> = merges.iter().map(|merge| merge.id.get()).collect();
        let made = self.tokens.values().filter(|token| made.contains(&token.id));
        let mut made: Vec<_> = made.filter_map(|token| Some((token.id, token.bytes.as_deref()?))).collect();
        made.sort_unstable();
        made.into_iter().map(|(_, bytes)| bytes).collect()
    }

    /// With `ignore_merges`, a word that is a token becomes that token. This changes nothing if the merges make it too.
    fn refuse_ignored_merges(&self, single: &[U32; 256], merges: &[Merge]) -> Result<(), NoSection> {
        if self.model.get("ignore_merges").is_none_or(|value| value.as_bool() == Some(false)) {
            return Ok(());
        }
        let pairs = BytePairs::new(single, merges).map_err(|no_pairs| match no_pairs {
            NoPairs::Twice { .. } => NoSection::Unknown("its model merges a pair in two ways".into()),
            NoPairs::NoMemory => NoSection::NoMemory,
        })?;
        let (mut word, mut ids) = (Word::default(), Vec::new());
        let mut is_made = |token: &Token| {
            let Some(bytes) = token.bytes.as_deref() else { return Ok(true) };
            ids.clear();
            match pairs.encode(bytes, &mut word, &mut ids) {
                Ok(()) => Ok(ids == [token.id]),
                Err(NoIds::LongWord) => Ok(false),
                Err(NoIds::NoMemory) => Err(NoSection::NoMemory),
            }
        };
        let mut are_made = !self.added.iter().any(|added| added.flags & ADDED_SPLIT != 0);
        for token in self.tokens.values() {
            are_made = are_made && is_made(token)?;
        }
        match are_made {
            true => Ok(()),
            false => Err("its model has ignore_merges, and tokens that merges do not make".to_string().into()),
        }
    }

    /// Rejects every property of the model that changes ids.
    fn refuse_other_models(&self) -> Result<(), String> {
        match self.model.get("type").and_then(Value::as_str) {
            Some("BPE") => {}
            Some(other) => return Err(format!("its model is {other}")),
            // Files of old versions have no type.
            None if self.merges.is_some() => {}
            None => return Err("its model has no type".into()),
        }
        // `unk_token`, `fuse_unk` and `byte_fallback` concern bytes without a token; every byte has one here.
        for key in ["dropout", "continuing_subword_prefix", "end_of_word_suffix"] {
            let value = self.model.get(key).filter(|value| value.as_str() != Some("") && value.as_f64() != Some(0.0));
            if let Some(value) = value {
                return Err(format!("its model has {key} {value}"));
            }
        }
        for key in ["fuse_unk", "byte_fallback", "ignore_merges"] {
            if let Some(value) = self.model.get(key).filter(|value| !value.is_boolean()) {
                return Err(format!("its model has {key} {value}"));
            }
        }
        if let Some(value) = self.model.get("unk_token").filter(|value| !value.is_string()) {
            return Err(format!("its model has unk_token {value}"));
        }
        Ok(())
    }

    /// The ids of the 256 single bytes.
    fn single_bytes(&self) -> Result<[U32; 256], String> {
        let mut ids = [U32::new(NONE); 256];
        // The canonical character of the byte: another spelling of it is another token.
        for (character, byte) in (0u32..).filter_map(char::from_u32).zip(byte_table()) {
            let token = self.tokens.get(character.to_string().as_str()).filter(|token| token.bytes.is_some());
            if let (Some(byte), Some(token)) = (byte, token) {
                ids[usize::from(byte)] = U32::new(token.id);
            }
        }
        match (0..=255u8).find(|&byte| in_utf8(byte) && ids[usize::from(byte)].get() == NONE) {
            Some(byte) => Err(format!("it has no token for the byte {byte:02x}")),
            None => Ok(ids),
        }
    }

    fn merges(&self) -> Result<Vec<Merge>, String> {
        let list = self.merges.filter(|list| list.get().starts_with('['));
        let list = list.ok_or("its model has no list of merges")?;
        let read = serde_json::Deserializer::from_str(list.get()).deserialize_seq(MergesVisitor(self));
        read.map_err(|error| format!("its merges: {error} of them"))?
    }

    /// Parses a merge.
    fn merge(&self, pair: &RawValue) -> Result<Merge, &'static str> {
        let [left, right] = pieces(pair).ok_or("is not a pair")?;
        let token = |text: &str| {
            let token = self.tokens.get(text).and_then(|token| Some((token.id, token.bytes.as_deref()?)));
            token.ok_or("names an unknown token")
        };
        let (left_token, right_token) = (token(&left)?, token(&right)?);
        let merged = token(&[left, right].concat())?;
        if merged.1.strip_prefix(left_token.1) != Some(right_token.1) {
            return Err("does not concatenate its pieces");
        }
        let [left, right, id] = [left_token.0, right_token.0, merged.0].map(U32::new);
        Ok(Merge { left, right, id })
    }

    fn added_tokens(&self) -> Result<Vec<AddedToken>, String> {
        let entry = |added: &Added| match added.beyond {
            "" => Ok(AddedToken { id: U32::new(added.id), flags: U32::new(added.flags) }),
            beyond => Err(format!("its added token \"{}\" {beyond}", added.text)),
        };
        self.added.iter().map(entry).collect()
    }
}

/// The two pieces of a merge: a list, or in older versions a string with a space between them.
fn pieces(pair: &RawValue) -> Option<[String; 2]> {
    if pair.get().starts_with('[') {
        return serde_json::from_str(pair.get()).ok();
    }
    let pair: String = serde_json::from_str(pair.get()).ok()?;
    pair.split_once(' ').map(|(left, right)| [left.into(), right.into()])
}

/// Reads a list of merges, and stores the first problem.
struct MergesVisitor<'a>(&'a Reader<'a>);

impl<'de> Visitor<'de> for MergesVisitor<'_> {
    type Value = Result<Vec<Merge>, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of merges")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut seen = HashSet::new();
        let mut merges: Vec<Merge> = Vec::new();
        while let Some(pair) = list.next_element::<&RawValue>()? {
            let merge = self.0.merge(pair);
            let merge = merge.and_then(|merge| match seen.insert((merge.left.get(), merge.right.get())) {
                true => Ok(merge),
                false => Err("is a duplicate"),
            });
            match merge {
                Ok(merge) => merges.push(merge),
                Err(what) => {
                    while list.next_element::<IgnoredAny>()?.is_some() {}
                    return Ok(Err(format!("merge {} {what}", merges.len())));
                }
            }
        }
        Ok(Ok(merges))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenizer_json::{TokenizerJson, parse};
    use serde_json::{Map, json};
    use std::path::Path;

    /// A tokenizer of the bytes, one merge and an added token.
    fn byte_pairs() -> Value {
        let characters = (0u32..).filter_map(char::from_u32).zip(byte_table());
        let bytes = characters.filter_map(|(character, byte)| Some((character.to_string(), byte?.into())));
        let vocab: Map<String, Value> = bytes.chain([("ab".into(), 256.into())]).collect();
        json!({
            "model": {"type": "BPE", "vocab": vocab, "merges": ["a b"]},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
            "added_tokens": [{"id": 257, "content": "<|end|>", "special": true}],
        })
    }

    fn parsed(json: &Value) -> Result<TokenizerJson, String> {
        parse(Path::new("t"), json.to_string().as_bytes(), 300).map_err(|problem| problem.to_string())
    }

    #[test]
    fn rejects_invalid_merges() {
        for (merges, says) in [
            (json!([3]), "merge 0 is not a pair"),
            (json!(["a b", {"a": "b"}]), "merge 1 is not a pair"),
            (json!([["a", 3]]), "merge 0 is not a pair"),
            (json!(["a b", "b a"]), "merge 1 names an unknown token"),
            (json!(["a b", ["a", "b"]]), "merge 1 is a duplicate"),
        ] {
            let mut json = byte_pairs();
            json["model"]["merges"] = merges;
            assert_eq!(parsed(&json).expect("tokens").tokenizer, Err(says.into()), "{}", json["model"]["merges"]);
        }
    }

    #[test]
    fn rejects_unknown_pre_tokenizers() {
        let split = json!({"type": "Split", "pattern": {"Regex": "x"}, "behavior": "Isolated"});
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false});
        let splitting = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true});
        let sequence = |parts: &[&Value]| json!({"type": "Sequence", "pretokenizers": parts});
        let unknown = "its pre-tokenizer is an unknown sequence";
        for (pre_tokenizer, says) in [
            (bytes.clone(), "its pre-tokenizer splits nothing"),
            (sequence(&[&bytes, &bytes]), unknown),
            (sequence(&[&split, &split]), unknown),
            (sequence(&[&split, &splitting]), unknown),
            (sequence(&[&split, &bytes, &bytes]), unknown),
            (sequence(&[&split, &bytes]), "its pre-tokenizer splits by an unknown pattern"),
        ] {
            let mut json = byte_pairs();
            json["pre_tokenizer"] = pre_tokenizer;
            assert_eq!(parsed(&json).expect("tokens").tokenizer, Err(says.into()), "{}", json["pre_tokenizer"]);
        }
        for (kind, behavior, invert) in [
            (PreTokenizer::Dolma2, "Isolated", false),
            (PreTokenizer::Dolma2, "Removed", true),
            (PreTokenizer::Gpt2, "Isolated", false),
        ] {
            let mut split = split.clone();
            split["pattern"]["Regex"] = kind.pattern().into();
            split["behavior"] = behavior.into();
            split["invert"] = invert.into();
            let mut json = byte_pairs();
            json["pre_tokenizer"] = sequence(&[&split, &bytes]);
            let section = parsed(&json).expect("tokens").tokenizer.expect("of a known kind");
            assert_eq!(section[4..8], kind.code().to_le_bytes(), "{split}");
        }
    }

    #[test]
    fn accepts_added_token_in_vocabulary() {
        let without = parsed(&byte_pairs()).expect("tokens");
        assert!(without.tokenizer.is_ok() && without.vocabulary.n_entries() == 258, "{:?}", without.tokenizer);
        let mut json = byte_pairs();
        json["model"]["vocab"]["<|end|>"] = 257.into();
        assert_eq!(parsed(&json).as_ref(), Ok(&without));
        // A merge may make it if its text equals its spelling in bytes.
        json["model"]["vocab"]["<|end|"] = 258.into();
        json["model"]["merges"] = json!(["<|end| >"]);
        assert!(parsed(&json).expect("tokens").tokenizer.is_ok());
        let mut json = byte_pairs();
        json["model"]["vocab"]["Ġ>"] = 257.into();
        json["added_tokens"][0]["content"] = "Ġ>".into();
        json["model"]["merges"] = json!(["Ġ >"]);
        let with_merge = parsed(&json).expect("tokens");
        assert_eq!(with_merge.tokenizer, Err("merge 0 names an unknown token".into()));
        let mut json = byte_pairs();
        json["model"]["vocab"]["<|fin|>"] = 257.into();
        let found = "id 257 for \"<|fin|>\" in model.vocab and \"<|end|>\" in added_tokens, expected one token";
        assert_eq!(parsed(&json), Err(format!("t: {found}")));
    }
}
