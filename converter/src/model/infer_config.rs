//! The configuration of a folder without `config.json`: from names and shapes, and for the rest from flags, or from the
//! constants of the published OLMo-2 models if the widths match exactly.
//!
//! Shapes do not determine a window, a RoPE base, the number of heads, or the clipping of OLMo-1. An Olmo-3 model with
//! the constants of OLMo-2 generates fluent nonsense without an error, so every uncertain value must be given.

use crate::error::{Error, Problem};
use crate::folder::listing::Listing;
use crate::folder::npy::shown_shape;
use crate::model::config_json::default_layer_types;
use crate::model::rope_json::yarn_of_flags;
use crate::model::settings::{Flags, Origin, Origins, Settings};
use olmo_infer::internals::format::config::{Architecture, AttentionKind, LAYER_NORM_EPS, MAX_LAYERS, ModelConfig};

/// Rows of the embedding of every published OLMo-2.
const OLMO2_VOCAB_ROWS: usize = 100_352;
/// Rows of every published Olmo-3.
const OLMO3_VOCAB_ROWS: usize = 100_278;
/// The published OLMo-2 models; none has tied embeddings.
const PUBLISHED_OLMO2: [Published; 4] = [
    Published { name: "1B", hidden: 2048, mlp: 8192, kv: 2048, n_layers: 16 },
    Published { name: "7B", hidden: 4096, mlp: 11008, kv: 4096, n_layers: 32 },
    Published { name: "13B", hidden: 5120, mlp: 13824, kv: 5120, n_layers: 40 },
    Published { name: "32B", hidden: 5120, mlp: 27648, kv: 1024, n_layers: 64 },
];

/// The distinguishing widths of a published model.
struct Published {
    name: &'static str,
    hidden: usize,
    mlp: usize,
    kv: usize,
    n_layers: usize,
}

impl Published {
    /// The published OLMo-2 with these widths, regardless of the number of layers and the head.
    fn of(widths: &Widths) -> Option<&'static Published> {
        let same = |published: &&Published| {
            (published.hidden, published.mlp, published.kv) == (widths.hidden, widths.mlp, widths.kv)
        };
        let possible = widths.vocab_size == OLMO2_VOCAB_ROWS && widths.q == widths.hidden && widths.has_norms;
        PUBLISHED_OLMO2.iter().find(same).filter(|_| possible)
    }

    /// How a model of these widths differs from this one; `None` if it does not.
    fn difference(&self, widths: &Widths) -> Option<String> {
        let mut differences = Vec::new();
        if widths.n_layers != self.n_layers {
            differences.push(format!("{} layers instead of {}", widths.n_layers, self.n_layers));
        }
        if widths.tied {
            differences.push("no lm_head.weight".into());
        }
        (!differences.is_empty()).then(|| differences.join(" and "))
    }
}

/// The widths in names and shapes.
struct Widths {
    vocab_size: usize,
    hidden: usize,
    q: usize,
    kv: usize,
    mlp: usize,
    n_layers: usize,
    tied: bool,
    has_norms: bool,
}

