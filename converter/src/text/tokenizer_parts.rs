//! The normalizer, pre-tokenizer and post-processor of a `tokenizer.json`.
//!
//! `save_pretrained` writes parts without effect, and wraps parts in sequences. Those are accepted; any other part that
//! changes an id makes the tokenizer unsupported.

use crate::json::keys::Keys;
use olmo_infer::internals::text::tokenizer::PreTokenizer;
use serde_json::{Map, Value};

type Object = Map<String, Value>;

/// The effect of the parts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Parts {
    /// Whether text is normalized to NFC.
    pub(crate) nfc: bool,
    pub(crate) pre_tokenizer: PreTokenizer,
    /// Whether a space is put before a piece of text that does not begin with one.
    pub(crate) prefix_space: bool,
}

/// Reads the parts; the error names the unsupported one.
pub(crate) fn read(root: &Keys) -> Result<Parts, String> {
    let nfc = normalizes(&flattened(root.get("normalizer"), "normalizer", "normalizers")?)?;
    for part in flattened(root.get("post_processor"), "post-processor", "processors")? {
        refuse_added_ids(part)?;
    }
    let splits = flattened(root.get("pre_tokenizer"), "pre-tokenizer", "pretokenizers")?;
    let (pre_tokenizer, prefix_space) = pre_tokenizer(&splits)?;
    Ok(Parts { nfc, pre_tokenizer, prefix_space })
}

/// The parts of a value in order; sequences of any depth are flattened.
fn flattened<'a>(value: Option<&'a Value>, what: &str, list: &str) -> Result<Vec<&'a Object>, String> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(Vec::new()) };
    let object = value.as_object().filter(|object| kind(object).is_some());
    let object = object.ok_or_else(|| format!("its {what} has no type"))?;
    if kind(object) != Some("Sequence") {
        return Ok(vec![object]);
    }
    let parts = object.get(list).and_then(Value::as_array);
    let parts = parts.ok_or_else(|| format!("its {what} is a sequence without {list}"))?;
    let parts: Result<Vec<_>, String> = parts.iter().map(|part| flattened(Some(part), what, list)).collect();
    Ok(parts?.concat())
}

fn kind(object: &Object) -> Option<&str> {
    object.get("type").and_then(Value::as_str)
}

/// Whether a key has this boolean value.
fn is(object: &Object, key: &str, wanted: bool) -> bool {
    object.get(key).and_then(Value::as_bool) == Some(wanted)
}

/// Whether text is normalized to NFC.
fn normalizes(parts: &[&Object]) -> Result<bool, String> {
    let mut nfc = false;
    for part in parts {
        match kind(part).unwrap_or_default() {
            "NFC" => nfc = true,
            // It strips nothing.
            "Strip" if is(part, "strip_left", false) && is(part, "strip_right", false) => {}
            other => return Err(format!("its normalizer is {other}")),
        }
    }
    Ok(nfc)
}

/// Rejects a post-processor that adds ids to a text. `ByteLevel` only changes offsets.
fn refuse_added_ids(part: &Object) -> Result<(), String> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_string);
    match kind(part).unwrap_or_default() {
        "ByteLevel" => Ok(()),
        "TemplateProcessing" => {
            let pieces = part.get("single").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let special = pieces.iter().find_map(|piece| text(piece.get("SpecialToken")?, "id"));
            if let Some(token) = special {
                return Err(format!("its post-processor adds \"{token}\" to every text"));
            }
            match pieces {
                [piece] if piece.get("Sequence").and_then(|of| text(of, "id")).as_deref() == Some("A") => Ok(()),
                _ => Err("its post-processor is an unknown template".into()),
            }
        }
        other @ ("BertProcessing" | "RobertaProcessing") => {
            let token = |key| part.get(key)?.get(0)?.as_str();
            match (token("cls"), token("sep")) {
                (Some(cls), Some(sep)) => Err(format!("its post-processor adds \"{cls}\" and \"{sep}\" to every text")),
                _ => Err(format!("its post-processor is {other}")),
            }
        }
        other => Err(format!("its post-processor is {other}")),
    }
}

/// How words are split, and whether a space is put before a text that does not begin with one.
fn pre_tokenizer(parts: &[&Object]) -> Result<(PreTokenizer, bool), String> {
    let unknown = || Err("its pre-tokenizer is an unknown sequence".into());
    let is_bytes = |part: &Object| kind(part) == Some("ByteLevel");
    match parts {
        [] => Err("it has no pre-tokenizer".into()),
        [bytes] if is_bytes(bytes) => match splits_words(bytes) {
            true => Ok((PreTokenizer::Gpt2, has_prefix_space(bytes))),
            false => Err("its pre-tokenizer splits nothing".into()),
        },
        [split, bytes] if kind(split) == Some("Split") && is_bytes(bytes) => {
            let found = split_pattern(split);
            match (&found, splits_words(bytes)) {
                // Splitting a word of GPT-2 again changes nothing.
                (Ok(PreTokenizer::Gpt2), true) | (_, false) => {}
                (_, true) => return unknown(),
            }
            if has_prefix_space(bytes) {
                return Err("its pre-tokenizer puts a space before every word".into());
            }
            Ok((found?, false))
        }
        [part] => Err(format!("its pre-tokenizer is {}", kind(part).unwrap_or("missing"))),
        _ => unknown(),
    }
}

/// Whether a byte-level pre-tokenizer splits into words itself.
fn splits_words(bytes: &Object) -> bool {
    !is(bytes, "use_regex", false)
}

