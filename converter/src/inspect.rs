//! `olmo-pack inspect MODEL`: what a model file holds, for people and as JSON. Reads no tensor data.

use crate::element::SourceType;
use crate::error::{Error, escaped, shown_path};
use crate::sources::{Source, checked_section, section_name, sources};
use olmo_infer::config::{AttentionKind, ModelConfig};
use olmo_infer::format::{self, TensorLayout, section};
use olmo_infer::model_file::ModelFile;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use zerocopy::IntoBytes;

/// Describes the file at `path`: a table, or one JSON object.
///
/// # Errors
/// [`Error::Model`] when the file cannot be opened, and damage of a section that is shown.
pub fn run(path: &Path, json: bool) -> Result<String, Error> {
    let model = ModelFile::open(path)?;
    let sources = sources(&model)?.unwrap_or_default();
    let provenance = provenance(&model)?;
    Ok(if json {
        let object = object(&model, &sources, &provenance);
        serde_json::to_string(&object).expect("values and string keys")
    } else {
        text(&model, &sources, &provenance)
    })
}

/// XXH3-64 of the configuration, the digests of the tensors and those of the vocabulary and of the tables of coded
/// tensors: the same for two files exactly when they hold the same model in the same encodings, whatever else they say
/// about it.
pub fn content_digest(model: &ModelFile) -> u64 {
    let mut content = model.header().config.as_bytes().to_vec();
    for record in model.records() {
        content.extend(record.digest.get().to_le_bytes());
    }
    let is_content = |kind| [section::VOCABULARY, section::CODED].contains(&kind);
    for record in model.sections().iter().filter(|record| is_content(record.kind.get())) {
        content.extend(record.digest.get().to_le_bytes());
    }
    format::digest(&content, 0)
}

/// The lines `key=value` of the provenance.
pub(crate) fn provenance(model: &ModelFile) -> Result<Vec<(String, String)>, Error> {
    let bytes = checked_section(model, section::PROVENANCE)?.unwrap_or_default();
    let text = String::from_utf8_lossy(bytes);
    let pair = |line: &str| {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        (key.to_string(), value.to_string())
    };
    Ok(text.lines().map(pair).collect())
}

/// `config` under the keys of `config.json`.
pub(crate) fn config_object(config: &ModelConfig) -> Value {
    let kind = |kind: &AttentionKind| match kind {
        AttentionKind::Full => "full_attention",
        AttentionKind::Sliding => "sliding_attention",
    };
    let yarn = config.yarn.as_ref().map(|yarn| {
        json!({
            "rope_type": "yarn",
            "factor": yarn.factor,
            "original_max_position_embeddings": yarn.original_max_position_embeddings,
            "beta_fast": yarn.beta_fast,
            "beta_slow": yarn.beta_slow,
            "attention_factor": yarn.attention_factor,
            "truncate": yarn.truncate,
        })
    });
    json!({
        "model_type": config.architecture.name(),
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.n_layers(),
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "clip_qkv": config.clip_qkv,
        "rope_theta": config.rope_theta,
        "rope_theta_sliding": config.rope_theta_sliding,
        "rope_scaling": yarn,
        "sliding_window": config.sliding_window,
        "layer_types": config.layer_types.iter().map(kind).collect::<Vec<_>>(),
        "tie_word_embeddings": config.tie_word_embeddings,
        "eos_token_id": config.eos_token_ids,
        "bos_token_id": config.bos_token_id,
        "pad_token_id": config.pad_token_id,
    })
}

/// Number of tokens in the vocabulary, when there is one.
fn n_tokens(model: &ModelFile) -> Option<u32> {
    let bytes = model.section_bytes(section::VOCABULARY)?;
    Some(u32::from_le_bytes(*bytes.first_chunk()?))
}

fn layout_name(layout: TensorLayout) -> &'static str {
    match layout {
        TensorLayout::Vector => "vector",
        TensorLayout::Panels64 => "panels64",
    }
}

fn object(model: &ModelFile, sources: &[Source], provenance: &[(String, String)]) -> Value {
    let header = model.header();
    let tensor = |index: usize| {
        let (spec, record) = (&model.specs()[index], &model.records()[index]);
        json!({
            "name": spec.name(),
            "shape": spec.shape(),
            "dtype": spec.dtype(model.matrices()).name(),
            "layout": layout_name(spec.layout()),
            "encoding": encoding_name(record.encoding.get()),
            "n_raw_steps": record.n_raw_steps.get(),
            "bits_per_weight": bits_per_weight(model, index),
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
            "name": section_name(record.kind.get()).trim_start_matches("section "),
            "offset": record.offset.get(),
            "bytes": record.bytes.get(),
            "digest": format!("{:016x}", record.digest.get()),
        })
    };
    let provenance: serde_json::Map<String, Value> =
        provenance.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
    json!({
        "path": shown_path(model.path()),
        "format": format!("{}.{}", header.version_major.get(), header.version_minor.get()),
        "file_bytes": model.layout().file_bytes,
        "data_offset": model.layout().data_offset,
        "content_digest": format!("{:016x}", content_digest(model)),
        "matrices": model.matrices().name(),
        "n_parameters": model.config().n_parameters(),
        "n_tokens": n_tokens(model),
        "config": config_object(model.config()),
        "tensors": (0..model.specs().len()).map(tensor).collect::<Vec<_>>(),
        "sections": model.sections().iter().map(section).collect::<Vec<_>>(),
        "provenance": provenance,
    })
}

