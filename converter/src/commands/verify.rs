//! `olmo-pack verify MODEL`: every bit of a model file that opening it does not check.
//!
//! Opening covers the header, the index and the layout. What is left are the digests of sections and tensors, the zeros
//! between them, and the facts in a record about its weights. All tensors are read once, on all cores.

use crate::commands::facts::content_digest;
use crate::commands::kept_gguf::KeptGguf;
use crate::commands::sources::{Sections, checked_section, section_name, sources};
use crate::commands::spellings::spellings;
use crate::commands::verify_against;
use crate::encode::bf12::look_at_panel;
use crate::encode::pool::thread_pool;
use crate::encode::quantized_look::{self, Look};
use crate::error::{Error, Problem, escaped, shown_path};
use crate::text::kept_files;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::file::sampling::AuthorSampling;
use olmo_infer::internals::format::encodings::bf12::{Bf12Panels, Bf12Table};
use olmo_infer::internals::format::encodings::quantized::{Quantization, QuantizedPanels};
use olmo_infer::internals::format::mapped_bytes::MappedBytes;
use olmo_infer::internals::format::panels::PanelShape;
use olmo_infer::internals::format::sizes::Extent;
use olmo_infer::internals::format::{
    Dtype, Encoding, HEADER_BYTES, MAX_TOKENS_BEYOND, Merge, PANEL_ROWS, TensorRecord, VocabularyHead, section,
};
use olmo_infer::internals::os::memory;
use olmo_infer::internals::text::bpe::{BytePairs, NoPairs};
use olmo_infer::internals::text::chat::{Chat, NoChat};
use olmo_infer::internals::text::tokenizer::{NoTokenizer, Tokenizer};
use olmo_infer::internals::text::vocabulary::Vocabulary;
use rayon::ThreadPool;
use rayon::prelude::*;
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

/// What to do with a damaged file.
const ADVICE: &str = "the file is damaged, copy or pack it again";
/// Bytes of a vector that are handled while they are in the cache.
const VECTOR_PIECE_BYTES: usize = 64 << 10;
/// Bits of f32 infinity.
const INFINITY: u32 = 0x7f80_0000;

/// Verifies the file at `path` and returns a line for the user.
///
/// # Errors
/// [`Error::Model`] when the file cannot be opened, else [`Error::Several`] with every place that is damaged.
pub fn run(path: &Path) -> Result<String, Error> {
    verified(path, None)
}

/// As [`run`], and compares the numbers with those of the folder `weights`.
///
/// # Errors
/// Those of [`run`]; every tensor that is not as in the folder, and what keeps the folder from being read.
pub fn run_against(path: &Path, weights: &Path) -> Result<String, Error> {
    verified(path, Some(weights))
}

fn verified(path: &Path, weights: Option<&Path>) -> Result<String, Error> {
    let model = ModelFile::open(path)?;
    let pool = thread_pool(0)?;
    let mut problems = check(&model, &pool);
    let mut note = None;
    if let (Some(weights), true) = (weights, problems.is_empty()) {
        let compared = verify_against::check(&model, weights, &pool)?;
        (problems, note) = (compared.problems, compared.note);
    }
    let unchanged = model.check_unchanged();
    // What is damaged in a file that changed is damaged no more, or no more there.
    let changed = matches!(unchanged, Err(olmo_infer::internals::error::Error::Changed { .. }));
    if !problems.is_empty() && !changed {
        return Err(Error::Several { problems, more: 0 });
    }
    unchanged?;
    let of_model = model.records().iter().zip(model.model_specs());
    let mut rounded: Vec<&str> = Vec::new();
    for (index, _) in of_model.enumerate().filter(|(_, (record, _))| record.rounded.get() != 0) {
        let name = model.encoding(index).dtype().name();
        if !rounded.contains(&name) {
            rounded.push(name);
        }
    }
    let rounded = if rounded.is_empty() { String::new() } else { format!(" rounded to {}", rounded.join(" and ")) };
    let same = weights.map_or(String::new(), |weights| format!(", the numbers of {}{rounded}", shown_path(weights)));
    Ok(format!(
        "{}: ok{}, {} tensors, {} sections, {} bytes, content digest {:016x}{}",
        escaped(&shown_path(path)),
        escaped(&same),
        model.specs().len(),
        model.sections().len(),
        model.layout().file_bytes,
        content_digest(&model),
        note.unwrap_or_default(),
    ))
}

