//! The parts of a model file that have a digest.

use crate::file::index::Index;
use crate::format::section;
use crate::format::sizes::Extent;

/// A part of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartKind {
    /// The index.
    Index,
    /// The section of this kind.
    Section(u32),
    /// The tensor with this position.
    Tensor(usize),
}

/// A part of the file with its digest.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Which part.
    pub kind: PartKind,
    /// Where it is.
    pub extent: Extent,
    /// Seed of its digest.
    pub seed: u64,
    /// Its digest, as the header or its record states it.
    pub digest: u64,
}

impl Index {
    /// All parts after the header page, in the order of the file.
    pub fn parts(&self) -> impl Iterator<Item = Part> {
        let digest = self.header.index_digest.get();
        let index = Part { kind: PartKind::Index, extent: self.layout.index, seed: 0, digest };
        let sections = self.sections.iter().zip(&self.layout.sections).map(|(record, &extent)| {
            let kind = record.kind.get();
            Part { kind: PartKind::Section(kind), extent, seed: kind.into(), digest: record.digest.get() }
        });
        let tensors = self.records.iter().zip(&self.layout.tensors).enumerate().map(|(position, (record, &extent))| {
            let (kind, seed) = (PartKind::Tensor(position), position as u64);
            Part { kind, extent, seed, digest: record.digest.get() }
        });
        std::iter::once(index).chain(sections).chain(tensors)
    }

    /// The name of a part in messages.
    pub fn part_name(&self, kind: PartKind) -> String {
        match kind {
            PartKind::Index => "index".into(),
            PartKind::Section(kind) => format!("section {}", section::name(kind)),
            PartKind::Tensor(position) => self.specs[position].name(),
        }
    }
}
