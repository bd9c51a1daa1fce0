//! Damage to a small model file, tried exhaustively. Where the changed bytes are decides what opening must refuse and
//! what `verify` must find and name.

use crate::crafted::repair_header_digest;
use crate::packed::{Packed, range, repair_index};
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::{
    ConfigBlock, HEADER_BYTES, Header, SECTION_RECORD_BYTES, SectionRecord, TENSOR_RECORD_BYTES, TensorRecord, section,
};
use olmo_pack::commands::sources::section_name;
use olmo_pack::commands::verify;
use olmo_pack::encode::pool;
use rayon::ThreadPool;
use std::collections::BTreeSet;
use std::mem::offset_of;
use std::ops::Range;
use std::path::Path;

/// Numbers at the edges of the types that a reader might take a field for.
const BOUNDARIES: [u64; 9] = [0, 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, u64::MAX];
/// Lengths of the blocks that storage loses or exchanges: a sector and a page.
const BLOCKS: [usize; 2] = [512, 4096];
/// Most bytes that are added to a file.
const MAX_EXTENSION: usize = 4096;

/// How much of the data is tried. Header, index and sections are always tried whole.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Thoroughness {
    /// Every bit, every window.
    Whole,
    /// One bit of every byte, every eighth window.
    Part,
}

/// Takes the result of each try.
pub type Report<'r> = &'r mut dyn FnMut(Result<(), String>);

/// A model file and a place to try its damage.
pub struct Damage {
    packed: Packed,
    /// Of one thread: the work is too small to be shared.
    pool: ThreadPool,
}

/// The required reaction to a damaged file.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// Opening refuses it.
    Refused,
    /// `verify` prints exactly this.
    Found(BTreeSet<String>),
}

impl Damage {
    /// Damage to be done to `packed`.
    pub fn to(packed: Packed) -> Damage {
        Damage { packed, pool: pool::thread_pool(1).expect("a pool") }
    }

    /// The model file.
    pub fn packed(&self) -> &Packed {
        &self.packed
    }

    /// Where the tensors and the padding between them begin.
    fn data_offset(&self) -> usize {
        self.packed.layout.data_offset as usize
    }

    /// One past the last byte that is checked when the file is opened, without the tables of bf12 matrices.
    fn index_end(&self) -> usize {
        self.packed.layout.index.end() as usize
    }

    /// The results of opening and of `verify` for `bytes`.
    fn verdict(&self, bytes: &[u8]) -> Verdict {
        let Ok(model) = ModelFile::from_bytes(Path::new("m.olmo"), bytes) else { return Verdict::Refused };
        let problems = verify::check(&model, &self.pool).into_iter();
        Verdict::Found(
            problems.map(|problem| format!("{}: {}", problem.tensor.unwrap_or_default(), problem.found)).collect(),
        )
    }

    /// The expected result when the bytes at `changed`, and no others, are wrong.
    fn expected(&self, changed: impl IntoIterator<Item = usize>) -> Verdict {
        let Packed { layout, specs, kinds, .. } = &self.packed;
        let mut found = BTreeSet::new();
        let mut padding = None;
        let mut known: Option<Range<usize>> = None;
        for at in changed {
            if known.as_ref().is_some_and(|known| known.contains(&at)) {
                continue;
            }
            if at < self.index_end() {
                return Verdict::Refused;
            }
            if let Some(i) = layout.sections.iter().position(|&extent| range(extent).contains(&at)) {
                if kinds[i] == section::BF12 {
                    return Verdict::Refused;
                }
                known = Some(range(layout.sections[i]));
                found.insert(format!("{}: its digest is wrong", section_name(kinds[i])));
            } else if let Some(i) = layout.tensors.iter().position(|&extent| range(extent).contains(&at)) {
                known = Some(range(layout.tensors[i]));
                found.insert(format!("{}: its digest is wrong", specs[i].name()));
            } else {
                padding = padding.or(Some(at));
            }
        }
        // Only the first nonzero byte of padding is reported.
        found.extend(padding.map(|at| format!("byte {at}: padding that is not zero")));
        Verdict::Found(found)
    }

