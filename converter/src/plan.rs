//! What goes where: a pure function of the checked folder and the stored type. No I/O.

use crate::checkpoint::{Checkpoint, Source};
use crate::error::{Error, Problem};
use olmo_infer::config::ModelConfig;
use olmo_infer::format::{self, ConfigBlock, Dtype, Header, SectionRecord, SourceRecord, TensorRecord, section};
use olmo_infer::layout::{self, Layout, TensorSpec};
use olmo_infer::panels::PanelShape;
use std::path::Path;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// A file before its numbers are known.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// The model's configuration.
    pub config: &'a ModelConfig,
    /// Stored type of the matrices.
    pub matrices: Dtype,
    /// The tensors with their sources, in the order of the file.
    pub sources: &'a [Source],
    /// Where everything lies.
    pub layout: Layout,
    /// Kinds and bytes of the sections. Digests in `SOURCES` are still zero.
    sections: Vec<(u32, Vec<u8>)>,
}

/// What became known of a tensor while its numbers were written.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Written {
    /// Digest of its bytes in the file.
    pub digest: u64,
    /// Digest of the numbers in the source file.
    pub source_digest: u64,
    /// Bits of the smallest magnitude that is not zero, as f32.
    pub min_magnitude: u32,
    /// Whether rounding changed a number.
    pub rounded: bool,
}

/// A part of a tensor that is filled in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The tensor.
    pub tensor: usize,
    /// The panel; `None` for a vector.
    pub panel: Option<usize>,
    /// Where its numbers begin in the source, behind the preamble.
    pub source_offset: u64,
    /// Their length there.
    pub source_bytes: usize,
    /// Where it begins in the file.
    pub offset: u64,
    /// Its length there.
    pub bytes: usize,
    /// Whether it is the last of its tensor.
    pub last: bool,
}