/// Infers the configuration of `listing`.
///
/// # Errors
/// An unsupported family, an impossible shape, or values that only flags can give.
pub fn infer(listing: &Listing, flags: &Flags) -> Result<Settings, Error> {
    refuse_other_families(listing, flags)?;
    let has_norms = listing.tensors.iter().any(|name| name.ends_with("norm.weight"));
    refuse_other_architecture(listing, flags, has_norms)?;
    let widths = widths(listing, has_norms)?;
    let mut origins = Origins::default();
    for key in ["hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "tie_word_embeddings"] {
        origins.note(key, Origin::Shapes);
    }
    // An export that lost layers or the head must not pass for another model.
    let published = Published::of(&widths).is_some_and(|published| published.difference(&widths).is_none());
    let constants = published && flags.architecture != Some(Architecture::Olmo3);
    if !constants {
        require_flags(listing, &widths, flags)?;
    }

    let mut origin = |key, given: bool, otherwise| origins.note(key, if given { Origin::Flag } else { otherwise });
    let constant = Origin::PublishedOlmo2;
    let architecture = flags.architecture.unwrap_or(Architecture::Olmo2);
    let olmo1 = architecture == Architecture::Olmo1;
    origin("model_type", flags.architecture.is_some(), constant);
    origin("head_dim", flags.head_dim.is_some(), constant);
    origin("rope_theta", flags.rope_theta.is_some(), constant);
    origin("rms_norm_eps", flags.rms_norm_eps.is_some(), if olmo1 { Origin::Rule } else { constant });
    origin("max_position_embeddings", flags.max_positions.is_some(), constant);
    origin("eos_token_id", flags.eos_token_ids.is_some(), if constants { constant } else { Origin::Rule });
    flags.refuse_useless(&listing.folder, architecture)?;
    let layer_types = default_layer_types(architecture, widths.n_layers);
    let slides = layer_types.contains(&AttentionKind::Sliding);
    let head_dim = flags.head_dim.unwrap_or(128);
    let max_position_embeddings = flags.max_positions.unwrap_or(4096);
    let rope_theta = flags.rope_theta.unwrap_or(500_000.0);
    let heads = |key: &'static str, width: usize| match width.checked_div(head_dim) {
        Some(heads) if heads * head_dim == width => Ok(heads),
        _ => Err(Problem::new(&listing.folder, format!("{key} is {width} wide"))
            .expected(format!("a multiple of head_dim {head_dim}"))
            .advice("pass the right --head-dim")),
    };
    let config = ModelConfig {
        architecture,
        hidden_size: widths.hidden,
        n_heads: heads("q_proj", widths.q)?,
        n_kv_heads: heads("k_proj", widths.kv)?,
        head_dim,
        intermediate_size: widths.mlp,
        vocab_size: widths.vocab_size,
        max_position_embeddings,
        rms_norm_eps: flags.rms_norm_eps.unwrap_or(if olmo1 { LAYER_NORM_EPS } else { 1e-6 }),
        clip_qkv: flags.clip_qkv.flatten(),
        rope_theta,
        rope_theta_sliding: rope_theta,
        yarn: yarn_of_flags(flags, max_position_embeddings).flatten(),
        sliding_window: if slides { flags.sliding_window.unwrap_or(0) } else { 0 },
        layer_types,
        experts: None,
        linear: None,
        tie_word_embeddings: widths.tied,
        // The end-of-text and padding ids of the tokenizer that all published OLMo-2 share.
        eos_token_ids: match &flags.eos_token_ids {
            Some(ids) => ids.clone(),
            None if constants => vec![100_257],
            None => Vec::new(),
        },
        bos_token_id: None,
        pad_token_id: constants.then_some(100_277),
    };
    for key in ["num_attention_heads", "num_key_value_heads"] {
        origins.note(key, Origin::Shapes);
    }
    if olmo1 {
        origins.note("clip_qkv", Origin::Flag);
    }
    if architecture == Architecture::Olmo3 {
        origins.note("sliding_window", Origin::Flag);
        origins.note("layer_types", Origin::Rule);
        origins.note("rope_scaling", Origin::Flag);
    }
    config.validate().map_err(|error| {
        Problem::new(&listing.folder, format!("{} is {}", error.key, error.found)).expected(error.expected)
    })?;
    Ok(Settings { config, origins, u2_is_bf16: false, tokenizer_class: None, config_json: None })
}

/// Rejects families that have similar files and another forward pass.
fn refuse_other_families(listing: &Listing, flags: &Flags) -> Result<(), Problem> {
    let has = |part: &str| listing.tensors.iter().any(|name| name.contains(part));
    let needs_config = |found: &str| {
        let problem = Problem::new(&listing.folder, format!("no config.json, and {found}"));
        Err(problem.expected("the model's config.json, as shapes do not determine the rest").advice("put it there"))
    };
    if has(".linear_attn.") {
        return needs_config("linear_attn tensors, as in Olmo-Hybrid");
    }
    if has(".mlp.experts.") || has(".mlp.gate.weight") {
        return needs_config("expert tensors, as in OLMoE and FlexOlmo");
    }
    if let Some(architecture) = flags.architecture.filter(|of| {
        use Architecture::{Olmo1, Olmo2, Olmo3};
        ![Olmo1, Olmo2, Olmo3].contains(of)
    }) {
        return needs_config(&format!("an {} model as set by --arch", architecture.name()));
    }
    let found = if has(".pre_feedforward_layernorm.") {
        "pre_feedforward_layernorm tensors, as in Gemma"
    } else if has(".input_layernorm.") {
        "input_layernorm tensors, as in Llama, Qwen and other pre-norm models"
    } else if has(".self_attn.q_proj.bias") {
        "q_proj.bias tensors, which OLMo models do not have"
    } else {
        return Ok(());
    };
    Err(Problem::new(&listing.folder, found)
        .expected("OLMo-1, OLMo-2 or Olmo-3")
        .advice("other families are not supported"))
}

/// Rejects a mismatch of norms and `--arch`: only OLMo-1 has no norm weights.
fn refuse_other_architecture(listing: &Listing, flags: &Flags, has_norms: bool) -> Result<(), Problem> {
    match flags.architecture {
        Some(architecture) if architecture.has_norm_weights() != has_norms => {
            let found = match has_norms {
                true => "norm tensors, which OLMo-1 does not have",
                false => "no norm tensors, as in OLMo-1",
            };
            Err(Problem::new(&listing.folder, found)
                .expected(format!("an {} model as set by --arch", architecture.name()))
                .advice("pass the --arch of this model, or export the whole model"))
        }
        _ => Ok(()),
    }
}