    /// Tries `bytes`, which differ from the file inside `touched`.
    fn try_changed(&self, bytes: &[u8], touched: &[Range<usize>], what: impl FnOnce() -> String) -> Result<(), String> {
        let differs = |at: &usize| bytes[*at] != self.packed.bytes[*at];
        let expected = self.expected(touched.iter().flat_map(|range| range.clone()).filter(differs));
        let found = self.verdict(bytes);
        if found == expected {
            return Ok(());
        }
        Err(format!("{}: {}: {found:?}, expected {expected:?}", self.packed.name, what()))
    }

    /// Flips every bit of header, index and sections, and those of the data that are wanted.
    pub fn flips(&self, thoroughness: Thoroughness, report: Report<'_>) {
        let mut bytes = self.packed.bytes.clone();
        for at in 0..bytes.len() {
            let bits = match thoroughness {
                // Both halves of a byte of codes are tried, and all bits of a number of four bytes in turn.
                Thoroughness::Part if at >= self.data_offset() => at % 8..at % 8 + 1,
                _ => 0..8,
            };
            for bit in bits {
                bytes[at] ^= 1 << bit;
                let what = || format!("bit {bit} of byte {at} flipped");
                report(self.try_changed(&bytes, std::slice::from_ref(&(at..at + 1)), what));
                bytes[at] ^= 1 << bit;
            }
        }
    }

    /// Cuts the file at every length, and makes it longer by 1 to 4096 bytes: zeros, and its own beginning once more.
    pub fn lengths(&self, report: Report<'_>) {
        let original = &self.packed.bytes;
        let refused = |bytes: &[u8]| match self.verdict(bytes) {
            Verdict::Refused => Ok(()),
            found => Err(format!("{}: {} bytes of {}: {found:?}", self.packed.name, bytes.len(), original.len())),
        };
        (0..original.len()).for_each(|length| report(refused(&original[..length])));
        for more in [&[0; MAX_EXTENSION][..], &original[..MAX_EXTENSION]] {
            let longer = [original, more].concat();
            (1..=MAX_EXTENSION).for_each(|extra| report(refused(&longer[..original.len() + extra])));
        }
    }

    /// Sets windows of eight bytes to boundary values: at every offset of header and index, at aligned ones behind. In
    /// header and index once as it is and once under right digests.
    pub fn windows(&self, thoroughness: Thoroughness, report: Report<'_>) {
        let free = self.free_bytes();
        let mut bytes = self.packed.bytes.clone();
        let step = if thoroughness == Thoroughness::Whole { 8 } else { 64 };
        let sections = self.index_end().next_multiple_of(8)..self.data_offset();
        let data = (self.data_offset()..bytes.len()).step_by(step);
        let offsets = (0..self.index_end()).chain(sections.step_by(8)).chain(data);
        for at in offsets.filter(|at| at + 8 <= self.packed.bytes.len()) {
            let window = at..at + 8;
            let before = u64::from_le_bytes(*bytes[at..].first_chunk().expect("eight bytes"));
            let neighbours = [before.wrapping_add(1), before.wrapping_sub(1)];
            for value in BOUNDARIES.into_iter().chain(neighbours).filter(|&value| value != before) {
                bytes[window.clone()].copy_from_slice(&value.to_le_bytes());
                let what = || format!("{value:#x} at {at}");
                report(self.try_changed(&bytes, std::slice::from_ref(&window), what));
                if at < self.index_end() {
                    report(self.try_repaired(&bytes, &window, &free).map_err(|found| format!("{}: {found}", what())));
                }
            }
            bytes[window.clone()].copy_from_slice(&self.packed.bytes[window]);
        }
    }

    /// Tries a changed header or index with matching digests: only fields that nothing else depends on may pass.
    fn try_repaired(&self, changed: &[u8], window: &Range<usize>, free: &[bool]) -> Result<(), String> {
        let mut bytes = changed.to_vec();
        if window.end > HEADER_BYTES {
            repair_index(&mut bytes, range(self.packed.layout.index));
        } else {
            repair_header_digest(&mut bytes);
        }
        // The digests of header and index themselves are made right again.
        let original = &self.packed.bytes;
        let changed = window.clone().filter(|&at| bytes[at] != original[at]);
        let is_free = |at: usize| free.get(at) == Some(&true);
        let all_free = changed.clone().all(is_free);
        match self.verdict(&bytes) {
            Verdict::Found(found) if found.is_empty() && !all_free => {
                let bytes: Vec<usize> = changed.filter(|&at| !is_free(at)).collect();
                Err(format!("{}: accepted under right digests, bytes {bytes:?} changed", self.packed.name))
            }
            _ => Ok(()),
        }
    }

