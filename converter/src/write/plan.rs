//! Where everything goes: a pure function of the checked folder and of how its tensors are stored. No I/O.

use crate::encode::importance::Importance;
use crate::error::{Error, Problem};
use crate::model::checkpoint::{Checkpoint, Source};
use crate::model::spelling;
use crate::text::Text;
use crate::text::vocab::Vocabulary;
use crate::write::recipe::Planned;
use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::format::layout::{self, Layout};
use olmo_infer::internals::format::panels::PanelShape;
use olmo_infer::internals::format::tensors::TensorSpec;
use olmo_infer::internals::format::{
    self, ConfigBlock, Dtype, Encoding, Header, SectionRecord, SourceRecord, TensorRecord, section,
};
use std::path::Path;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// A file before its numbers are known.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// The model's configuration.
    pub config: &'a ModelConfig,
    /// The sources of the model's tensors.
    pub sources: &'a [Source],
    /// The tensors, in the order of the file: those of the model, one for each source, then the drafts.
    pub tensors: Vec<Planned>,
    /// Offsets and lengths in the file.
    pub layout: Layout,
    /// How much the errors in the columns of quantized matrices count; without, all alike.
    pub importance: Option<Importance>,
    /// Kinds and bytes of the sections but `BF12`. Digests in `SOURCES` are still zero.
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
    /// Where its numbers begin in the source, counted from the tensor's first.
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
    /// Plans the file of `checkpoint` with these tensors.
    ///
    /// # Errors
    /// The file or a section would be larger than the format admits.
    pub fn new(
        checkpoint: &'a Checkpoint,
        tensors: Vec<Planned>,
        text: &Text,
        provenance: String,
        folder: &Path,
    ) -> Result<Plan<'a>, Error> {
        let config = &checkpoint.settings.config;
        let sections = [
            (section::SOURCES, Some(sources_section(&checkpoint.sources, &[]))),
            (section::VOCABULARY, text.vocabulary.as_ref().map(Vocabulary::section)),
            (section::CONFIG_JSON, checkpoint.settings.config_json.clone()),
            (section::PROVENANCE, Some(provenance.into_bytes())),
            (section::TOKENIZER, text.tokenizer_section()),
            (section::CHAT, text.chat_section()),
            (section::FILES, text.files.section(checkpoint.generation.bytes.as_deref())),
            (section::SAMPLING, checkpoint.generation.sampling.map(|author| author.block().as_bytes().to_vec())),
            (section::GGUF, checkpoint.gguf.clone()),
            (section::SPELLING, spelling::section(&checkpoint.respelled)),
        ];
        let sections = sections.into_iter().filter_map(|(kind, bytes)| Some((kind, bytes?)));
        let sections: Vec<(u32, Vec<u8>)> = sections.collect();
        let specs: Vec<TensorSpec> = tensors.iter().map(|tensor| tensor.spec).collect();
        let encodings: Vec<Encoding> = tensors.iter().map(|tensor| tensor.stored.encoding()).collect();
        let too_large = |_| Problem::new(folder, "the model is larger than any file can be").expected("a smaller one");
        let mut lengths: Vec<(u32, u64)> = sections.iter().map(|(kind, bytes)| (*kind, bytes.len() as u64)).collect();
        if tensors.iter().any(|tensor| tensor.stored.table().is_some()) {
            let bytes = specs.iter().zip(&encodings);
            let bytes = bytes.map(|(spec, &encoding)| layout::table_bytes(spec, encoding));
            lengths.push((section::BF12, bytes.sum::<Result<u64, _>>().map_err(too_large)?));
            lengths.sort_unstable();
        }
        for &(kind, bytes) in &lengths {
            let most = section::max_bytes(kind);
            if bytes > most {
                let found = format!("section {} would have {bytes} bytes", section::name(kind));
                let problem = Problem::new(folder, found).expected(format!("at most {most}"));
                return Err(match kind {
                    section::BF12 => problem.advice("pack it with --encoding plain").into(),
                    _ => problem.into(),
                });
            }
        }
        let lengths: Vec<u64> = lengths.iter().map(|(_, bytes)| *bytes).collect();
        let layout = layout::layout(&specs, &encodings, &lengths).map_err(too_large)?;
        Ok(Plan { config, sources: &checkpoint.sources, tensors, layout, importance: None, sections })
    }

    /// The matrices of the model: geometry, encoding, and bytes in the file.
    pub fn matrices(&self) -> impl Iterator<Item = (PanelShape, Encoding, u64)> + '_ {
        let of_model = self.tensors.iter().zip(&self.layout.tensors).take(self.sources.len());
        of_model.filter_map(|(tensor, extent)| {
            let encoding = tensor.stored.encoding();
            Some((tensor.spec.panel_shape(encoding.dtype())?, encoding, extent.bytes))
        })
    }

    /// Type of the elements of the model's matrices, of those that can have several; `None` when they do.
    pub fn matrices_dtype(&self) -> Option<Dtype> {
        let of_model = self.tensors.iter().filter(|tensor| !tensor.spec.is_draft && tensor.spec.has_choice());
        let mut types = of_model.map(|tensor| tensor.stored.encoding().dtype());
        let first = types.next()?;
        types.all(|dtype| dtype == first).then_some(first)
    }

    /// Bits that an element of the model's matrices takes in the file; padding inside panels counts as elements.
    pub fn bits_per_weight(&self) -> f64 {
        let (bytes, n_elements) = self.matrices().fold((0, 0), |sums, (shape, _, bytes)| {
            (sums.0 + bytes, sums.1 + shape.n_panels() * shape.panel_elements())
        });
        8.0 * bytes as f64 / n_elements as f64
    }

    /// The source of a tensor.
    pub fn source(&self, tensor: usize) -> &'a Source {
        &self.sources[self.tensors[tensor].source]
    }

    /// The parts of all tensors, in the order of the file.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        self.tensors.iter().zip(&self.layout.tensors).enumerate().flat_map(move |(tensor, (planned, extent))| {
            let source = self.source(tensor);
            let element = source.tensor.element.bytes();
            let shape = planned.spec.panel_shape(planned.stored.encoding().dtype());
            let (n_pieces, rows_per_piece, columns) = match shape {
                None => (1, source.spec.rows, 1),
                Some(shape) => (shape.n_panels(), format::PANEL_ROWS, shape.columns),
            };
            (0..n_pieces).map(move |i| {
                let first = i * rows_per_piece;
                let n_rows = rows_per_piece.min(source.spec.rows - first);
                let range = match (shape, planned.stored.table()) {
                    (None, _) => 0..extent.bytes as usize,
                    (Some(shape), Some(table)) => table.panel_range(&shape, i),
                    (Some(shape), None) => {
                        let bytes = planned.stored.encoding().panel_bytes(&shape).expect("panels of one length");
                        i * bytes..(i + 1) * bytes
                    }
                };
                Piece {
                    tensor,
                    panel: source.spec.columns.map(|_| i),
                    source_offset: (first * columns * element) as u64,
                    source_bytes: n_rows * columns * element,
                    offset: extent.offset + range.start as u64,
                    bytes: range.len(),
                    last: i + 1 == n_pieces,
                }
            })
        })
    }

    /// Everything before the tensor data except the header page, and the header page that makes it a model file.
    pub fn head(&self, written: &[Written]) -> (Vec<u8>, Header) {
        let tensors = self.tensors.iter().zip(&self.layout.tensors).zip(written);
        let records: Vec<TensorRecord> = tensors
            .map(|((tensor, extent), written)| TensorRecord {
                digest: U64::new(written.digest),
                min_magnitude: U32::new(written.min_magnitude),
                rounded: U32::new(u32::from(written.rounded)),
                ..TensorRecord::new(&tensor.spec, tensor.stored.encoding(), *extent)
            })
            .collect();
        let sources = sources_section(self.sources, written);
        let mut tables = Vec::new();
        self.tensors.iter().filter_map(|tensor| tensor.stored.table()).for_each(|table| table.write(&mut tables));
        let has_bf12 = !tables.is_empty();
        let mut head = vec![0; self.layout.data_offset as usize - format::HEADER_BYTES];
        let mut section_records = Vec::new();
        let sections = self.sections.iter().map(|(kind, bytes)| match *kind {
            section::SOURCES => (section::SOURCES, &sources),
            kind => (kind, bytes),
        });
        let mut sections: Vec<_> = sections.chain(has_bf12.then_some((section::BF12, &tables))).collect();
        sections.sort_unstable_by_key(|(kind, _)| *kind);
        for ((kind, bytes), extent) in sections.into_iter().zip(&self.layout.sections) {
            let start = extent.offset as usize - format::HEADER_BYTES;
            head[start..start + bytes.len()].copy_from_slice(bytes);
            section_records.push(SectionRecord {
                kind: U32::new(kind),
                flags: U32::new(if kind == section::BF12 { format::SECTION_REQUIRED } else { 0 }),
                offset: U64::new(extent.offset),
                bytes: U64::new(extent.bytes),
                digest: U64::new(format::digest(bytes, u64::from(kind))),
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
        let encodings: Vec<Encoding> = self.tensors.iter().map(|tensor| tensor.stored.encoding()).collect();
        let specs = self.tensors.iter().map(|tensor| &tensor.spec);
        header.required_features = U64::new(format::features(specs.zip(&encodings)));
        header.header_bytes = U32::new(format::HEADER_BYTES as u32);
        header.n_tensors = U32::new(records.len() as u32);
        header.n_sections = U32::new(section_records.len() as u32);
        header.index_bytes = U64::new(index.len() as u64);
        header.index_digest = U64::new(format::digest(&index, 0));
        header.data_offset = U64::new(self.layout.data_offset);
        header.data_bytes = U64::new(self.layout.data_bytes());
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
            dtype: U32::new(source.tensor.element.code()),
            // A header has at most 10,012 bytes, and none at all where the tensor was not in an `.npy` file.
            header_bytes: U32::new(source.tensor.npy_header.len() as u32),
            digest: U64::new(written.get(i).map_or(0, |written| written.source_digest)),
        })
        .collect();
    let mut section = records.as_bytes().to_vec();
    for source in sources {
        section.extend(&source.tensor.npy_header);
    }
    section
}
