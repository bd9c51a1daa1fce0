//! Facts of a model file for the commands that show or compare it.

use crate::commands::counted::counted;
use crate::commands::sources::{Source, checked_section};
use crate::error::Error;
use crate::text::kept_files;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::file::sampling::AuthorSampling;
use olmo_infer::internals::format::config::{AttentionKind, ModelConfig};
use olmo_infer::internals::format::{self, Dtype, section};
use olmo_infer::internals::text::chat::{Chat, NoChat};
use olmo_infer::internals::text::tokenizer::{NoTokenizer, Tokenizer};
use olmo_infer::internals::text::vocabulary::Vocabulary;
use serde_json::{Value, json};
use zerocopy::IntoBytes;

/// The parts of a file that describe it.
pub(crate) struct Inspected<'a> {
    pub model: &'a ModelFile,
    /// Where the tensors come from; empty when the file has no section `SOURCES`.
    pub sources: Vec<Source>,
    /// The lines `key=value`.
    pub provenance: Vec<(String, String)>,
    /// The tokens, how text becomes ids, and the format of conversations.
    pub text: OfText,
}

/// The text sections of a file.
pub(crate) struct OfText {
    pub n_tokens: Option<u32>,
    pub tokenizer: Option<Result<Tokenizer, NoTokenizer>>,
    pub chat: Option<Result<Chat, NoChat>>,
    pub sampling: Option<AuthorSampling>,
    /// Names and lengths of the files that were kept.
    pub files: Vec<(&'static str, usize)>,
}

impl OfText {
    pub(crate) fn of(model: &ModelFile) -> Result<OfText, Error> {
        let section = |kind| checked_section(model, kind);
        let vocabulary = section(section::VOCABULARY)?;
        let n_tokens =
            vocabulary.as_ref().and_then(|bytes| bytes.first_chunk()).map(|&bytes| u32::from_le_bytes(bytes));
        let tokenizer = section(section::TOKENIZER)?.zip(vocabulary.as_deref().and_then(Vocabulary::in_section));
        let files = section(section::FILES)?;
        let files = files.as_deref().and_then(|bytes| kept_files::in_section(bytes).ok());
        Ok(OfText {
            files: files.unwrap_or_default().into_iter().map(|(name, bytes)| (name, bytes.len())).collect(),
            n_tokens,
            tokenizer: tokenizer.map(|(bytes, vocabulary)| Tokenizer::in_section(&bytes, &vocabulary)),
            chat: section(section::CHAT)?.as_deref().map(Chat::in_section),
            sampling: section(section::SAMPLING)?.as_deref().and_then(AuthorSampling::in_section),
        })
    }
}

/// XXH3-64 of the configuration, the digests of the tensors, each with its levels where it has some, and those of the
/// vocabulary and of the bf12 tables: the
/// same for two files exactly when they hold the same model in the same encodings.
pub fn content_digest(model: &ModelFile) -> u64 {
    let mut content = model.header().config.as_bytes().to_vec();
    for record in model.records() {
        content.extend(record.digest.get().to_le_bytes());
        if record.levels != [0; _] {
            content.extend(record.levels.as_bytes());
        }
    }
    let is_content = |kind| [section::VOCABULARY, section::BF12].contains(&kind);
    for record in model.sections().iter().filter(|record| is_content(record.kind.get())) {
        content.extend(record.digest.get().to_le_bytes());
    }
    format::digest(&content, 0)
}

/// The lines `key=value` of the provenance.
pub(crate) fn provenance(model: &ModelFile) -> Result<Vec<(String, String)>, Error> {
    let bytes = checked_section(model, section::PROVENANCE)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
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
        AttentionKind::Linear => "linear_attention",
    };
    let (experts, linear) = (config.experts, config.linear);
    let theta = |theta: f64| config.has_rope().then_some(theta);
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
        "rope_theta": theta(config.rope_theta),
        "rope_theta_sliding": theta(config.rope_theta_sliding),
        "rope_scaling": yarn,
        "sliding_window": config.sliding_window,
        "layer_types": config.layer_types.iter().map(kind).collect::<Vec<_>>(),
        "num_experts": experts.map(|experts| experts.n_experts),
        "num_experts_per_tok": experts.map(|experts| experts.n_per_token),
        "norm_topk_prob": experts.map(|experts| experts.norm_topk_prob),
        "linear_num_key_heads": linear.map(|linear| linear.n_key_heads),
        "linear_num_value_heads": linear.map(|linear| linear.n_value_heads),
        "linear_key_head_dim": linear.map(|linear| linear.key_head_dim),
        "linear_value_head_dim": linear.map(|linear| linear.value_head_dim),
        "linear_conv_kernel_dim": linear.map(|linear| linear.conv_kernel),
        "linear_allow_neg_eigval": linear.map(|linear| linear.allow_neg_eigval),
        "tie_word_embeddings": config.tie_word_embeddings,
        "eos_token_id": config.eos_token_ids,
        "bos_token_id": config.bos_token_id,
        "pad_token_id": config.pad_token_id,
    })
}

/// Bits per weight of these tensors; padding inside panels counts as weights.
pub(crate) fn bits_per_weight(model: &ModelFile, tensors: &[usize]) -> f64 {
    let n_elements = |index: usize| {
        let shape = model.specs()[index].panel_shape(model.encoding(index).dtype());
        shape.map_or(model.specs()[index].rows, |shape| shape.n_panels() * shape.panel_elements())
    };
    let (bits, n) = tensors
        .iter()
        .fold((0, 0), |(bits, n), &index| (bits + 8 * model.records()[index].bytes.get(), n + n_elements(index)));
    bits as f64 / n as f64
}

/// "f32", "bf16", "bf16 in 12 bits", "bf16, 3 of 4 in 12 bits", "mixed, 3 of 4 in 12 bits", "int8" or "7 int4, 2 int8".
pub(crate) fn matrices(model: &ModelFile) -> String {
    let name = model.matrices().map_or("mixed", Dtype::name);
    let matrices = (0..model.model_specs().len()).filter(|&index| model.specs()[index].has_choice());
    if matrices.clone().any(|index| model.encoding(index).dtype().is_quantized()) {
        let counts = counted(matrices.map(|index| model.encoding(index).name()));
        return match counts.as_slice() {
            [(name, _)] => (*name).into(),
            counts => counts.iter().map(|(name, n)| format!("{n} {name}")).collect::<Vec<_>>().join(", "),
        };
    }
    let (n, n_bf12) =
        matrices.fold((0, 0), |(n, n_bf12), index| (n + 1, n_bf12 + usize::from(model.bf12_table(index).is_some())));
    match n_bf12 {
        0 => name.into(),
        _ if n_bf12 == n => format!("{name} in 12 bits"),
        _ => format!("{name}, {n_bf12} of {n} in 12 bits"),
    }
}
