//! What `olmo-pack inspect` shows to people. Headings are bold, and what only explains is dim, on a terminal that takes
//! it.

use crate::commands::facts::{Inspected, OfText, bits_per_weight, config_object, content_digest, matrices};
use crate::commands::units::{count, size};
use crate::error::{escaped, shown_path};
use crate::folder::element::SourceType;
use console::Style;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::config::{AttentionKind, ModelConfig};
use olmo_infer::internals::format::encodings::quantized::{Elements, Levels, Quantization};
use olmo_infer::internals::format::sizes::Extent;
use olmo_infer::internals::format::tensors::TensorSpec;
use olmo_infer::internals::format::{Encoding, HEADER_BYTES, section};
use olmo_infer::internals::text::chat::NoChat;
use olmo_infer::internals::text::tokenizer::NoTokenizer;
use serde_json::Value;
use std::collections::HashMap;
use std::fmt::{Display, Write as _};

/// Width of the name of a value.
const KEY: usize = 24;
/// Width of the name of a tensor or a part of the file.
const NAME: usize = 50;

/// How many names of files a line lists.
const FILES_IN_A_LINE: usize = 3;
/// How many names of values a line lists.
const KEYS_IN_A_LINE: usize = 4;

/// The table, with a line for each tensor or for each role.
pub(crate) fn text(inspected: &Inspected, every_tensor: bool) -> String {
    let mut table = Table::default();
    table.head(inspected);
    table.config(inspected.model.config());
    table.of_text(&inspected.text);
    match every_tensor {
        true => table.tensors(inspected),
        false => table.roles(inspected),
    }
    table.levels(inspected.model);
    table.file(inspected);
    table.provenance(&inspected.provenance);
    table.0
}

/// The lines so far.
#[derive(Default)]
struct Table(String);

impl Table {
    fn line(&mut self, text: impl Display) {
        let _ = writeln!(self.0, "{text}");
    }

    fn heading(&mut self, text: &str) {
        self.line("");
        self.line(bold(text));
    }

    fn value(&mut self, key: &str, value: impl Display) {
        self.line(format_args!("  {key:<KEY$} {value}"));
    }

    /// The file and the model, each in a line.
    fn head(&mut self, inspected: &Inspected) {
        let (model, config) = (inspected.model, inspected.model.config());
        self.line(bold(&escaped(&shown_path(model.path()))));
        self.line(format_args!(
            "{}, {} parameters in {}: {} layers of width {}, {} positions; {}",
            config.architecture.name(),
            count(config.n_parameters()),
            matrices(model),
            config.n_layers(),
            config.hidden_size,
            config.max_position_embeddings,
            size(model.layout().file_bytes),
        ));
    }

    fn config(&mut self, config: &ModelConfig) {
        self.heading("configuration");
        let Value::Object(values) = config_object(config) else { return };
        for (key, value) in &values {
            match (key.as_str(), value) {
                ("layer_types", _) => self.value(key, layer_types(config)),
                ("rope_scaling", Value::Object(yarn)) => {
                    let parts: Vec<String> =
                        yarn.iter().map(|(key, value)| format!("{key} {}", plain(value))).collect();
                    self.value(key, parts.join(", "));
                }
                _ => self.value(key, plain(value)),
            }
        }
    }

    fn of_text(&mut self, text: &OfText) {
        self.heading("text");
        let n_tokens = text.n_tokens.map_or("none: ids only".into(), |n| format!("{n} tokens"));
        self.value("vocabulary", n_tokens);
        self.value("tokenizer", tokenizer(text));
        self.value("chat", chat(text));
        let sampling = text.sampling.as_ref().map_or("none recommended: greedy".into(), ToString::to_string);
        self.value("sampling", sampling);
        for (i, some) in text.files.chunks(FILES_IN_A_LINE).enumerate() {
            let names: Vec<&str> = some.iter().map(|(name, _)| *name).collect();
            self.value(if i == 0 { "files kept" } else { "" }, names.join(", "));
        }
    }

    /// A line for the tensors of all layers that have the same role and encoding.
    fn roles(&mut self, inspected: &Inspected) {
        let model = inspected.model;
        let mut roles: Vec<((u32, &str), Vec<usize>)> = Vec::new();
        for (index, spec) in model.specs().iter().enumerate() {
            let role = (spec.role_code(), model.encoding(index).name());
            match roles.iter_mut().find(|(other, _)| *other == role) {
                Some((_, tensors)) => tensors.push(index),
                None => roles.push((role, vec![index])),
            }
        }
        self.heading(&format!(
            "{:<NAME$}{:>7} {:>16} {:>8} {:>6} {:>11}",
            "tensors", "count", "shape", "type", "bits", "size"
        ));
        for (_, tensors) in &roles {
            let spec = &model.specs()[tensors[0]];
            let name = match spec.layer {
                Some(layer) => {
                    let name = spec.name().replacen(&format!(".{layer}."), ".*.", 1);
                    spec.expert.map_or(name.clone(), |expert| name.replacen(&format!(".{expert}."), ".*.", 1))
                }
                None => spec.name(),
            };
            let bytes = tensors.iter().map(|&index| model.records()[index].bytes.get()).sum();
            self.line(format_args!(
                "  {name:<width$}{:>7} {:>16} {:>8} {:>6.2} {:>11}{}",
                tensors.len(),
                shape(spec),
                model.encoding(tensors[0]).name(),
                bits_per_weight(model, tensors),
                size(bytes),
                notes(inspected, tensors),
                width = NAME - 2,
            ));
        }
        let n = model.specs().len();
        self.line(format_args!("  {}", dim(&format!("{n} tensors; --tensors lists each, with offset and digest"))));
    }

