//! The checked index of a model file: header, configuration, records, layout and the tables of bf12 matrices, read from
//! any bytes into owned memory.
//!
//! Order of trust: magic, version, header digest, exact length, configuration, index digest, then every record compared
//! with the tensors of the configuration and with the layout that `layout.rs` computes, then the tables
//! (`bf12_tables`). Offsets are compared and never followed, so that overlap, holes and misalignment cannot be
//! expressed, and no tensor data is read.

#![deny(clippy::arithmetic_side_effects, reason = "its operands come from untrusted files")]

use crate::error::Error;
use crate::file::not_olmo::looks_like;
use crate::file::reader::{ReadAt, Reader};
use crate::format::config::ModelConfig;
use crate::format::encodings::bf12::Bf12Table;
use crate::format::layout::{self, Layout};
use crate::format::mapped_bytes::MappedBytes;
use crate::format::sizes::{Extent, TooLarge, in_memory, product, sum};
use crate::format::tensors::{TensorSpec, tensors_of};
use crate::format::{self, Encoding, Header, MAGIC, SectionRecord, TensorRecord, section};
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;
use zerocopy::{FromBytes, IntoBytes};

/// The checked contents of a file, except its tensor data.
pub struct Index {
    /// The first page.
    pub header: Header,
    /// The model's configuration.
    pub config: ModelConfig,
    /// The tensors, in the order of the file: those of the model, then the drafts.
    pub specs: Vec<TensorSpec>,
    /// How each is stored.
    pub encodings: Vec<Encoding>,
    /// The entries of the tensors.
    pub records: Vec<TensorRecord>,
    /// The entries of the sections.
    pub sections: Vec<SectionRecord>,
    /// Offsets and lengths; ends at the length of the file.
    pub layout: Layout,
    /// The table of each tensor; `None` of those that are not bf12.
    pub bf12_tables: Vec<Option<Bf12Table>>,
}

impl Index {
    /// Reads and checks the index of a file of `length` bytes; `path` is for messages.
    ///
    /// # Errors
    /// Everything that is not exactly a file of this format: [`Error::NotOlmo`], [`Error::Version`],
    /// [`Error::Length`], [`Error::Damaged`], [`Error::Config`], or [`Error::Io`].
    pub fn read(path: &Path, source: &(impl ReadAt + ?Sized), length: u64) -> Result<Index, Error> {
        let reader = Reader { path, source, length };
        let header = reader.header()?;
        let config = reader.config(&header)?;
        let mut specs = tensors_of(&config);
        reader.check_n_tensors(&header, &specs)?;
        let (records, sections) = reader.index(&header)?;
        reader.check_sections(&sections)?;
        reader.add_drafts(&mut specs, &records)?;
        let encodings = reader.encodings(&header, &specs, &records)?;
        let layout = reader.check_layout(&header, &specs, &encodings, &records, &sections)?;
        let bf12_tables = reader.bf12_tables(&specs, &encodings, &sections)?;
        Ok(Index { header, config, specs, encodings, records, sections, layout, bf12_tables })
    }

    /// A digest that names the model: its configuration, and type, encoding and digest of each of its tensors. It does
    /// not depend on where they are, or on the sections with text.
    pub fn identity(&self) -> u64 {
        let mut identity = Xxh3::new();
        identity.update(self.header.config.as_bytes());
        for record in &self.records[..self.n_model_tensors()] {
            identity.update(TensorRecord { offset: 0.into(), ..*record }.as_bytes());
        }
        let tables = self.sections.iter().find(|record| record.kind.get() == section::BF12);
        identity.update(tables.map_or(0, |record| record.digest.get()).to_le_bytes().as_slice());
        identity.digest()
    }

    /// Number of tensors of the model, which precede the drafts.
    pub fn n_model_tensors(&self) -> usize {
        self.specs.partition_point(|spec| !spec.is_draft)
    }
}