fn encoding_name(encoding: u32) -> String {
    match encoding {
        format::ENCODING_PLAIN => "plain".into(),
        format::ENCODING_CODED => "coded".into(),
        other => other.to_string(),
    }
}

fn text(model: &ModelFile, sources: &[Source], provenance: &[(String, String)]) -> String {
    let (config, header) = (model.config(), model.header());
    let mut out = String::new();
    let mut line = |text: std::fmt::Arguments| {
        let _ = writeln!(out, "{}", escaped(&text.to_string()));
    };
    line(format_args!("{}", shown_path(model.path())));
    line(format_args!(
        "format {}.{}, {} bytes, {} parameters, matrices in {}, content digest {:016x}",
        header.version_major.get(),
        header.version_minor.get(),
        model.layout().file_bytes,
        config.n_parameters(),
        matrices(model),
        content_digest(model),
    ));
    line(format_args!(""));
    if let Value::Object(values) = config_object(config) {
        for (key, value) in values {
            match (key.as_str(), &value) {
                ("layer_types", _) => line(format_args!("  {key:<24} {}", layer_types(config))),
                (_, Value::Null) => line(format_args!("  {key:<24} none")),
                (_, Value::String(text)) => line(format_args!("  {key:<24} {text}")),
                _ => line(format_args!("  {key:<24} {value}")),
            }
        }
    }
    line(format_args!(""));
    line(format_args!("  {:<50} {:>16} {:<5} {:>12} {:>13}  digest", "tensor", "shape", "type", "offset", "bytes"));
    for (index, (spec, record)) in model.specs().iter().zip(model.records()).enumerate() {
        let coded = match model.coded_table(index) {
            Some(table) => format!("  {:.2} bits, {} raw steps", bits_per_weight(model, index), table.n_raw_steps()),
            None => String::new(),
        };
        let notes = match sources.get(index) {
            _ if record.rounded.get() != 0 => "  rounded",
            Some(source) if source.dtype.name() != spec.dtype(model.matrices()).name() => match source.dtype {
                SourceType::F32 => "  from f32",
                SourceType::F16 => "  from f16",
                SourceType::Bf16 => "  from bf16",
            },
            _ => "",
        };
        line(format_args!(
            "  {:<50} {:>16} {:<5} {:>12} {:>13}  {:016x}{coded}{notes}",
            spec.name(),
            spec.shape().iter().map(usize::to_string).collect::<Vec<_>>().join(" x "),
            spec.dtype(model.matrices()).name(),
            record.offset.get(),
            record.bytes.get(),
            record.digest.get(),
        ));
    }
    line(format_args!(""));
    for record in model.sections() {
        let tokens = match (record.kind.get(), n_tokens(model)) {
            (section::VOCABULARY, Some(n)) => format!("  {n} tokens"),
            _ => String::new(),
        };
        line(format_args!(
            "  {:<67} {:<5} {:>12} {:>13}  {:016x}{tokens}",
            section_name(record.kind.get()),
            "",
            record.offset.get(),
            record.bytes.get(),
            record.digest.get(),
        ));
    }
    for (key, value) in provenance {
        line(format_args!("  {key:<24} {value}"));
    }
    out.trim_end().to_string()
}

/// Bits that a number of tensor `index` takes; those of the padding inside panels count as numbers.
fn bits_per_weight(model: &ModelFile, index: usize) -> f64 {
    let spec = &model.specs()[index];
    let shape = spec.panel_shape(model.matrices());
    let n_elements = shape.map_or(spec.rows, |shape| shape.n_panels() * shape.panel_elements());
    8.0 * model.records()[index].bytes.get() as f64 / n_elements as f64
}

/// "f32", "bf16", "bf16 in 12 bits" or "bf16, 3 of 4 in 12 bits".
pub(crate) fn matrices(model: &ModelFile) -> String {
    let name = model.matrices().name();
    let matrices = (0..model.specs().len()).filter(|&index| model.specs()[index].columns.is_some());
    let (n, n_coded) =
        matrices.fold((0, 0), |(n, n_coded), index| (n + 1, n_coded + usize::from(model.coded_table(index).is_some())));
    match n_coded {
        0 => name.into(),
        _ if n_coded == n => format!("{name} in 12 bits"),
        _ => format!("{name}, {n_coded} of {n} in 12 bits"),
    }
}

/// "16 x full" or "24 x sliding, 8 x full: SSSFSSSF…".
fn layer_types(config: &ModelConfig) -> String {
    let n_full = config.layer_types.iter().filter(|&&kind| kind == AttentionKind::Full).count();
    let n_sliding = config.n_layers() - n_full;
    if n_sliding == 0 {
        return format!("{n_full} x full");
    }
    let letter = |kind: &AttentionKind| if *kind == AttentionKind::Full { 'F' } else { 'S' };
    let letters: String = config.layer_types.iter().map(letter).collect();
    format!("{n_sliding} x sliding, {n_full} x full: {letters}")
}