/// Everything that is damaged in an open model.
pub fn check(model: &ModelFile, pool: &ThreadPool) -> Vec<Problem> {
    let mut problems = sections(model);
    problems.extend(padding(model).map(|offset| problem(model, format!("byte {offset}"), "padding that is not zero")));
    let of_tensor = |index| tensor(model, index).map(|found| problem(model, model.specs()[index].name(), found));
    let n_tensors = model.specs().len();
    // Not rayon's own pool, which panics when a thread cannot be started.
    let of_tensors: Vec<Option<Problem>> = pool.install(|| (0..n_tensors).into_par_iter().map(of_tensor).collect());
    problems.extend(of_tensors.into_iter().flatten());
    problems
}

fn problem(model: &impl Sections, place: String, found: impl Into<String>) -> Problem {
    Problem::new(model.path(), found).tensor(place).advice(ADVICE)
}

/// Refuses a file whose sections are not right: `format-spec.md` requires it.
///
/// # Errors
/// [`Error::Several`], or the one [`Error::Problem`].
pub(crate) fn accepted(model: &impl Sections) -> Result<(), Error> {
    let mut problems = sections(model);
    match problems.len() {
        0 => Ok(()),
        1 => Err(problems.remove(0).into()),
        _ => Err(Error::Several { problems, more: 0 }),
    }
}

/// What is wrong with the sections: their digests, and the structure of those that version 1 defines.
pub fn sections(model: &impl Sections) -> Vec<Problem> {
    section_errors(model).into_iter().flat_map(Error::into_problems).collect()
}

/// The same as errors; one of them may be lack of memory, which does not mean that the file is damaged.
pub(crate) fn section_errors(model: &impl Sections) -> Vec<Error> {
    let check = |kind: u32| -> Result<(), Error> {
        let bytes = checked_section(model, kind)?.unwrap_or_default();
        let found = match kind {
            section::SOURCES => return sources(model).map(|_| ()),
            section::SPELLING => {
                let sources = sources(model)?.unwrap_or_default();
                return spellings(model, &sources).map(|_| ());
            }
            section::GGUF => return KeptGguf::of(model).map(|_| ()),
            section::VOCABULARY => vocabulary(&bytes, model.config().vocab_size),
            section::TOKENIZER => return tokenizer(model, &bytes),
            section::CHAT if Chat::in_section(&bytes) == Err(NoChat::Damaged) => {
                Err("lengths, rules or texts that are not those of its head")
            }
            section::FILES => kept_files::in_section(&bytes).map(|_| ()),
            section::SAMPLING if AuthorSampling::in_section(&bytes).is_none() => Err("values that choose no token"),
            section::PROVENANCE if std::str::from_utf8(&bytes).is_err() => Err("text that is not UTF-8"),
            _ => Ok(()),
        };
        found.map_err(|found| problem(model, section_name(kind), found).into())
    };
    let kinds = model.sections().iter().map(|record| record.kind.get());
    kinds.filter_map(|kind| check(kind).err()).collect()
}