    /// A line for each tensor.
    fn tensors(&mut self, inspected: &Inspected) {
        let model = inspected.model;
        self.heading(&format!(
            "{:<NAME$} {:>16} {:>8} {:>6} {:>13} {:>13}  digest",
            "tensors", "shape", "type", "bits", "offset", "bytes"
        ));
        for (index, (spec, record)) in model.specs().iter().zip(model.records()).enumerate() {
            let raw = model.bf12_table(index).map_or(0, |table| table.n_raw_steps());
            let raw = if raw > 0 { format!("  {raw} raw steps") } else { String::new() };
            self.line(format_args!(
                "  {:<width$} {:>16} {:>8} {:>6.2} {:>13} {:>13}  {}{}{raw}",
                spec.name(),
                shape(spec),
                model.encoding(index).name(),
                bits_per_weight(model, &[index]),
                record.offset.get(),
                record.bytes.get(),
                dim(&format!("{:016x}", record.digest.get())),
                notes(inspected, &[index]),
                width = NAME - 2,
            ));
        }
    }

    /// The levels of int4 matrices, each of the different ones once.
    fn levels(&mut self, model: &ModelFile) {
        let mut seen: Vec<Levels> = Vec::new();
        for index in 0..model.specs().len() {
            let Encoding::Quantized(Quantization { elements: Elements::Int4(levels), .. }) = model.encoding(index)
            else {
                continue;
            };
            if !seen.contains(&levels) {
                seen.push(levels);
                let shown: Vec<String> = levels.get().iter().map(i8::to_string).collect();
                self.value("levels of int4", shown.join(" "));
            }
        }
    }

    /// How the file was made. The origin of several values is printed once.
    fn provenance(&mut self, pairs: &[(String, String)]) {
        self.heading("provenance");
        let mut groups: Vec<(&str, Vec<String>)> = Vec::new();
        let mut of_value: HashMap<&str, usize> = HashMap::new();
        for (key, value) in pairs {
            let group = *of_value.entry(value).or_insert(groups.len());
            if group == groups.len() {
                groups.push((value, Vec::new()));
            }
            groups[group].1.push(escaped(key));
        }
        for (value, keys) in groups {
            if let [key] = keys.as_slice() {
                self.value(key, escaped(value));
                continue;
            }
            for (i, some) in keys.chunks(KEYS_IN_A_LINE).enumerate() {
                let from = if i == 0 { format!("values of {}", escaped(value)) } else { String::new() };
                self.value(&from, some.join(", "));
            }
        }
    }

    /// The parts of the file and their offsets.
    fn file(&mut self, inspected: &Inspected) {
        let (model, layout) = (inspected.model, inspected.model.layout());
        self.heading(&format!("{:<NAME$} {:>13} {:>13}", "file", "offset", "size"));
        let mut part = |name: &str, extent: Extent, digest: Option<u64>| {
            let digest = digest.map_or(String::new(), |digest| format!("  {}", dim(&format!("{digest:016x}"))));
            let width = NAME - 2;
            self.line(format_args!("  {name:<width$} {:>13} {:>13}{digest}", extent.offset, size(extent.bytes)));
        };
        part("header", Extent { offset: 0, bytes: HEADER_BYTES as u64 }, None);
        part("index", layout.index, None);
        for (record, extent) in model.sections().iter().zip(&layout.sections) {
            let kind = record.kind.get();
            let name = format!("{:<14}{}", section::name(kind), dim(holds(kind)));
            // Padded by hand: what makes it dim has no width.
            let visible = 14 + holds(kind).len();
            let name = format!("{name}{}", " ".repeat((NAME - 2).saturating_sub(visible)));
            part(&name, *extent, Some(record.digest.get()));
        }
        part("tensors", Extent { offset: layout.data_offset, bytes: layout.data_bytes() }, None);
        let header = model.header();
        let version = format!("{}.{}", header.version_major.get(), header.version_minor.get());
        self.line(format_args!(
            "  format {version}, {} bytes, content digest {:016x}",
            layout.file_bytes,
            content_digest(model)
        ));
    }
}