fn has_prefix_space(bytes: &Object) -> bool {
    !is(bytes, "add_prefix_space", false)
}

/// The pre-tokenizer of a `Split`.
fn split_pattern(split: &Object) -> Result<PreTokenizer, String> {
    let behavior = split.get("behavior").and_then(Value::as_str);
    // The patterns cover any text without a gap, so that nothing is left between the words.
    if behavior != Some("Isolated") && (behavior != Some("Removed") || !is(split, "invert", true)) {
        return Err("its pre-tokenizer splits in an unknown way".into());
    }
    let pattern = split.get("pattern").and_then(|pattern| pattern.get("Regex")).and_then(Value::as_str);
    let known =
        PreTokenizer::ALL.into_iter().find(|kind| pattern.is_some_and(|pattern| matches_spelling(*kind, pattern)));
    known.ok_or_else(|| "its pre-tokenizer splits by an unknown pattern".into())
}

/// Equivalent spellings of each alternative in the pattern of dolma2.
const DOLMA2: [&[&str]; 7] = [
    &["(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'(?i:[sdmt]|ll|ve|re)", "(?i:'(?:[sdmt]|ll|ve|re))"],
    &[
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"[^\r\n\p{L}\p{N}]?+\p{L}+",
        r"[^\r\n\p{L}\p{N}]?\p{L}++",
        r"[^\r\n\p{L}\p{N}]?+\p{L}++",
    ],
    // Not `{1,3}+`: Oniguruma, which `tokenizers` uses, repeats that repetition.
    &[r"\p{N}{1,3}"],
    &[
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r" ?[^\s\p{L}\p{N}]++[\r\n]*",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*+",
        r" ?[^\s\p{L}\p{N}]++[\r\n]*+",
    ],
    &[r"\s*[\r\n]+", r"\s*[\r\n]"],
    &[r"\s+(?!\S)"],
    &[r"\s+", r"\s"],
];
/// Equivalent spellings for GPT-2.
const GPT2: [&[&str]; 6] = [
    &["'s|'t|'re|'ve|'m|'ll|'d", "'(?:[sdmt]|ll|ve|re)"],
    &[r" ?\p{L}+", r" ?\p{L}++"],
    &[r" ?\p{N}+", r" ?\p{N}++"],
    &[r" ?[^\s\p{L}\p{N}]+", r" ?[^\s\p{L}\p{N}]++"],
    &[r"\s+(?!\S)", r"\s++$|\s+(?!\S)"],
    &[r"\s+", r"\s"],
];

/// Whether a pattern is that of `kind`, in any equivalent spelling.
fn matches_spelling(kind: PreTokenizer, pattern: &str) -> bool {
    let alternatives: &[&[&str]] = match kind {
        PreTokenizer::Dolma2 => &DOLMA2,
        PreTokenizer::Gpt2 => &GPT2,
    };
    // The possible rests of the pattern after the alternatives so far.
    let mut rests = vec![pattern];
    for (i, spellings) in alternatives.iter().enumerate() {
        let separator = if i == 0 { "" } else { "|" };
        let after = |rest: &'_ str| -> Vec<usize> {
            let rest = rest.strip_prefix(separator).unwrap_or("\0");
            spellings
                .iter()
                .filter(|spelling| rest.starts_with(**spelling))
                .map(|s| separator.len() + s.len())
                .collect()
        };
        rests = rests.iter().flat_map(|rest| after(rest).into_iter().map(|length| &rest[length..])).collect();
    }
    rests.iter().any(|rest| rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_only_equivalent_spellings() {
        // scripts/make_tokenizer_goldens.py determines the equivalent ones with `tokenizers`.
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/tokenizers/patterns.json");
        let json: Value = serde_json::from_slice(&std::fs::read(path).expect("read")).expect("JSON");
        let names = [(PreTokenizer::Dolma2, "dolma2", &DOLMA2[..]), (PreTokenizer::Gpt2, "gpt2", &GPT2[..])];
        for (kind, name, alternatives) in names {
            assert_eq!(serde_json::json!(alternatives), json["spellings"][name], "{name}");
            let mut patterns = vec![String::new()];
            for spellings in alternatives {
                let joined = |start: &String| {
                    let separator = if start.is_empty() { "" } else { "|" };
                    let join = |spelling: &&str| format!("{start}{separator}{spelling}");
                    spellings.iter().map(join).collect::<Vec<_>>()
                };
                patterns = patterns.iter().flat_map(joined).collect();
            }
            assert!(patterns.len() >= 64 && patterns[0] == kind.pattern(), "{name}");
            patterns.iter().for_each(|pattern| assert!(matches_spelling(kind, pattern), "{pattern}"));
            let others = json["others"][name].as_array().expect("a list");
            assert!(others.len() > 5, "{name}");
            others
                .iter()
                .for_each(|pattern| assert!(!matches_spelling(kind, pattern.as_str().expect("text")), "{pattern}"));
        }
    }

    #[test]
    fn accepts_canonical_patterns_only_whole() {
        for kind in PreTokenizer::ALL {
            assert!(matches_spelling(kind, kind.pattern()), "{kind:?}");
            assert!(!matches_spelling(kind, &kind.pattern()[1..]) && !matches_spelling(kind, ""), "{kind:?}");
            assert!(!matches_spelling(kind, &format!("{}|x", kind.pattern())), "{kind:?}");
        }
        assert!(!matches_spelling(PreTokenizer::Gpt2, PreTokenizer::Dolma2.pattern()));
    }
}