/// Checks the structure of a vocabulary.
///
/// # Errors
/// What is wrong with it.
pub fn vocabulary(bytes: &[u8], vocab_size: usize) -> Result<(), &'static str> {
    let (head, rest) = VocabularyHead::ref_from_prefix(bytes).map_err(|_| "no room for its head")?;
    let n_tokens = head.n_tokens.get() as usize;
    if n_tokens > vocab_size + MAX_TOKENS_BEYOND {
        return Err("too many tokens beyond the rows of the embedding");
    }
    if head.reserved.get() != 0 {
        return Err("reserved fields that are not zero");
    }
    let (offsets, text) =
        <[U32]>::ref_from_prefix_with_elems(rest, n_tokens + 1).map_err(|_| "no room for its offsets")?;
    if head.text_bytes.get() != text.len() as u64 {
        return Err("a text that does not end with the section");
    }
    let ends = offsets[0].get() == 0 && u64::from(offsets[n_tokens].get()) == text.len() as u64;
    if !ends || !offsets.is_sorted_by_key(|offset| offset.get()) {
        return Err("offsets that are not those of its text");
    }
    Ok(())
}

/// Checks a tokenizer against the vocabulary. One of a kind that this version does not know may be right.
///
/// # Errors
/// What is wrong with it.
fn tokenizer(model: &impl Sections, bytes: &[u8]) -> Result<(), Error> {
    let damaged = |found| problem(model, section_name(section::TOKENIZER), found).into();
    let Some(tokens) = model.section_bytes(section::VOCABULARY) else {
        return Err(damaged("a tokenizer without a vocabulary"));
    };
    let tokens = tokens.copied()?;
    let (Ok(()), Some(vocabulary)) = (vocabulary(&tokens, model.config().vocab_size), Vocabulary::in_section(&tokens))
    else {
        // Reported for the vocabulary.
        return Ok(());
    };
    match Tokenizer::in_section(bytes, &vocabulary) {
        Ok(tokenizer) => match BytePairs::new(&tokenizer.bytes, &tokenizer.merges) {
            Ok(_) => Ok(()),
            Err(NoPairs::Twice { .. }) => Err(damaged("two merges of one pair")),
            Err(NoPairs::NoMemory) => {
                Err(memory::too_little_for::<Merge>(tokenizer.merges.len(), "the merges of the tokenizer").into())
            }
        },
        Err(NoTokenizer::Unknown(_) | NoTokenizer::UnknownKind(_)) => Ok(()),
        Err(NoTokenizer::Damaged(_)) => Err(damaged("ids, merges or flags that the vocabulary contradicts")),
    }
}

/// The first byte outside of header, index, sections and tensors that is not zero.
fn padding(model: &ModelFile) -> Option<u64> {
    let layout = model.layout();
    let header = Extent { offset: 0, bytes: HEADER_BYTES as u64 };
    let end = Extent { offset: layout.file_bytes, bytes: 0 };
    let parts = model.index().parts().map(|part| part.extent);
    let parts: Vec<Extent> = std::iter::once(header).chain(parts).chain([end]).collect();
    parts.windows(2).find_map(|pair| {
        let gap = model.bytes().get(pair[0].end() as usize..pair[1].offset as usize)?;
        gap.first_not_zero().map(|at| pair[0].end() + at as u64)
    })
}

/// What is wrong with a tensor. One pass: the digest and the look at the numbers share what the cache holds.
fn tensor(model: &ModelFile, index: usize) -> Option<String> {
    let (spec, record) = (&model.specs()[index], &model.records()[index]);
    let bytes = model.tensor_bytes(index);
    let shape = spec.panel_shape(model.encoding(index).dtype());
    if let (Some(shape), Some(table)) = (shape, model.bf12_table(index)) {
        return bf12_tensor(index, record, bytes, &shape, table);
    }
    if let (Some(shape), Encoding::Quantized(quantization)) = (shape, model.encoding(index)) {
        return quantized_tensor(index, record, bytes, &shape, quantization);
    }
    let mut digest = Xxh3::with_seed(index as u64);
    let mut key = u32::MAX;
    let mut padding = false;
    let piece_bytes = shape.map_or(VECTOR_PIECE_BYTES, |shape| shape.panel_bytes());
    for panel in 0..bytes.len().div_ceil(piece_bytes) {
        let begin = panel * piece_bytes;
        let piece = bytes.get(begin..bytes.len().min(begin + piece_bytes)).expect("inside");
        piece.add_to(&mut digest);
        let words = piece.u32s().expect("the layout aligns and sizes tensors");
        match shape {
            Some(PanelShape { dtype: Dtype::Bf16, .. }) => key = key.min(smallest_key_bf16(words)),
            _ => key = key.min(smallest_key_f32(words)),
        }
        padding |= shape.is_some_and(|shape| panel_padding(&shape, panel, words));
    }
    if digest.digest() != record.digest.get() {
        return Some("its digest is wrong".into());
    }
    if padding {
        return Some("padding in its panels that is not zero".into());
    }
    smallest_magnitude(record, key.wrapping_add(1))
}

