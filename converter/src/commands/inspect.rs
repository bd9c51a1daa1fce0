//! `olmo-pack inspect MODEL`: what a model file holds, for people and as JSON. Reads no tensor data.

use crate::commands::facts::{Inspected, OfText, bits_per_weight, config_object, content_digest, provenance};
use crate::commands::inspect_table;
use crate::commands::sources::sources;
use crate::commands::verify;
use crate::error::{Error, json_line, shown_path};
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::file::sampling::AuthorSampling;
use olmo_infer::internals::format::encodings::quantized::{Elements, N_LEVELS, Quantization};
use olmo_infer::internals::format::{self, Dtype, Encoding, TensorLayout, section};
use olmo_infer::internals::text::chat::NoChat;
use olmo_infer::internals::text::tokenizer::NoTokenizer;
use serde_json::{Value, json};
use std::path::Path;

/// How to describe a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A table, the tensors of all layers with the same role in one line.
    Table,
    /// A table with a line for every tensor.
    EveryTensor,
    /// One JSON object.
    Json,
}

/// Describes the file at `path`.
///
/// # Errors
/// [`Error::Model`] when the file cannot be opened, and what is wrong with its sections.
pub fn run(path: &Path, form: Form) -> Result<String, Error> {
    let model = ModelFile::open(path)?;
    verify::accepted(&model)?;
    let inspected = Inspected {
        model: &model,
        sources: sources(&model)?.unwrap_or_default(),
        provenance: provenance(&model)?,
        text: OfText::of(&model)?,
    };
    Ok(match form {
        Form::Json => json_line(&object(&inspected)),
        form => inspect_table::text(&inspected, form == Form::EveryTensor),
    })
}

fn layout_name(layout: TensorLayout) -> &'static str {
    match layout {
        TensorLayout::Vector => "vector",
        TensorLayout::Panels64 => "panels64",
    }
}

fn object(inspected: &Inspected) -> Value {
    let Inspected { model, sources, provenance, text } = inspected;
    let header = model.header();
    let tensor = |index: usize| {
        let (spec, record) = (&model.specs()[index], &model.records()[index]);
        json!({
            "name": spec.name(),
            "shape": spec.shape(),
            "dtype": model.encoding(index).dtype().name(),
            "draft": spec.is_draft,
            "layout": layout_name(spec.layout()),
            "encoding": encoding_name(model.encoding(index)),
            "n_raw_steps": record.n_raw_steps.get(),
            "levels": levels(model.encoding(index)),
            "bits_per_weight": bits_per_weight(model, &[index]),
            "offset": record.offset.get(),
            "bytes": record.bytes.get(),
            "digest": format!("{:016x}", record.digest.get()),
            "min_magnitude": f32::from_bits(record.min_magnitude.get()),
            "rounded": record.rounded.get() != 0,
            "source_dtype": sources.get(index).map(|source| source.dtype.name()),
            "source_digest": sources.get(index).map(|source| format!("{:016x}", source.digest)),
        })
    };
    let section = |record: &format::SectionRecord| {
        json!({
            "kind": record.kind.get(),
            "name": section::name(record.kind.get()),
            "offset": record.offset.get(),
            "bytes": record.bytes.get(),
            "digest": format!("{:016x}", record.digest.get()),
        })
    };
    let mut by_key: serde_json::Map<String, Value> = serde_json::Map::new();
    for (key, value) in provenance {
        // A key that comes several times, as `tensor` does, has all its values.
        let before = by_key.get(key).and_then(Value::as_str).map(|before| format!("{before}, {value}"));
        by_key.insert(key.clone(), before.unwrap_or_else(|| value.clone()).into());
    }
    json!({
        "path": shown_path(model.path()),
        "format": format!("{}.{}", header.version_major.get(), header.version_minor.get()),
        "file_bytes": model.layout().file_bytes,
        "data_offset": model.layout().data_offset,
        "content_digest": format!("{:016x}", content_digest(model)),
        "matrices": model.matrices().map_or("mixed", Dtype::name),
        "n_parameters": model.config().n_parameters(),
        "n_tokens": text.n_tokens,
        "tokenizer": tokenizer_object(text),
        "chat": chat_object(text),
        "sampling": text.sampling.as_ref().map(sampling_object),
        "files": text.files.iter().map(|(name, bytes)| json!({ "name": name, "bytes": bytes })).collect::<Vec<_>>(),
        "config": config_object(model.config()),
        "tensors": (0..model.specs().len()).map(tensor).collect::<Vec<_>>(),
        "sections": model.sections().iter().map(section).collect::<Vec<_>>(),
        "provenance": by_key,
    })
}

fn chat_object(text: &OfText) -> Value {
    match &text.chat {
        Some(Ok(chat)) => json!({
            "kind": "pieces",
            "takes_system": chat.takes_system(),
            "needs_system": chat.alone.is_none(),
            "takes_turns": chat.takes_turns(false) || chat.takes_turns(true),
            "drops_thinking": !chat.think_end.is_empty(),
            "has_dates": chat.has_dates,
            "reserved": chat.reserved,
        }),
        Some(Err(NoChat::Unusable(why))) => json!({ "kind": "unusable", "why": why }),
        Some(Err(NoChat::Damaged)) | None => Value::Null,
    }
}

fn tokenizer_object(text: &OfText) -> Value {
    match &text.tokenizer {
        Some(Ok(tokenizer)) => json!({
            "kind": "byte pairs",
            "pre_tokenizer": tokenizer.pre_tokenizer.name(),
            "nfc": tokenizer.nfc,
            "n_merges": tokenizer.merges.len(),
            "n_added": tokenizer.added.len(),
        }),
        Some(Err(NoTokenizer::Unknown(why))) => json!({ "kind": "unknown", "why": why }),
        Some(Err(NoTokenizer::UnknownKind(kind))) => json!({ "kind": kind }),
        Some(Err(NoTokenizer::Damaged(_))) | None => Value::Null,
    }
}

/// Under the keys of `generation_config.json`.
fn sampling_object(author: &AuthorSampling) -> Value {
    let sampling = author.sampling();
    json!({
        "do_sample": sampling.temperature > 0.0,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
    })
}

/// The levels of an int4 matrix.
fn levels(encoding: Encoding) -> Option<[i8; N_LEVELS]> {
    match encoding {
        Encoding::Quantized(Quantization { elements: Elements::Int4(levels), .. }) => Some(*levels.get()),
        _ => None,
    }
}

fn encoding_name(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::F32 | Encoding::Bf16 => "plain",
        Encoding::Bf12 { .. } | Encoding::Quantized(_) => encoding.name(),
    }
}
