//! The output of a pack and a dry run: one screen for people, one JSON object for programs.

use crate::commands::pack::{Packed, Prepared, Request, encoding_counts};
use crate::commands::role_losses;
use crate::commands::units::size;
use crate::error::{Error, escaped, json_line, shown_path};
use crate::folder::listing::Container;
use crate::folder::npy::shown_shape;
use crate::model::checkpoint::Checkpoint;
use crate::text::Text;
use crate::text::vocab::Vocabulary;
use crate::write::plan::Plan;
use crate::write::recipe::Planned;
use olmo_infer::internals::format::Dtype;
use olmo_infer::internals::format::config::{AttentionKind, ModelConfig};
use olmo_infer::internals::format::sizes::Extent;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// How many names a line lists.
const LISTED_NAMES: usize = 3;

/// The end of a pack, for people.
pub fn text(request: &Request, facts: &Facts, packed: &Packed, time: Duration) -> String {
    let mut out = format!("packed {} into {}\n", shown(&request.weights), shown(&request.model));
    out += &facts.text;
    let _ = writeln!(out, "  matrices    {}", matrices_line(packed));
    for (i, line) in role_losses::lines(&packed.losses).iter().enumerate() {
        let _ = writeln!(out, "  {:<12}{line}", if i == 0 { "lost" } else { "" });
    }
    if let Some((n_used, n_tokens)) = packed.calibrated {
        let _ = writeln!(out, "  calibrated  with {n_used} of {n_tokens} tokens");
    }
    if packed.outcome.n_rounded > 0 {
        let _ = writeln!(
            out,
            "  rounding    {} weights changed, largest relative error {:.3e}, mean {:.3e}",
            packed.outcome.n_rounded, packed.outcome.max_relative_error, packed.outcome.mean_relative_error
        );
    }
    let _ = writeln!(out, "  size        {} ({} bytes)", size(packed.file_bytes), packed.file_bytes);
    for warning in warnings(facts, packed) {
        let _ = writeln!(out, "  warning     {}", escaped(&warning));
    }
    let seconds = time.as_secs_f64();
    let rate = packed.file_bytes as f64 / seconds.max(1e-9) / 1e9;
    let _ = writeln!(out, "  time        {seconds:.2} s, {rate:.2} GB/s");
    out
}

/// How the matrices are stored.
fn matrices_line(packed: &Packed) -> String {
    let is_lossless = packed.outcome.n_rounded == 0 && role_losses::total(&packed.losses).squared_errors == 0.0;
    let lossless = if is_lossless { ", nothing lost" } else { "" };
    let bits = format!(" in {:.2} bits", packed.bits_per_weight);
    if !packed.losses.is_empty() {
        return listed(&packed.encodings) + &bits + lossless;
    }
    let bf12 = match packed.n_bf12 {
        0 => String::new(),
        n if n == packed.n_matrices => bits,
        n => format!("{bits}, {n} of {} in bf12", packed.n_matrices),
    };
    format!("{}{bf12}{lossless}", type_name(packed.matrices))
}