/// The checks, in the order of trust.
impl<S: ReadAt + ?Sized> Reader<'_, S> {
    fn version(&self, found: String, is_older: bool) -> Error {
        let supported = format!("format {}.{}", format::VERSION_MAJOR, format::VERSION_MINOR);
        Error::Version { path: self.path.to_path_buf(), found, supported, is_older }
    }

    fn header(&self) -> Result<Header, Error> {
        let mut page = vec![0u8; self.length.min(format::HEADER_BYTES as u64) as usize];
        self.source.read_exact_at(&mut page, 0).map_err(Error::io(self.path, "read"))?;
        // The first bytes of a magic may be the first bytes of a file that was cut short.
        if !page.starts_with(&MAGIC) && (page.is_empty() || !MAGIC.starts_with(&page)) {
            let (found, advice) = looks_like(&page);
            return Err(Error::NotOlmo { path: self.path.to_path_buf(), found, advice });
        }
        let header = Header::read_from_bytes(&page).map_err(|_| Error::Length {
            path: self.path.to_path_buf(),
            found: self.length,
            expected: format::HEADER_BYTES as u64,
            is_stated: false,
        })?;
        // These three come before the digest: they stay where they are in every version.
        if header.byte_order.get().swap_bytes() == format::BYTE_ORDER_MARK {
            return Err(self.damaged("byte order", "big-endian", "little-endian"));
        }
        self.equal("byte order mark", header.byte_order.get().into(), format::BYTE_ORDER_MARK.into())?;
        let version = |found| self.version(found, false);
        if header.version_major.get() < format::VERSION_MAJOR {
            let found = format!("format {}.{}", header.version_major.get(), header.version_minor.get());
            return Err(self.version(found, true));
        }
        if header.version_major.get() != format::VERSION_MAJOR {
            return Err(version(format!("format {}.{}", header.version_major.get(), header.version_minor.get())));
        }
        if header.header_digest.get() != header.computed_digest() {
            return Err(self.damaged(
                "header digest",
                format_args!("{:016x}", header.computed_digest()),
                format_args!("{:016x}", header.header_digest.get()),
            ));
        }
        if header.required_features.get() & !format::KNOWN_FEATURES != 0 {
            return Err(version(format!("feature bits {:#x}", header.required_features.get())));
        }
        if header.file_bytes.get() != self.length {
            return Err(Error::Length {
                path: self.path.to_path_buf(),
                found: self.length,
                expected: header.file_bytes.get(),
                is_stated: true,
            });
        }
        self.equal("header bytes", header.header_bytes.get().into(), format::HEADER_BYTES as u64)?;
        let Header { reserved_a, reserved_b, reserved_c, .. } = header;
        if reserved_a.get() != 0 || reserved_b != [0; _] || reserved_c != [0; _] {
            return Err(self.damaged("reserved header fields", "a value", "zeros"));
        }
        Ok(header)
    }

    fn config(&self, header: &Header) -> Result<ModelConfig, Error> {
        let config = header.config.to_config().and_then(|config| config.validate().map(|()| config));
        config.map_err(|source| Error::Config { path: self.path.to_path_buf(), source })
    }

    /// Compares the number of records with the tensors of the model, and the drafts that the header announces.
    fn check_n_tensors(&self, header: &Header, specs: &[TensorSpec]) -> Result<(), Error> {
        let found = header.n_tensors.get() as usize;
        if header.required_features.get() & format::FEATURE_DRAFTS == 0 {
            return self.equal("number of tensors", found as u64, specs.len() as u64);
        }
        let n_drafts = found.saturating_sub(specs.len());
        let most = specs.iter().filter_map(TensorSpec::draft).count();
        if !(1..=most).contains(&n_drafts) {
            let expected = format_args!("{} and 1 to {most} drafts", specs.len());
            return Err(self.damaged("number of tensors", found, expected));
        }
        Ok(())
    }

    fn index(&self, header: &Header) -> Result<(Vec<TensorRecord>, Vec<SectionRecord>), Error> {
        let n_tensors = header.n_tensors.get() as usize;
        let n_sections = header.n_sections.get() as usize;
        if n_sections > format::MAX_SECTIONS {
            return Err(self.damaged(
                "number of sections",
                n_sections,
                format_args!("at most {}", format::MAX_SECTIONS),
            ));
        }
        let impossible = |TooLarge| self.impossible();
        let tensor_bytes = product([n_tensors, format::TENSOR_RECORD_BYTES]).map_err(impossible)?;
        let section_bytes = product([n_sections, format::SECTION_RECORD_BYTES]).map_err(impossible)?;
        let index_bytes = sum([tensor_bytes, section_bytes]).map_err(impossible)?;
        self.equal("index bytes", header.index_bytes.get(), index_bytes)?;
        if self.length < sum([format::HEADER_BYTES as u64, index_bytes]).map_err(impossible)? {
            return Err(self.damaged("index", format_args!("a file of {} bytes", self.length), "room for the index"));
        }
        let mut index = vec![0u8; in_memory(index_bytes).map_err(impossible)?];
        self.source.read_exact_at(&mut index, format::HEADER_BYTES as u64).map_err(Error::io(self.path, "read"))?;
        let digest = format::digest(&index, 0);
        if digest != header.index_digest.get() {
            let expected = header.index_digest.get();
            return Err(self.damaged("index digest", format_args!("{digest:016x}"), format_args!("{expected:016x}")));
        }
        let (tensors, sections) = index.split_at(in_memory(tensor_bytes).map_err(impossible)?);
        let tensors = <[TensorRecord]>::ref_from_bytes(tensors).expect("a whole number of unaligned records");
        let sections = <[SectionRecord]>::ref_from_bytes(sections).expect("a whole number of unaligned records");
        Ok((tensors.to_vec(), sections.to_vec()))
    }

    fn check_sections(&self, sections: &[SectionRecord]) -> Result<(), Error> {
        let mut previous = 0;
        for record in sections {
            let kind = record.kind.get();
            let place = format!("section {}", section::name(kind));
            if kind <= previous {
                return Err(self.damaged(place, "a kind out of order", "ascending kinds, each once"));
            }
            previous = kind;
            let flags = record.flags.get();
            let misses_flag = kind == section::BF12 && flags != format::SECTION_REQUIRED;
            if flags & !format::SECTION_REQUIRED != 0 || misses_flag {
                return Err(self.damaged(place, "unknown flags", "flags of this format"));
            }
            if record.reserved != [0; _] {
                return Err(self.damaged(format!("{place}: reserved fields"), "a value", "zeros"));
            }
            let known = (section::SOURCES..=section::LAST).contains(&kind);
            if !known && record.flags.get() & format::SECTION_REQUIRED != 0 {
                return Err(self.version(place, false));
            }
            if record.bytes.get() > section::max_bytes(kind) {
                let most = section::max_bytes(kind);
                return Err(self.damaged(
                    place,
                    format_args!("{} bytes", record.bytes.get()),
                    format_args!("at most {most}"),
                ));
            }
        }
        Ok(())
    }

    /// Adds the drafts that the records after those of the model name: of matrices of the model, in their order.
    fn add_drafts(&self, specs: &mut Vec<TensorSpec>, records: &[TensorRecord]) -> Result<(), Error> {
        let of_drafts = records.get(specs.len()..).unwrap_or_default();
        if of_drafts.is_empty() {
            return Ok(());
        }
        let mut candidates = specs.iter().filter_map(TensorSpec::draft).collect::<Vec<_>>().into_iter();
        for record in of_drafts {
            let draft = candidates.find(|spec| names(record, spec)).ok_or_else(|| {
                let (role, layer) = (record.role.get(), record.layer.get());
                let expected = "the drafts of matrices of the model, in their order, each once";
                self.damaged("drafts", format_args!("role {role} in layer {layer}"), expected)
            })?;
            specs.push(draft);
        }
        Ok(())
    }

    /// The encoding of each tensor, and whether the header announces them.
    fn encodings(
        &self,
        header: &Header,
        specs: &[TensorSpec],
        records: &[TensorRecord],
    ) -> Result<Vec<Encoding>, Error> {
        let encodings = specs.iter().zip(records).map(|(spec, record)| {
            let encoding = Encoding::from_codes(spec, &record.codes());
            encoding.map_err(|bad| self.damaged(spec.name(), bad.found, bad.expected))
        });
        let encodings: Vec<Encoding> = encodings.collect::<Result<_, _>>()?;
        let features = format::features(specs.iter().zip(&encodings));
        self.equal("required features", header.required_features.get(), features)?;
        self.check_drafts(specs, &encodings)?;
        Ok(encodings)
    }

    /// Refuses a draft in the encoding of its matrix.
    fn check_drafts(&self, specs: &[TensorSpec], encodings: &[Encoding]) -> Result<(), Error> {
        let mut all = specs.iter().zip(encodings);
        let drafts = all.clone().filter(|(spec, _)| spec.is_draft);
        for (draft, encoding) in drafts {
            // Drafts are in the order of their matrices.
            let of = all.find(|(spec, _)| spec.draft().as_ref() == Some(draft));
            if of.is_some_and(|(_, of)| of.name() == encoding.name()) {
                return Err(self.damaged(draft.name(), encoding.name(), "another encoding than that of its matrix"));
            }
        }
        Ok(())
    }

    /// Computes where everything must be and compares every record with it.
    fn check_layout(
        &self,
        header: &Header,
        specs: &[TensorSpec],
        encodings: &[Encoding],
        records: &[TensorRecord],
        sections: &[SectionRecord],
    ) -> Result<Layout, Error> {
        let impossible = |TooLarge| self.impossible();
        let add = |so_far: u64, (spec, &encoding): (&TensorSpec, &Encoding)| {
            sum([so_far, layout::table_bytes(spec, encoding)?])
        };
        let tables = specs.iter().zip(encodings).try_fold(0, add).map_err(impossible)?;
        // Each table has some bytes: the section is there exactly when a tensor is bf12.
        let expected = Some(tables).filter(|&tables| tables > 0);
        let found = sections.iter().find(|record| record.kind.get() == section::BF12);
        let found = found.map(|record| record.bytes.get());
        if found != expected {
            let describe = |bytes: Option<u64>| bytes.map_or("no section".into(), |bytes| format!("{bytes} bytes"));
            return Err(self.damaged("section BF12", describe(found), describe(expected)));
        }
        let section_bytes: Vec<u64> = sections.iter().map(|record| record.bytes.get()).collect();
        let layout = layout::layout(specs, encodings, &section_bytes).map_err(impossible)?;
        self.equal("file bytes", header.file_bytes.get(), layout.file_bytes)?;
        self.equal("data offset", header.data_offset.get(), layout.data_offset)?;
        self.equal("data bytes", header.data_bytes.get(), layout.data_bytes())?;
        for (record, extent) in sections.iter().zip(&layout.sections) {
            let (found, expected) = (record.offset.get(), extent.offset);
            if found != expected {
                return Err(self.damaged(
                    format!("section {}: offset", section::name(record.kind.get())),
                    found,
                    expected,
                ));
            }
        }
        for (((record, spec), &encoding), extent) in records.iter().zip(specs).zip(encodings).zip(&layout.tensors) {
            self.check_tensor(record, spec, encoding, *extent)?;
        }
        Ok(layout)
    }

    fn check_tensor(
        &self,
        found: &TensorRecord,
        spec: &TensorSpec,
        encoding: Encoding,
        extent: Extent,
    ) -> Result<(), Error> {
        let expected = TensorRecord::new(spec, encoding, extent);
        // A good file has thousands of these fields: names are put together only for messages.
        let place = |field: &str| format!("{}: {field}", spec.name());
        let fields = [
            ("role", found.role.get().into(), expected.role.get().into()),
            ("layer", found.layer.get().into(), expected.layer.get().into()),
            ("expert", found.expert.get().into(), expected.expert.get().into()),
            ("element type", found.dtype.get().into(), expected.dtype.get().into()),
            ("layout", found.layout.get().into(), expected.layout.get().into()),
            ("encoding", found.encoding.get().into(), expected.encoding.get().into()),
            ("raw steps", found.n_raw_steps.get().into(), expected.n_raw_steps.get().into()),
            ("rows", found.rows.get(), expected.rows.get()),
            ("columns", found.columns.get(), expected.columns.get()),
            ("offset", found.offset.get(), expected.offset.get()),
            ("bytes", found.bytes.get(), expected.bytes.get()),
        ];
        for (field, found, expected) in fields {
            if found != expected {
                return Err(self.damaged(place(field), found, expected));
            }
        }
        if !(0.0..f32::INFINITY).contains(&f32::from_bits(found.min_magnitude.get()))
            || found.min_magnitude.get() >> 31 != 0
        {
            return Err(self.damaged(place("smallest magnitude"), found.min_magnitude.get(), "a positive number"));
        }
        if encoding.dtype().is_quantized() && found.min_magnitude.get() != 0 {
            return Err(self.damaged(place("smallest magnitude"), found.min_magnitude.get(), "0, as of all integers"));
        }
        if found.rounded.get() > 1 {
            return Err(self.damaged(place("rounded"), found.rounded.get(), "0 or 1"));
        }
        if found.reserved != [0; _] {
            return Err(self.damaged(place("reserved fields"), "a value", "zeros"));
        }
        Ok(())
    }
}

/// Whether a record has the role, the layer and the expert of a tensor.
fn names(record: &TensorRecord, spec: &TensorSpec) -> bool {
    let of_record = (record.role.get(), record.layer.get(), record.expert.get());
    of_record == (spec.role_code(), spec.layer_code(), spec.expert_code())
}

/// A copy of the bytes of a section, whose digest is that of its record; `path` is for messages.
///
/// # Errors
/// [`Error::Damaged`] when the digest is wrong, and [`Error::OutOfMemory`].
pub fn checked_section(path: &Path, record: &SectionRecord, bytes: MappedBytes<'_>) -> Result<Vec<u8>, Error> {
    let (seed, stated) = (u64::from(record.kind.get()), record.digest.get());
    bytes.checked_copy(seed, stated)?.ok_or_else(|| Error::Damaged {
        path: path.to_path_buf(),
        place: format!("digest of section {}", section::name(record.kind.get())),
        found: format!("{:016x}", bytes.digest(seed)),
        expected: format!("{stated:016x}"),
    })
}