impl<'a> Plan<'a> {
    /// Plans the file of `checkpoint` with its matrices stored as `matrices`.
    ///
    /// # Errors
    /// The file or a section would be larger than the format admits.
    pub fn new(
        checkpoint: &'a Checkpoint,
        matrices: Dtype,
        vocabulary: Option<&[u8]>,
        provenance: String,
        folder: &Path,
    ) -> Result<Plan<'a>, Error> {
        let config = &checkpoint.settings.config;
        let mut sections = vec![(section::SOURCES, sources_section(&checkpoint.sources, &[]))];
        if let Some(vocabulary) = vocabulary {
            sections.push((section::VOCABULARY, vocabulary.to_vec()));
        }
        if let Some(json) = &checkpoint.settings.config_json {
            sections.push((section::CONFIG_JSON, json.clone()));
        }
        sections.push((section::PROVENANCE, provenance.into_bytes()));
        for (kind, bytes) in &sections {
            let most = section::max_bytes(*kind);
            if bytes.len() as u64 > most {
                let found = format!("section {kind} would have {} bytes", bytes.len());
                return Err(Problem::new(folder, found).expected(format!("at most {most}")).into());
            }
        }
        let lengths: Vec<u64> = sections.iter().map(|(_, bytes)| bytes.len() as u64).collect();
        let layout = layout::layout(config, matrices, &lengths)
            .map_err(|_| Problem::new(folder, "the model is larger than any file can be").expected("a smaller one"))?;
        Ok(Plan { config, matrices, sources: &checkpoint.sources, layout, sections })
    }

    /// Stored type of a tensor.
    pub fn dtype(&self, spec: &TensorSpec) -> Dtype {
        spec.dtype(self.matrices)
    }

    /// The parts of all tensors, in the order of the file.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        self.sources.iter().zip(&self.layout.tensors).enumerate().flat_map(|(tensor, (source, extent))| {
            let element = source.element.bytes();
            let (n_pieces, rows_per_piece, columns, bytes) = match source.spec.columns {
                None => (1, source.spec.rows, 1, extent.bytes as usize),
                Some(columns) => {
                    let shape = PanelShape { rows: source.spec.rows, columns, dtype: self.matrices };
                    (shape.n_panels(), format::PANEL_ROWS, columns, shape.panel_bytes())
                }
            };
            (0..n_pieces).map(move |i| {
                let first = i * rows_per_piece;
                let n_rows = rows_per_piece.min(source.spec.rows - first);
                Piece {
                    tensor,
                    panel: source.spec.columns.map(|_| i),
                    source_offset: (first * columns * element) as u64,
                    source_bytes: n_rows * columns * element,
                    offset: extent.offset + (i * bytes) as u64,
                    bytes,
                    last: i + 1 == n_pieces,
                }
            })
        })
    }

    /// Everything before the tensor data except the header page, and the header page that makes it a model file.
    pub fn head(&self, written: &[Written]) -> (Vec<u8>, Header) {
        let records: Vec<TensorRecord> = self
            .sources
            .iter()
            .zip(&self.layout.tensors)
            .zip(written)
            .map(|((source, extent), written)| TensorRecord {
                digest: U64::new(written.digest),
                min_magnitude: U32::new(written.min_magnitude),
                rounded: U32::new(u32::from(written.rounded)),
                ..TensorRecord::new(&source.spec, self.matrices, *extent)
            })
            .collect();
        let sources = sources_section(self.sources, written);
        let mut head = vec![0; self.layout.data_offset as usize - format::HEADER_BYTES];
        let mut section_records = Vec::new();
        for ((kind, bytes), extent) in self.sections.iter().zip(&self.layout.sections) {
            let bytes = if *kind == section::SOURCES { &sources } else { bytes };
            let start = extent.offset as usize - format::HEADER_BYTES;
            head[start..start + bytes.len()].copy_from_slice(bytes);
            section_records.push(SectionRecord {
                kind: U32::new(*kind),
                flags: U32::new(0),
                offset: U64::new(extent.offset),
                bytes: U64::new(extent.bytes),
                digest: U64::new(format::digest(bytes, u64::from(*kind))),
                reserved: [0; 32],
            });
        }
        let index = [records.as_bytes(), section_records.as_bytes()].concat();
        head[..index.len()].copy_from_slice(&index);

        let mut header = Header::new_zeroed();
        header.magic = format::MAGIC;
        header.version_major = U16::new(format::VERSION_MAJOR);
        header.version_minor = U16::new(format::VERSION_MINOR);
        header.byte_order = U32::new(format::BYTE_ORDER_MARK);
        header.file_bytes = U64::new(self.layout.file_bytes);
        header.header_bytes = U32::new(format::HEADER_BYTES as u32);
        header.n_tensors = U32::new(records.len() as u32);
        header.n_sections = U32::new(section_records.len() as u32);
        header.index_bytes = U64::new(index.len() as u64);
        header.index_digest = U64::new(format::digest(&index, 0));
        header.data_offset = U64::new(self.layout.data_offset);
        header.data_bytes = U64::new(self.layout.file_bytes - self.layout.data_offset);
        header.config = ConfigBlock::new(self.config);
        header.header_digest = U64::new(header.computed_digest());
        (head, header)
    }
}

/// The `SOURCES` section; without `written` its digests are zero, its length the same.
fn sources_section(sources: &[Source], written: &[Written]) -> Vec<u8> {
    let records: Vec<SourceRecord> = sources
        .iter()
        .enumerate()
        .map(|(i, source)| SourceRecord {
            dtype: U32::new(source.element.code()),
            // A preamble has at most 10,012 bytes.
            header_bytes: U32::new(source.file.preamble.len() as u32),
            digest: U64::new(written.get(i).map_or(0, |written| written.source_digest)),
        })
        .collect();
    let mut section = records.as_bytes().to_vec();
    for source in sources {
        section.extend(&source.file.preamble);
    }
    section
}