/// Names, each with how many there are.
fn listed(counts: &[(&'static str, usize)]) -> String {
    let counts: Vec<String> = counts.iter().map(|(name, n)| format!("{n} {name}")).collect();
    counts.join(", ")
}

/// The end of a pack, for programs.
pub fn json(request: &Request, facts: &Facts, packed: &Packed, time: Duration) -> String {
    let mut object = facts.json.clone();
    let more = json!({
        "weights": shown_path(&request.weights),
        "model": shown_path(&request.model),
        "dtype": type_name(packed.matrices),
        "bf12_matrices": packed.n_bf12,
        "encodings": packed.encodings.iter().map(|(name, n)| ((*name).into(), (*n).into())).collect::<Map<_, _>>(),
        "relative_rms_error": role_losses::total(&packed.losses).relative_rms(),
        "relative_rms_error_by_role": role_losses::json(&packed.losses),
        "calibrated_tokens": packed.calibrated.map(|(n_used, _)| n_used),
        "bits_per_weight": packed.bits_per_weight,
        "file_bytes": packed.file_bytes,
        "source_bytes": packed.source_bytes,
        "n_rounded": packed.outcome.n_rounded,
        "max_relative_error": packed.outcome.max_relative_error,
        "mean_relative_error": packed.outcome.mean_relative_error,
        "warnings": facts.warnings.iter().cloned().chain(warnings(facts, packed)).collect::<Vec<_>>(),
        "seconds": time.as_secs_f64(),
    });
    merge(&mut object, more);
    json_line(&object) + "\n"
}

/// The plan of a dry run.
///
/// # Errors
/// The plan cannot be made, or the folder of the target cannot be asked for free space.
pub fn dry_run(prepared: &Prepared, as_json: bool) -> Result<String, Error> {
    let facts = Facts::new(&prepared.checkpoint, &prepared.text);
    let known = prepared.known_dtype();
    let possible_types = known.map_or(vec![Dtype::F32, Dtype::Bf16], |dtype| vec![dtype]);
    let plans: Vec<Plan<'_>> =
        possible_types.iter().map(|&dtype| prepared.plain_plan(dtype)).collect::<Result<_, _>>()?;
    let names: Vec<&str> = plans
        .iter()
        .zip(&possible_types)
        .map(|(plan, &dtype)| match plan.matrices_dtype() {
            // Each of two plans has the name of what is not decided yet.
            None if known.is_none() || dtype.is_quantized() => dtype.name(),
            stored => type_name(stored),
        })
        .collect();
    let least = prepared.least_plan(known.unwrap_or(Dtype::Bf16))?.map(|plan| plan.layout.file_bytes);
    let free = prepared.target.free_bytes()?;
    let plan = &plans[0];
    if as_json {
        let mut object = facts.json.clone();
        let sizes: serde_json::Map<String, Value> =
            names.iter().zip(&plans).map(|(name, plan)| ((*name).into(), plan.layout.file_bytes.into())).collect();
        let more = json!({
            "dry_run": true,
            "warnings": facts.warnings,
            "dtype": known.map(|_| names[0]),
            "file_bytes": sizes,
            "least_bf12_bytes": least,
            "free_bytes": free,
            "tensors_dtype": type_name(plan.matrices_dtype()),
            "data_offset": plan.layout.data_offset,
            "tensors": tensors_json(plan),
        });
        merge(&mut object, more);
        return Ok(json_line(&object) + "\n");
    }
    let mut out = tensor_table(plan);
    out += &facts.text;
    match known {
        Some(_) => {
            let table = if least.is_some() { "; the table is that of the plain file" } else { "" };
            let is_quantized = plan.matrices().any(|(_, encoding, _)| encoding.dtype().is_quantized());
            let matrices = match is_quantized {
                true => format!("{} in {:.2} bits", listed(&encoding_counts(plan)), plan.bits_per_weight()),
                false => names[0].to_string(),
            };
            let _ = writeln!(out, "  matrices    {matrices}{table}");
        }
        None => out += "  matrices    f32 or bf16, decided by reading all numbers; the table is that of plain f32\n",
    }
    if let Some(passages) = &prepared.passages {
        let (n_used, n_tokens) = (passages.n_used(), passages.n_tokens);
        let copy = size(prepared.copy_plan()?.layout.file_bytes);
        let _ = writeln!(out, "  calibrated  with {n_used} of {n_tokens} tokens, by a copy of {copy} while packing");
    }
    for (name, plan) in names.iter().zip(&plans) {
        let bytes = plan.layout.file_bytes;
        let _ = writeln!(out, "  size        {} ({bytes} bytes) as {name}", size(bytes));
    }
    if let Some(bytes) = least {
        let range = "at least, as bf16 in 12 bits, decided by reading all numbers";
        let _ = writeln!(out, "  size        {} ({bytes} bytes) {range}", size(bytes));
    }
    let possible: Vec<u64> = plans.iter().map(|plan| plan.layout.file_bytes).chain(least).collect();
    let _ = writeln!(out, "  free        {} ({free} bytes){}", size(free), enough(&possible, free));
    for name in &facts.ignored {
        let _ = writeln!(out, "  left out    {}", escaped(name));
    }
    out += "dry run: nothing was written\n";
    Ok(out)
}

/// What `free` bytes are for a file that has one of the `possible` sizes, or one between them.
fn enough(possible: &[u64], free: u64) -> &'static str {
    let too_large = |bytes: &u64| *bytes > free;
    if possible.iter().all(too_large) {
        ", not enough"
    } else if possible.iter().any(too_large) {
        ", perhaps not enough"
    } else {
        ""
    }
}

/// What is known of a model before its numbers are read.
pub struct Facts {
    text: String,
    json: Value,
    ignored: Vec<String>,
    /// Warnings, which standard error has already.
    warnings: Vec<String>,
}

impl Facts {
    /// Describes a checked folder and its text files.
    pub fn new(checkpoint: &Checkpoint, of_text: &Text) -> Facts {
        let config = &checkpoint.settings.config;
        let mut text = format!("  model       {}\n", model_line(config));
        let counts = checkpoint.type_counts();
        let tensors: Vec<String> = counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let files = match (checkpoint.container, checkpoint.n_files()) {
            (Container::Npy, _) => "files".into(),
            (Container::Gguf, _) => "in one GGUF file".into(),
            (Container::Safetensors, 1) => "in one safetensors file".into(),
            (Container::Safetensors, n) => format!("in {n} safetensors files"),
        };
        let tensors = tensors.join(", ");
        let tied = if config.tie_word_embeddings { ", head tied to the embedding" } else { "" };
        let _ = writeln!(text, "  tensors     {tensors} {files}, {} weights{tied}", config.n_parameters());
        for (origin, keys) in checkpoint.settings.origins.grouped() {
            let _ = writeln!(text, "  {:<12}{}", "values", format_args!("{}: {}", origin.name(), keys.join(", ")));
        }
        let vocabulary = of_text.vocabulary.as_ref().map(Vocabulary::n_entries);
        let tokens = vocabulary.map_or("none".into(), |tokens| format!("{tokens} tokens"));
        let _ = writeln!(text, "  vocabulary  {tokens}");
        let _ = writeln!(text, "  tokenizer   {}", escaped(&of_text.tokenizer.origin()));
        let _ = writeln!(text, "  chat        {}", escaped(&of_text.chat.origin()));
        let author = checkpoint.generation.sampling.map(|author| author.to_string());
        if let Some(author) = &author {
            let _ = writeln!(text, "  sampling    {author}, from generation_config.json");
        }
        let origins: serde_json::Map<String, Value> =
            checkpoint.settings.origins.0.iter().map(|(key, origin)| ((*key).into(), origin.name().into())).collect();
        let sources: serde_json::Map<String, Value> =
            counts.iter().map(|(kind, count)| ((*kind).into(), (*count).into())).collect();
        let json = json!({
            "architecture": config.architecture.name(),
            "n_parameters": config.n_parameters(),
            "n_tensors": checkpoint.sources.len(),
            "tied": config.tie_word_embeddings,
            "sources": sources,
            "source_format": checkpoint.container.name(),
            "source_files": checkpoint.n_files(),
            "origins": origins,
            "vocabulary_tokens": vocabulary,
            "tokenizer": of_text.tokenizer.origin(),
            "chat": of_text.chat.origin(),
            "sampling": author,
            "ignored": checkpoint.ignored,
        });
        let warnings = [checkpoint.warnings.as_slice(), &of_text.warnings].concat();
        Facts { text, json, ignored: checkpoint.ignored.clone(), warnings }
    }
}

fn model_line(config: &ModelConfig) -> String {
    let mut line = format!(
        "{}, {} layers, hidden {}, {}/{} heads of {}, MLP {}, {} rows, {} positions, {}, eps {:e}",
        config.architecture.name(),
        config.n_layers(),
        config.hidden_size,
        config.n_heads,
        config.n_kv_heads,
        config.head_dim,
        config.intermediate_size,
        config.vocab_size,
        config.max_position_embeddings,
        if config.has_rope() { format!("theta {}", config.rope_theta) } else { "no RoPE".into() },
        config.rms_norm_eps,
    );
    if let Some(experts) = config.experts {
        let _ = write!(line, ", {} of {} experts a token", experts.n_per_token, experts.n_experts);
    }
    if let Some(linear) = config.linear {
        let n = config.n_linear_layers();
        let _ = write!(
            line,
            ", {n} layers of linear attention with {}/{} heads of {} and {}",
            linear.n_key_heads, linear.n_value_heads, linear.key_head_dim, linear.value_head_dim
        );
    }
    if let Some(clip) = config.clip_qkv {
        let _ = write!(line, ", q, k and v clipped at {clip}");
    }
    let n_sliding = config.layer_types.iter().filter(|kind| **kind == AttentionKind::Sliding).count();
    if n_sliding > 0 {
        let _ = write!(line, ", {n_sliding} layers with window {}", config.sliding_window);
    }
    if let Some(yarn) = &config.yarn {
        let _ = write!(line, ", YaRN x{} from {}", yarn.factor, yarn.original_max_position_embeddings);
    }
    line
}

/// What the numbers and the folder's other files give rise to; what was known before is on standard error.
fn warnings(facts: &Facts, packed: &Packed) -> Vec<String> {
    let mut warnings = Vec::new();
    let zero = &packed.outcome.all_zero;
    if !zero.is_empty() {
        warnings.push(format!("all numbers are zero in {}", names(zero)));
    }
    let nonfinite: Vec<String> =
        packed.outcome.nonfinite.iter().map(|(name, count)| format!("{name} ({count})")).collect();
    if !nonfinite.is_empty() {
        warnings.push(format!("NaN or infinity in {}", names(&nonfinite)));
    }
    if !facts.ignored.is_empty() {
        warnings.push(format!("left out {}", names(&facts.ignored)));
    }
    warnings
}

/// The first names and the number of the others, on one line.
fn names(names: &[String]) -> String {
    let shown = escaped(&names.iter().take(LISTED_NAMES).map(String::as_str).collect::<Vec<_>>().join(", "));
    match names.len().saturating_sub(LISTED_NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn tensor_table(plan: &Plan<'_>) -> String {
    let mut out = format!("{:<52} {:>16} {:>8} {:>15} {:>13}\n", "tensor", "shape", "type", "offset", "bytes");
    for (tensor, extent) in plan.tensors.iter().zip(&plan.layout.tensors) {
        let shape = shown_shape(&plan.sources[tensor.source].tensor.shape);
        let (name, stored) = (tensor.spec.name(), tensor.stored.encoding().name());
        let _ = writeln!(out, "{name:<52} {shape:>16} {stored:>8} {:>15} {:>13}", extent.offset, extent.bytes);
    }
    out
}

fn tensors_json(plan: &Plan<'_>) -> Vec<Value> {
    let row = |(tensor, extent): (&Planned, &Extent)| {
        json!({
            "name": tensor.spec.name(),
            "shape": tensor.spec.shape(),
            "source": plan.sources[tensor.source].tensor.type_name(),
            "dtype": tensor.stored.encoding().dtype().name(),
            "encoding": tensor.stored.encoding().name(),
            "offset": extent.offset,
            "bytes": extent.bytes,
        })
    };
    plan.tensors.iter().zip(&plan.layout.tensors).map(row).collect()
}

/// The type of a model's matrices, for people and for JSON.
fn type_name(dtype: Option<Dtype>) -> &'static str {
    dtype.map_or("mixed", Dtype::name)
}

fn merge(object: &mut Value, more: Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        object.extend(more);
    }
}

fn shown(path: &Path) -> String {
    escaped(&shown_path(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_called_short_only_when_the_smallest_file_does_not_fit() {
        // f32, bf16, bf12.
        for (free, says) in
            [(74, ", not enough"), (75, ", perhaps not enough"), (199, ", perhaps not enough"), (200, "")]
        {
            assert_eq!(enough(&[200, 100, 75], free), says, "{free}");
        }
        assert_eq!((enough(&[100], 99), enough(&[100], 100)), (", not enough", ""));
    }
}