/// [`tensor`] for bf12.
fn bf12_tensor(
    index: usize,
    record: &TensorRecord,
    bytes: MappedBytes<'_>,
    shape: &PanelShape,
    table: &Bf12Table,
) -> Option<String> {
    let panels = Bf12Panels::new(shape, bytes, table);
    let mut digest = Xxh3::with_seed(index as u64);
    let mut smallest = None;
    let (mut padding, mut needless_raw) = (false, false);
    for panel in 0..shape.n_panels() {
        let stored = panels.panel(panel);
        stored.bytes().add_to(&mut digest);
        let look = look_at_panel(&stored, shape, panel);
        smallest = smallest.into_iter().chain(look.smallest).min();
        padding |= look.padding;
        needless_raw |= look.needless_raw;
    }
    if digest.digest() != record.digest.get() {
        return Some("its digest is wrong".into());
    }
    if padding {
        return Some("padding in its panels that is not zero".into());
    }
    if needless_raw {
        return Some("a raw step whose exponents all have codes".into());
    }
    smallest_magnitude(record, smallest.map_or(0, |bits| u32::from(bits) << 16))
}

/// [`tensor`] for int8 and int4.
fn quantized_tensor(
    index: usize,
    record: &TensorRecord,
    bytes: MappedBytes<'_>,
    shape: &PanelShape,
    quantization: Quantization,
) -> Option<String> {
    let panels = QuantizedPanels::new(quantization, shape, bytes).expect("the layout sizes tensors");
    let mut digest = Xxh3::with_seed(index as u64);
    let mut look = Look::default();
    for panel in 0..shape.n_panels() {
        let stored = panels.panel(panel);
        stored.factors().add_to(&mut digest);
        stored.blocks().add_to(&mut digest);
        look.add(quantized_look::look_at_panel(&stored, shape, panel));
    }
    if digest.digest() != record.digest.get() {
        return Some("its digest is wrong".into());
    }
    if look.padding {
        return Some("padding in its panels that is not that of the format".into());
    }
    if look.not_finite {
        return Some("a scale that is not a finite number".into());
    }
    if look.minus_128 {
        return Some("an element -128, expected -127 to 127".into());
    }
    smallest_magnitude(record, 0)
}

/// Compares the smallest magnitude in a record with the one that was found, as bits of f32; 0 when there is none.
fn smallest_magnitude(record: &TensorRecord, magnitude: u32) -> Option<String> {
    let found = if magnitude < INFINITY { magnitude } else { 0 };
    let stated = record.min_magnitude.get();
    (found != stated).then(|| {
        let (found, stated) = (f32::from_bits(found), f32::from_bits(stated));
        format!("its smallest magnitude is {found:e}, the index states {stated:e}")
    })
}

/// Smallest magnitude less 1, wrapped: zero becomes the largest number, so that one unsigned minimum leaves it out.
fn smallest_key_f32(words: &[u32]) -> u32 {
    words.iter().fold(u32::MAX, |key, &word| key.min((word & 0x7fff_ffff).wrapping_sub(1)))
}

/// The same for bf16 numbers, as the key of the f32 that each is.
fn smallest_key_bf16(words: &[u32]) -> u32 {
    let halves = words.iter().flat_map(|&word| [word as u16, (word >> 16) as u16]);
    let key = halves.fold(u16::MAX, |key, half| key.min((half & 0x7fff).wrapping_sub(1)));
    (u32::from(key.wrapping_add(1)) << 16).wrapping_sub(1)
}

