//! The checked index of a model file: header, configuration, records, layout and the tables of coded matrices, read
//! from any bytes into owned memory.
//!
//! Order of trust: magic, version, header digest, exact length, configuration, index digest, then every record compared
//! with the layout that `layout.rs` computes, then the tables (`bf12_tables`). Offsets are compared and never
//! followed, so that overlap, holes and misalignment cannot be expressed, and no tensor data is read.

#![deny(clippy::arithmetic_side_effects, reason = "its operands come from files that anybody can have written")]

use crate::error::Error;
use crate::file::not_olmo::looks_like;
use crate::file::reader::{ReadAt, Reader};
use crate::format::config::ModelConfig;
use crate::format::encodings::bf12::{self, Bf12Table};
use crate::format::layout::{self, Extent, Layout, TensorSpec, TooLarge};
use crate::format::sizes::{in_memory, product, sum};
use crate::format::{self, Dtype, Encoding, Header, MAGIC, SectionRecord, TensorRecord, section};
use std::path::Path;
use zerocopy::FromBytes;
use zerocopy::little_endian::{U32, U64};

/// What a file says about itself, checked.
pub struct Index {
    /// The first page.
    pub header: Header,
    /// The model's configuration.
    pub config: ModelConfig,
    /// Stored type of the matrices.
    pub matrices: Dtype,
    /// The tensors, in the order of the file.
    pub specs: Vec<TensorSpec>,
    /// The entries of the tensors.
    pub records: Vec<TensorRecord>,
    /// The entries of the sections.
    pub sections: Vec<SectionRecord>,
    /// Where everything lies; ends at the length of the file.
    pub layout: Layout,
    /// What steers the decoding of each tensor; `None` for plain ones.
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
        let specs = layout::tensors(&config);
        let (records, sections) = reader.index(&header, specs.len())?;
        reader.check_sections(&sections)?;
        let matrices = reader.matrices(&specs, &records)?;
        let encodings = reader.encodings(&header, matrices, &specs, &records)?;
        let layout = reader.check_layout(&header, &config, matrices, &encodings, &records, &sections)?;
        let bf12_tables = reader.bf12_tables(matrices, &specs, &encodings, &sections)?;
        Ok(Index { header, config, matrices, specs, records, sections, layout, bf12_tables })
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
        if header.required_features.get() & !format::FEATURE_BF12 != 0 {
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

    fn index(&self, header: &Header, n_tensors: usize) -> Result<(Vec<TensorRecord>, Vec<SectionRecord>), Error> {
        self.equal("number of tensors", header.n_tensors.get().into(), n_tensors as u64)?;
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

    /// The stored type of the matrices, which the first record tells.
    fn matrices(&self, specs: &[TensorSpec], records: &[TensorRecord]) -> Result<Dtype, Error> {
        let code = records[0].dtype.get();
        let damaged = || self.damaged(specs[0].name(), format_args!("element type {code}"), "1 (f32) or 2 (bf16)");
        Dtype::from_code(code).ok_or_else(damaged)
    }

    /// The encoding of each tensor, and whether the header announces coded ones.
    fn encodings(
        &self,
        header: &Header,
        matrices: Dtype,
        specs: &[TensorSpec],
        records: &[TensorRecord],
    ) -> Result<Vec<Encoding>, Error> {
        let encodings = specs.iter().zip(records).map(|(spec, record)| {
            let damaged = |found: String, expected: &str| self.damaged(spec.name(), found, expected);
            let (code, n_raw_steps) = (record.encoding.get(), record.n_raw_steps.get());
            match (code, spec.panel_shape(matrices)) {
                (format::ENCODING_PLAIN, _) if n_raw_steps != 0 => {
                    Err(damaged(format!("{n_raw_steps} raw steps"), "none in a plain tensor"))
                }
                (format::ENCODING_PLAIN, _) => Ok(Encoding::Plain),
                (format::ENCODING_BF12, Some(shape)) if shape.dtype == Dtype::Bf16 => {
                    // One way to write a matrix: beyond this it is plain.
                    if !bf12::pays(&shape, n_raw_steps.into()) {
                        let expected = "at most one of eight steps in a coded matrix";
                        return Err(damaged(format!("{n_raw_steps} raw steps"), expected));
                    }
                    Ok(Encoding::Bf12 { n_raw_steps })
                }
                (format::ENCODING_BF12, _) => Err(damaged("a coded tensor".into(), "a plain one")),
                (code, _) => Err(damaged(format!("encoding {code}"), "0 (plain) or 1 (coded)")),
            }
        });
        let encodings: Vec<Encoding> = encodings.collect::<Result<_, _>>()?;
        let is_coded = encodings.iter().any(|&encoding| encoding != Encoding::Plain);
        let feature = if is_coded { format::FEATURE_BF12 } else { 0 };
        self.equal("required features", header.required_features.get(), feature)?;
        Ok(encodings)
    }

    /// Computes where everything must lie and compares every record with it.
    fn check_layout(
        &self,
        header: &Header,
        config: &ModelConfig,
        matrices: Dtype,
        encodings: &[Encoding],
        records: &[TensorRecord],
        sections: &[SectionRecord],
    ) -> Result<Layout, Error> {
        let impossible = |TooLarge| self.impossible();
        let specs = layout::tensors(config);
        let add = |so_far: u64, (spec, &encoding): (&TensorSpec, &Encoding)| {
            sum([so_far, layout::table_bytes(spec, matrices, encoding)?])
        };
        let tables = specs.iter().zip(encodings).try_fold(0, add).map_err(impossible)?;
        // Each table has some bytes: the section is there exactly when a tensor is coded.
        let expected = Some(tables).filter(|&tables| tables > 0);
        let found = sections.iter().find(|record| record.kind.get() == section::BF12);
        let found = found.map(|record| record.bytes.get());
        if found != expected {
            let describe = |bytes: Option<u64>| bytes.map_or("no section".into(), |bytes| format!("{bytes} bytes"));
            return Err(self.damaged("section BF12", describe(found), describe(expected)));
        }
        let section_bytes: Vec<u64> = sections.iter().map(|record| record.bytes.get()).collect();
        let layout = layout::layout(config, matrices, encodings, &section_bytes).map_err(impossible)?;
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
        for (((record, spec), &encoding), extent) in records.iter().zip(&specs).zip(encodings).zip(&layout.tensors) {
            self.check_tensor(record, &TensorRecord::new(spec, matrices, encoding, *extent), spec)?;
        }
        Ok(layout)
    }

    fn check_tensor(&self, found: &TensorRecord, expected: &TensorRecord, spec: &TensorSpec) -> Result<(), Error> {
        // A good file has thousands of these fields: names are put together only for messages.
        let place = |field: &str| format!("{}: {field}", spec.name());
        let fields = [
            ("role", found.role.get().into(), expected.role.get().into()),
            ("layer", found.layer.get().into(), expected.layer.get().into()),
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
        if found.rounded.get() > 1 {
            return Err(self.damaged(place("rounded"), found.rounded.get(), "0 or 1"));
        }
        if found.reserved != [0; _] {
            return Err(self.damaged(place("reserved fields"), "a value", "zeros"));
        }
        Ok(())
    }
}

impl TensorRecord {
    /// The record of a tensor; digest, smallest magnitude and `rounded` are the writer's to fill in.
    pub fn new(spec: &TensorSpec, matrices: Dtype, encoding: Encoding, extent: Extent) -> TensorRecord {
        TensorRecord {
            role: U32::new(spec.role.code()),
            layer: U32::new(spec.layer_code()),
            dtype: U32::new(spec.dtype(matrices).code()),
            layout: U32::new(spec.layout().code()),
            encoding: U32::new(encoding.code()),
            n_raw_steps: U32::new(encoding.n_raw_steps()),
            rows: U64::new(spec.rows as u64),
            columns: U64::new(spec.columns.unwrap_or(1) as u64),
            offset: U64::new(extent.offset),
            bytes: U64::new(extent.bytes),
            digest: U64::new(0),
            min_magnitude: U32::new(0),
            rounded: U32::new(0),
            reserved: [0; 56],
        }
    }
}
