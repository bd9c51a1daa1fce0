//! Whether bf16 holds every matrix exactly.

use crate::encode::buffer::grow;
use crate::error::Error;
use crate::folder::element::{SourceType, all_bf16 as numbers_are_bf16};
use crate::model::checkpoint::Source;
use olmo_infer::internals::format::Dtype;
use rayon::prelude::*;

/// Bytes looked at in one go.
const BLOCK: u64 = 1 << 20;

/// The sources of matrices whose numbers may or may not be bf16. Blocks of a GGUF file are stored as they are.
fn undecided(sources: &[Source]) -> impl Iterator<Item = &Source> {
    let is_plain = |source: &&Source| source.spec.columns.is_some() && source.tensor.rows.blocks.is_none();
    sources.iter().filter(is_plain).filter(|source| source.tensor.element != SourceType::Bf16)
}

/// The smallest lossless type, when the element types of the files decide it.
pub fn known_without_reading(sources: &[Source]) -> Option<Dtype> {
    undecided(sources).next().is_none().then_some(Dtype::Bf16)
}

/// Why a scan ended early.
enum Stop {
    NotBf16,
    Failed(Error),
}

/// Reads the matrices until an element is not exact in bf16.
///
/// # Errors
/// A file cannot be read or changed meanwhile; out of memory.
pub fn all_bf16(pool: &rayon::ThreadPool, sources: &[Source]) -> Result<bool, Error> {
    let blocks: Vec<(&Source, u64)> = undecided(sources)
        .flat_map(|source| (0..source.tensor.all_bytes().div_ceil(BLOCK)).map(move |i| (source, i * BLOCK)))
        .collect();
    // The first block alone decides for nearly every folder of f32 weights.
    for blocks in [&blocks[..blocks.len().min(1)], &blocks[blocks.len().min(1)..]] {
        let scanned = pool.install(|| {
            blocks.par_iter().try_for_each_init(Vec::new, |buffer, (source, offset)| {
                let length = (source.tensor.all_bytes() - offset).min(BLOCK) as usize;
                grow(buffer, length, &source.tensor.file.path).map_err(Stop::Failed)?;
                let block = &mut buffer[..length];
                source.tensor.read(*offset, block).map_err(Stop::Failed)?;
                if numbers_are_bf16(source.tensor.element, block) { Ok(()) } else { Err(Stop::NotBf16) }
            })
        });
        match scanned {
            Ok(()) => {}
            Err(Stop::NotBf16) => return Ok(false),
            Err(Stop::Failed(error)) => return Err(error),
        }
    }
    Ok(true)
}