    /// The bytes of header and index whose fields can have other values in an equally good file: no shape, offset or
    /// digest follows from them.
    fn free_bytes(&self) -> Vec<bool> {
        let mut free = vec![false; self.index_end()];
        let mut mark = |begin: usize, bytes: usize| free[begin..begin + bytes].fill(true);
        mark(offset_of!(Header, version_minor), 2);
        mark(offset_of!(Header, optional_features), 8);
        let config = offset_of!(Header, config);
        for (field, bytes) in [
            // An OLMo-2 is an Olmo-3 without windows.
            (offset_of!(ConfigBlock, architecture), 4),
            (offset_of!(ConfigBlock, max_position_embeddings), 4),
            (offset_of!(ConfigBlock, sliding_window), 4),
            (offset_of!(ConfigBlock, rms_norm_eps), 8),
            (offset_of!(ConfigBlock, rope_theta), 8),
            (offset_of!(ConfigBlock, rope_theta_sliding), 8),
            (offset_of!(ConfigBlock, yarn_factor), 8),
            (offset_of!(ConfigBlock, yarn_beta_fast), 8),
            (offset_of!(ConfigBlock, yarn_beta_slow), 8),
            (offset_of!(ConfigBlock, yarn_attention_factor), 8),
            (offset_of!(ConfigBlock, yarn_original_max_position_embeddings), 4),
            (offset_of!(ConfigBlock, yarn_truncate), 4),
            (offset_of!(ConfigBlock, bos_token_id), 4),
            (offset_of!(ConfigBlock, pad_token_id), 4),
            (offset_of!(ConfigBlock, eos_token_ids), 64),
            (offset_of!(ConfigBlock, sliding_layers), 128),
            (offset_of!(ConfigBlock, clip_qkv), 8),
        ] {
            mark(config + field, bytes);
        }
        for (tensor, spec) in self.packed.specs.iter().enumerate() {
            let record = HEADER_BYTES + tensor * TENSOR_RECORD_BYTES;
            mark(record + offset_of!(TensorRecord, rounded), 4);
            // Other levels that ascend make another matrix.
            if self.packed.bytes[record + offset_of!(TensorRecord, levels)] != 0 {
                mark(record + offset_of!(TensorRecord, levels), 16);
            }
            if spec.is_draft {
                // A draft of another matrix of the same shape.
                mark(record + offset_of!(TensorRecord, role), 4);
            }
        }
        let sections = HEADER_BYTES + self.packed.specs.len() * TENSOR_RECORD_BYTES;
        for section in 0..self.packed.kinds.len() {
            mark(sections + section * SECTION_RECORD_BYTES + offset_of!(SectionRecord, flags), 4);
        }
        free
    }

    /// Zeroes every aligned block, and exchanges every two of them.
    pub fn blocks(&self, report: Report<'_>) {
        let original = &self.packed.bytes;
        for length in BLOCKS {
            let blocks: Vec<Range<usize>> =
                (0..original.len() / length).map(|i| i * length..(i + 1) * length).collect();
            for (i, block) in blocks.iter().enumerate() {
                let mut bytes = original.clone();
                bytes[block.clone()].fill(0);
                let what = || format!("{length} bytes at {} zeroed", block.start);
                if bytes != *original {
                    report(self.try_changed(&bytes, std::slice::from_ref(block), what));
                }
                for other in &blocks[i + 1..] {
                    bytes[block.clone()].copy_from_slice(&original[other.clone()]);
                    bytes[other.clone()].copy_from_slice(&original[block.clone()]);
                    let what = || format!("{length} bytes at {} and {} exchanged", block.start, other.start);
                    if bytes != *original {
                        report(self.try_changed(&bytes, &[block.clone(), other.clone()], what));
                    }
                    bytes[other.clone()].copy_from_slice(&original[other.clone()]);
                }
            }
        }
    }
}