/// Reads the widths from four headers, and from one norm if there are norms.
fn widths(listing: &Listing, has_norms: bool) -> Result<Widths, Error> {
    let layer = |name: &String| name.strip_prefix("model.layers.")?.split('.').next()?.parse::<usize>().ok();
    let n_layers = listing.tensors.iter().filter_map(layer).max().map_or(0, |last| last.saturating_add(1));
    if !(1..=MAX_LAYERS).contains(&n_layers) {
        let found = format!("files of {n_layers} layers");
        return Err(Problem::new(&listing.folder, found).expected(format!("1 to {MAX_LAYERS}")).into());
    }
    let shape = |name: &str, rank: usize| -> Result<Vec<usize>, Error> {
        if !listing.tensors.contains(name) {
            let problem = listing.problem(name, "missing").expected("it, or a config.json next to the weights");
            return Err(problem.advice("export the whole model").into());
        }
        let shape = listing.shape(name)?;
        let sizes: Option<Vec<usize>> = shape.iter().map(|&size| usize::try_from(size).ok()).collect();
        sizes.filter(|sizes| sizes.len() == rank && !sizes.contains(&0)).ok_or_else(|| {
            let kind = if rank == 1 { "a vector" } else { "a matrix" };
            listing.problem(name, format!("shape {}", shown_shape(&shape))).expected(kind).into()
        })
    };
    let embedding = shape("model.embed_tokens.weight", 2)?;
    let q = shape("model.layers.0.self_attn.q_proj.weight", 2)?;
    let kv = shape("model.layers.0.self_attn.k_proj.weight", 2)?;
    let mlp = shape("model.layers.0.mlp.gate_proj.weight", 2)?;
    if has_norms {
        let q_norm = shape("model.layers.0.self_attn.q_norm.weight", 1)?;
        if q_norm[0] < q[0] && q[0].is_multiple_of(q_norm[0]) {
            let problem = listing.problem(
                "model.layers.0.self_attn.q_norm.weight",
                format!(
                    "shape [{}] for q_proj of {} rows: a norm for each head, as in Qwen3 and EXAONE-4",
                    q_norm[0], q[0]
                ),
            );
            let problem = problem.expected(format!("[{}]", q[0]));
            return Err(problem.advice("other families than OLMo are not supported").into());
        }
    }
    Ok(Widths {
        vocab_size: embedding[0],
        hidden: embedding[1],
        q: q[0],
        kv: kv[0],
        mlp: mlp[0],
        n_layers,
        tied: !listing.tensors.contains("lm_head.weight"),
        has_norms,
    })
}

/// Without the constants of the published models, a flag must give every value that shapes do not determine.
fn require_flags(listing: &Listing, widths: &Widths, flags: &Flags) -> Result<(), Problem> {
    let mut missing = Vec::new();
    let mut need = |flag, given: bool| {
        if !given {
            missing.push(flag);
        }
    };
    // Without norms it is OLMo-1, or an export that lost them.
    let architecture = if widths.has_norms { flags.architecture } else { Some(Architecture::Olmo1) };
    need(if widths.has_norms { "--arch olmo2|olmo3" } else { "--arch olmo" }, flags.architecture.is_some());
    need("--head-dim", flags.head_dim.is_some());
    need("--rope-theta", flags.rope_theta.is_some());
    if architecture != Some(Architecture::Olmo1) {
        need("--rms-norm-eps", flags.rms_norm_eps.is_some());
    }
    need("--max-positions", flags.max_positions.is_some());
    match architecture {
        Some(Architecture::Olmo1) => need("--clip-qkv with a number or none", flags.clip_qkv.is_some()),
        Some(Architecture::Olmo3) => {
            need("--sliding-window", flags.sliding_window.is_some());
            need("--yarn-factor with --yarn-original-positions, or --no-yarn", {
                flags.no_yarn || flags.yarn_factor.is_some() && flags.yarn_original_positions.is_some()
            });
        }
        Some(_) => {}
        None => need("for olmo3 also --sliding-window and --yarn-factor or --no-yarn", false),
    }
    if missing.is_empty() {
        return Ok(());
    }
    let difference = Published::of(widths).and_then(|published| Some((published.name, published.difference(widths)?)));
    if let Some((name, difference)) = difference {
        let found = format!("no config.json, and the widths of OLMo-2 {name} but {difference}");
        return Err(Problem::new(&listing.folder, found)
            .expected("the whole model, or a config.json")
            .advice(format!("export the whole model, or if this is another one pass {}", missing.join(", "))));
    }
    let found = match widths.vocab_size {
        _ if !widths.has_norms => "no config.json, and no norm tensors, as in OLMo-1".to_string(),
        OLMO3_VOCAB_ROWS => {
            format!("no config.json, and {OLMO3_VOCAB_ROWS} vocabulary rows, as in Olmo-3 and in BAR-7B, an OLMo-2")
        }
        rows => format!(
            "no config.json, and no published OLMo-2 has the widths hidden {}, MLP {}, key/value {} with {rows} vocabulary rows",
            widths.hidden, widths.mlp, widths.kv
        ),
    };
    Err(Problem::new(&listing.folder, found)
        .expected("a config.json, as shapes do not determine the rest")
        .advice(format!("put the model's config.json there or pass {}", missing.join(", "))))
}