/// Whether panel number `panel` has anything but zeros where there is no element: rows past the last one, and the
/// column that pairs an odd last one.
fn panel_padding(shape: &PanelShape, panel: usize, words: &[u32]) -> bool {
    // In both types a row takes one word of each step.
    let (steps, _) = words.as_chunks::<PANEL_ROWS>();
    let n_rows = (shape.rows - panel * PANEL_ROWS).min(PANEL_ROWS);
    let rows = n_rows < PANEL_ROWS && steps.iter().any(|step| step[n_rows..].iter().any(|&word| word != 0));
    let column = shape.padded_columns() > shape.columns;
    rows || column && steps.last().is_some_and(|step| step.iter().any(|word| word >> 16 != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;
    use zerocopy::little_endian::U64;

    #[test]
    fn smallest_magnitudes_leave_zeros_out() {
        let key = |values: &[f32]| smallest_key_f32(&values.iter().map(|value| value.to_bits()).collect::<Vec<_>>());
        assert_eq!(key(&[0.5, -0.25, 0.0, -0.0]).wrapping_add(1), 0.25f32.to_bits());
        assert_eq!(key(&[0.5, -1e-40]).wrapping_add(1), 1e-40f32.to_bits());
        assert_eq!(key(&[0.0, -0.0]), u32::MAX);
        assert_eq!(smallest_key_bf16(&[0xbf80_8000, 0x3f81]).wrapping_add(1), 1f32.to_bits());
        assert_eq!(smallest_key_bf16(&[0; 2]), u32::MAX);
    }

    #[test]
    fn panel_padding_is_everything_without_an_element() {
        for (rows, columns, dtype) in
            [(70, 3, Dtype::Bf16), (70, 3, Dtype::F32), (64, 4, Dtype::Bf16), (1, 1, Dtype::Bf16)]
        {
            let shape = PanelShape { rows, columns, dtype };
            let elements: Vec<usize> = (0..rows * columns).map(|i| shape.element(i / columns, i % columns)).collect();
            for at in 0..shape.n_panels() * shape.panel_elements() {
                let (panel, at_in_panel) = (at / shape.panel_elements(), at % shape.panel_elements());
                let mut bytes = vec![0; shape.panel_bytes()];
                bytes[at_in_panel * (dtype.bits() / 8)] = 1;
                let words: Vec<u32> = bytes.as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect();
                assert_eq!(panel_padding(&shape, panel, &words), !elements.contains(&at), "{shape:?} {at}");
            }
        }
    }

    #[test]
    fn invalid_vocabularies_are_refused() {
        let section = |n_tokens: u32, offsets: &[u32], text: &[u8], text_bytes: u64| {
            let head = VocabularyHead {
                n_tokens: U32::new(n_tokens),
                reserved: U32::new(0),
                text_bytes: U64::new(text_bytes),
            };
            [head.as_bytes(), offsets.as_bytes(), text].concat()
        };
        assert_eq!(vocabulary(&section(2, &[0, 1, 3], b"abc", 3), 2), Ok(()));
        assert_eq!(vocabulary(&section(0, &[0], b"", 0), 2), Ok(()));
        let beyond = |n: usize| vocabulary(&section(n as u32, &vec![0; n + 1], b"", 0), 2);
        assert_eq!(beyond(2 + MAX_TOKENS_BEYOND), Ok(()));
        assert_eq!(beyond(3 + MAX_TOKENS_BEYOND), Err("too many tokens beyond the rows of the embedding"));
        let bad = [
            section(2, &[0, 1, 3], b"abcd", 3),
            section(2, &[0, 1, 3], b"abcd", 4),
            section(2, &[1, 1, 3], b"abc", 3),
            section(2, &[0, 4, 3], b"abc", 3),
            section(2, &[0], b"", 0),
            vec![0; 15],
        ];
        for (i, bytes) in bad.iter().enumerate() {
            assert!(vocabulary(bytes, 2).is_err(), "case {i}");
        }
    }
}