fn bold(text: &str) -> impl Display {
    Style::new().bold().apply_to(text.to_string())
}

fn dim(text: &str) -> impl Display {
    Style::new().dim().apply_to(text.to_string())
}

/// A value of `config.json` for people.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What a kind of section is for.
fn holds(kind: u32) -> &'static str {
    match kind {
        section::SOURCES => "what unpack restores",
        section::VOCABULARY => "the bytes of every token",
        section::CONFIG_JSON => "config.json as it was",
        section::PROVENANCE => "how the file was made",
        section::BF12 => "the tables of bf12 matrices",
        section::TOKENIZER => "how text becomes ids",
        section::CHAT => "the chat format",
        section::FILES => "small files as they were",
        section::SAMPLING => "the author's sampling",
        section::GGUF => "the header of its GGUF file",
        _ => "unknown to this version",
    }
}

fn chat(text: &OfText) -> String {
    let chat = match &text.chat {
        None => return "none".into(),
        Some(Err(NoChat::Unusable(why))) => return format!("none: {}", escaped(why)),
        Some(Err(NoChat::Damaged)) => return "damaged; see olmo-pack verify".into(),
        Some(Ok(chat)) => chat,
    };
    let system = match (&chat.alone, &chat.with_system) {
        (Some(_), Some(_)) => "with or without a system message",
        (Some(_), None) => "without a system message",
        _ => "with a system message",
    };
    let style = if chat.takes_turns(false) || chat.alone.is_none() && chat.takes_turns(true) {
        "conversations"
    } else {
        "one turn"
    };
    let thinking = if chat.think_end.is_empty() { "" } else { ", the thinking of past answers left out" };
    format!("{style}, {system}{thinking}")
}

fn tokenizer(text: &OfText) -> String {
    match &text.tokenizer {
        None => "none".into(),
        Some(Ok(tokenizer)) => format!(
            "byte pairs, words as in {}, {} merges, {} added tokens{}",
            tokenizer.pre_tokenizer.name(),
            tokenizer.merges.len(),
            tokenizer.added.len(),
            if tokenizer.nfc { ", text in normalization form C" } else { "" },
        ),
        Some(Err(NoTokenizer::Unknown(why))) => format!("not known: {}", escaped(why)),
        Some(Err(NoTokenizer::UnknownKind(kind))) => format!("of kind {kind}, which this version does not know"),
        Some(Err(NoTokenizer::Damaged(_))) => "damaged; see olmo-pack verify".into(),
    }
}

fn shape(spec: &TensorSpec) -> String {
    spec.shape().iter().map(usize::to_string).collect::<Vec<_>>().join(" x ")
}

/// What happened to the numbers of these tensors on the way from their sources: "  rounded from f32".
fn notes(inspected: &Inspected, tensors: &[usize]) -> String {
    let Inspected { model, sources, .. } = inspected;
    let mut notes: Vec<&str> = Vec::new();
    for &index in tensors {
        let stored = model.encoding(index).dtype().name();
        let is_rounded = model.records()[index].rounded.get() != 0;
        if model.encoding(index).dtype().is_quantized() && !is_rounded {
            // Blocks of a GGUF file, whose source counts as f32.
            continue;
        }
        let note = match sources.get(index).map(|source| source.dtype) {
            Some(source) if source.name() == stored => continue,
            Some(SourceType::F32) if is_rounded => "rounded from f32",
            Some(SourceType::F16) if is_rounded => "rounded from f16",
            Some(SourceType::Bf16) if is_rounded => "rounded from bf16",
            None if is_rounded => "rounded",
            None => continue,
            Some(SourceType::F32) => "from f32",
            Some(SourceType::F16) => "from f16",
            Some(SourceType::Bf16) => "from bf16",
        };
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    if notes.is_empty() { String::new() } else { format!("  {}", notes.join(", ")) }
}

/// "16 x full" or "24 x sliding, 8 x full: SSSFSSSF…"; L for linear attention.
fn layer_types(config: &ModelConfig) -> String {
    let kinds = [(AttentionKind::Sliding, "sliding"), (AttentionKind::Linear, "linear"), (AttentionKind::Full, "full")];
    let count = |kind| config.layer_types.iter().filter(|&&of| of == kind).count();
    let counts = kinds.into_iter().map(|(kind, name)| (count(kind), name)).filter(|(n, _)| *n > 0);
    let counts: Vec<String> = counts.map(|(n, name)| format!("{n} x {name}")).collect();
    let letter = |kind: &AttentionKind| match kind {
        AttentionKind::Full => 'F',
        AttentionKind::Sliding => 'S',
        AttentionKind::Linear => 'L',
    };
    match counts.as_slice() {
        [one] => one.clone(),
        _ => format!("{}: {}", counts.join(", "), config.layer_types.iter().map(letter).collect::<String>()),
    }
}
