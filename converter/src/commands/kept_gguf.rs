//! The section `GGUF` of a model file, and how the tensors of the model are stored in the GGUF file that it describes.

use crate::commands::sources::{Sections, Source, checked_section, section_name, sources};
use crate::error::{Error, Problem, shortened};
use crate::folder::element::SourceType;
use crate::folder::gguf::header::{Header, TensorInfo};
use crate::folder::gguf::kept;
use crate::folder::gguf::names;
use crate::folder::gguf::rows::Rows;
use crate::folder::gguf::tensor_type::Readable;
use crate::folder::npy::shown_shape;
use olmo_infer::internals::format::config::{Architecture, ModelConfig};
use olmo_infer::internals::format::section;
use olmo_infer::internals::format::tensors::{Role, TensorSpec};
use std::collections::BTreeSet;
use std::ops::Range;

/// Most characters of a tensor's name in a message.
const SHOWN_CHARS: usize = 100;

/// The GGUF file that a model was packed from, without the data of its tensors.
#[derive(Debug)]
pub struct KeptGguf {
    /// The bytes of the file before the data of its tensors.
    pub start: Vec<u8>,
    /// Length of the file.
    pub file_bytes: u64,
    /// The tensors of the model, in the order of the model file.
    pub tensors: Vec<InGguf>,
    /// The name in the file of a tensor that the model does not have, the first one of them.
    pub left_out: Option<String>,
}

/// A tensor of the model in the GGUF file.
#[derive(Debug)]
pub struct InGguf {
    /// The name of its type.
    pub type_name: &'static str,
    /// How its rows differ from those of the model.
    pub rows: Rows,
    /// The range of its data in the file. Those of all tensors follow each other, and are inside the file.
    pub data: Range<u64>,
    /// Where the next data begin, or the file ends: less than 1 MiB behind these.
    pub next: u64,
}

impl KeptGguf {
    /// The GGUF file of `model`; `None` when the model has no section `GGUF`.
    ///
    /// # Errors
    /// The section is damaged, is not what `format-spec.md` describes, or describes another model.
    pub(crate) fn of(model: &impl Sections) -> Result<Option<KeptGguf>, Error> {
        let Some(mut section) = checked_section(model, section::GGUF)? else { return Ok(None) };
        let damaged = |found: String| {
            let problem = Problem::new(model.path(), found).tensor(section_name(section::GGUF));
            Error::from(problem.advice("the file is damaged, copy or pack it again"))
        };
        let kept::Kept { start, header, file_bytes } = kept::in_section(model.path(), &section).map_err(damaged)?;
        let head_bytes = section.len() - start.len();
        let Some(sources) = sources(model)? else {
            return Err(damaged("without a section SOURCES".into()));
        };
        let specs = model.model_specs();
        let tensors = specs.iter().zip(&sources).map(|(spec, source)| in_gguf(&header, spec, source, model.config()));
        let mut tensors: Vec<InGguf> = tensors.collect::<Result<_, _>>().map_err(damaged)?;
        let mut begins: Vec<u64> = header.tensors.values().map(|info| info.range.start).collect();
        begins.sort_unstable();
        for tensor in &mut tensors {
            let behind = begins.partition_point(|&begin| begin < tensor.data.end);
            tensor.next = begins.get(behind).copied().unwrap_or(file_bytes);
        }
        let of_model: BTreeSet<String> = specs.iter().filter_map(|spec| names::of_gguf(&spec.name())).collect();
        let left_out = header.tensors.keys().find(|name| !of_model.contains(*name));
        let left_out = left_out.map(|name| shortened(name, SHOWN_CHARS));
        section.drain(..head_bytes);
        Ok(Some(KeptGguf { start: section, file_bytes, tensors, left_out }))
    }
}

/// A tensor of the model in a file of this header.
///
/// # Errors
/// The file has no such tensor, or one of another shape or of a type that packing does not read as this source.
fn in_gguf(header: &Header, spec: &TensorSpec, source: &Source, config: &ModelConfig) -> Result<InGguf, String> {
    let name = names::of_gguf(&spec.name()).unwrap_or_default();
    let info = header.tensors.get(&name).ok_or_else(|| format!("{name}: missing"))?;
    if !info.shape.iter().copied().eq(spec.shape().iter().map(|&size| size as u64)) {
        return Err(format!("{name}: shape {}, not that of the model", shown_shape(&info.shape)));
    }
    let (element, blocks) = match info.kind.readable() {
        Some(Readable::Elements(element)) => (element, None),
        Some(Readable::Blocks(blocks)) => (SourceType::F32, Some(blocks)),
        None => return Err(format!("{name}: type {}, which no model is packed from", info.kind.name)),
    };
    if element != source.dtype || !source.header.is_empty() {
        return Err(format!("{name}: type {}, not that of its source", info.kind.name));
    }
    let is_rotated = matches!(spec.role, Role::QProj | Role::KProj);
    let is_interleaved = is_rotated && config.architecture == Architecture::Olmo1;
    let rows = Rows { blocks, head_dim: is_interleaved.then_some(config.head_dim) };
    let TensorInfo { kind, range, .. } = info;
    Ok(InGguf { type_name: kind.name, rows, data: range.clone(), next: range.end })
}
