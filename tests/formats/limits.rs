//! Every limit of a configuration and of a layout: the last value inside is taken, the first one outside is refused by
//! its key, and the offset of the data changes at the very byte that the format names.

use olmo_infer::internals::format::Encoding;
use olmo_infer::internals::format::config::{
    Architecture, AttentionKind, LAYER_NORM_EPS, MAX_EOS_TOKENS, MAX_HEAD_DIM, MAX_LAYERS, MAX_POSITIONS,
    MAX_VOCAB_SIZE, MAX_WIDTH, ModelConfig, Yarn,
};
use olmo_infer::internals::format::layout;
use olmo_infer::internals::format::tensors::tensors_of;

/// A model in which every number is a small possible one.
fn tiny(architecture: Architecture) -> ModelConfig {
    ModelConfig {
        architecture,
        hidden_size: 2,
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: 2,
        intermediate_size: 2,
        vocab_size: 2,
        max_position_embeddings: 2,
        rms_norm_eps: if architecture == Architecture::Olmo1 { LAYER_NORM_EPS } else { 1e-6 },
        clip_qkv: None,
        rope_theta: 10000.0,
        rope_theta_sliding: 10000.0,
        yarn: None,
        sliding_window: 0,
        layer_types: vec![AttentionKind::Full],
        experts: None,
        linear: None,
        tie_word_embeddings: true,
        eos_token_ids: Vec::new(),
        bos_token_id: None,
        pad_token_id: None,
    }
}

/// An Olmo-3 model that slides and has YaRN.
fn long_context() -> ModelConfig {
    let yarn = Yarn {
        factor: 8.0,
        original_max_position_embeddings: 2,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: 1.2,
        truncate: true,
    };
    let layer_types = vec![AttentionKind::Sliding, AttentionKind::Full];
    ModelConfig { yarn: Some(yarn), sliding_window: 2, layer_types, ..tiny(Architecture::Olmo3) }
}

/// The key that is refused, if any.
fn refused(config: &ModelConfig) -> Option<&'static str> {
    config.validate().err().map(|error| error.key)
}

/// `base` with one change.
fn with(base: &ModelConfig, change: impl FnOnce(&mut ModelConfig)) -> ModelConfig {
    let mut config = base.clone();
    change(&mut config);
    config
}

fn yarn(config: &mut ModelConfig) -> &mut Yarn {
    config.yarn.as_mut().expect("a model with YaRN")
}

#[test]
fn counts_have_a_least_and_a_largest_value() {
    type Set = fn(&mut ModelConfig, usize);
    let (plain, long) = (tiny(Architecture::Olmo2), long_context());
    let counts: [(&ModelConfig, &str, Set, usize); 8] = [
        (&plain, "hidden_size", |config, n| config.hidden_size = n, MAX_WIDTH),
        (&plain, "num_hidden_layers", |config, n| config.layer_types = vec![AttentionKind::Full; n], MAX_LAYERS),
        (&plain, "intermediate_size", |config, n| config.intermediate_size = n, MAX_WIDTH),
        (&plain, "vocab_size", |config, n| config.vocab_size = n, MAX_VOCAB_SIZE),
        (&plain, "max_position_embeddings", |config, n| config.max_position_embeddings = n, MAX_POSITIONS),
        (&long, "sliding_window", |config, n| config.sliding_window = n, MAX_POSITIONS),
        (
            &long,
            "rope_scaling.original_max_position_embeddings",
            |config, n| yarn(config).original_max_position_embeddings = n,
            MAX_POSITIONS,
        ),
        (&plain, "num_key_value_heads", |config, n| config.n_kv_heads = n, 1),
    ];
    for (base, key, set, max) in counts {
        let found = |n| refused(&with(base, |config| set(config, n)));
        assert_eq!([found(1), found(max)], [None, None], "{key}");
        assert_eq!([found(0), found(max + 1)], [Some(key), Some(key)], "{key}");
    }
}

#[test]
fn head_sizes_are_even_and_divide_evenly() {
    let heads = |n_heads, n_kv_heads, head_dim| {
        refused(&ModelConfig { n_heads, n_kv_heads, head_dim, ..tiny(Architecture::Olmo2) })
    };
    assert_eq!(MAX_WIDTH, 1024 * MAX_HEAD_DIM);
    for (n_heads, n_kv_heads, head_dim) in
        [(1, 1, 2), (1, 1, MAX_HEAD_DIM), (1024, 1, MAX_HEAD_DIM), (MAX_WIDTH / 2, 1, 2), (6, 3, 2), (6, 6, 2)]
    {
        assert_eq!(heads(n_heads, n_kv_heads, head_dim), None, "{n_heads} {n_kv_heads} {head_dim}");
    }
    for head_dim in [0, 1, 3, MAX_HEAD_DIM - 1, MAX_HEAD_DIM + 1, MAX_HEAD_DIM + 2] {
        assert_eq!(heads(1, 1, head_dim), Some("head_dim"), "{head_dim}");
    }
    // Each by itself is possible, both together are too wide.
    assert_eq!(heads(1025, 1, MAX_HEAD_DIM), Some("head_dim"));
    assert_eq!(heads(MAX_WIDTH / 2 + 1, 1, 2), Some("head_dim"));
    assert_eq!(heads(MAX_WIDTH, 1, 2), Some("head_dim"));
    for (n_heads, n_kv_heads) in [(0, 0), (0, 1), (MAX_WIDTH + 1, 1), (usize::MAX, 1)] {
        assert_eq!(heads(n_heads, n_kv_heads, 2), Some("num_attention_heads"), "{n_heads} {n_kv_heads}");
    }
    for n_kv_heads in [0, 4, 5, 7, 12] {
        assert_eq!(heads(6, n_kv_heads, 2), Some("num_key_value_heads"), "{n_kv_heads}");
    }
}

#[test]
fn real_numbers_have_a_least_and_a_largest_value() {
    type Set = fn(&mut ModelConfig, f64);
    let (plain, olmo1, long) = (tiny(Architecture::Olmo2), tiny(Architecture::Olmo1), long_context());
    let reals: [(&ModelConfig, &str, Set, f64, f64); 8] = [
        (&plain, "rms_norm_eps", |config, x| config.rms_norm_eps = x, 1e-12, 1.0),
        (&olmo1, "clip_qkv", |config, x| config.clip_qkv = Some(x), 1e-3, 1e6),
        (&plain, "rope_theta", |config, x| config.rope_theta = x, 1.0, 1e12),
        (&plain, "rope_theta", |config, x| config.rope_theta_sliding = x, 1.0, 1e12),
        (&long, "rope_scaling.factor", |config, x| yarn(config).factor = x, 1.0, 1e6),
        (&long, "rope_scaling.beta_fast", |config, x| yarn(config).beta_fast = x, 1e-3, 1e6),
        (&long, "rope_scaling.beta_slow", |config, x| yarn(config).beta_slow = x, 1e-3, 1e6),
        (&long, "rope_scaling.attention_factor", |config, x| yarn(config).attention_factor = x, 1e-3, 1e3),
    ];
    for (base, key, set, min, max) in reals {
        let found = |x| refused(&with(base, |config| set(config, x)));
        assert_eq!([found(min), found(max)], [None, None], "{key}");
        for x in [min.next_down(), max.next_up(), 0.0, -min, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(found(x), Some(key), "{key} {x:?}");
        }
    }
}

#[test]
fn keys_of_one_architecture_are_refused_in_others() {
    let [olmo1, olmo2, olmo3] = [Architecture::Olmo1, Architecture::Olmo2, Architecture::Olmo3].map(tiny);
    for (config, clip) in [(&olmo1, None), (&olmo2, Some("clip_qkv")), (&olmo3, Some("clip_qkv"))] {
        assert_eq!(refused(config), None);
        assert_eq!(refused(&with(config, |config| config.clip_qkv = Some(8.0))), clip);
    }
    let eps = |config: &ModelConfig, eps: f64| refused(&with(config, |config| config.rms_norm_eps = eps));
    for other in [1e-6, LAYER_NORM_EPS.next_up(), LAYER_NORM_EPS.next_down()] {
        assert_eq!([eps(&olmo1, other), eps(&olmo2, other)], [Some("rms_norm_eps"), None]);
    }
    let long = long_context();
    assert_eq!(refused(&long), None);
    let only_yarn = with(&long, |config| {
        config.layer_types.remove(0);
        config.sliding_window = 0;
    });
    let only_slides = with(&long, |config| config.yarn = None);
    assert_eq!([refused(&only_yarn), refused(&only_slides)], [None, None]);
    for architecture in [Architecture::Olmo1, Architecture::Olmo2] {
        let other = |config: &ModelConfig| {
            let rms_norm_eps = tiny(architecture).rms_norm_eps;
            refused(&ModelConfig { architecture, rms_norm_eps, ..config.clone() })
        };
        assert_eq!([other(&only_yarn), other(&only_slides)], [Some("rope_scaling"), Some("layer_types")]);
    }
}

#[test]
fn dependent_values_are_checked_together() {
    let long = long_context();
    // A base of 1 turns nothing, and YaRN divides by its logarithm.
    let theta = |config: &ModelConfig, theta: f64| refused(&with(config, |config| config.rope_theta = theta));
    assert_eq!([theta(&long, 1.0), theta(&long, 1f64.next_up())], [Some("rope_theta"), None]);
    assert_eq!(theta(&tiny(Architecture::Olmo3), 1.0), None);
    // A window is there exactly when a layer slides.
    let without = with(&long, |config| config.layer_types = vec![AttentionKind::Full]);
    assert_eq!(refused(&without), Some("sliding_window"));
    let eos = |ids: Vec<u32>| refused(&ModelConfig { eos_token_ids: ids, ..tiny(Architecture::Olmo2) });
    assert_eq!([eos(vec![0; MAX_EOS_TOKENS]), eos(vec![0; MAX_EOS_TOKENS + 1])], [None, Some("eos_token_id")]);
    assert_eq!([eos(vec![u32::MAX - 1]), eos(vec![0, u32::MAX])], [None, Some("eos_token_id")]);
}

#[test]
fn data_from_16_mib_is_aligned_for_huge_pages() {
    // In units of 256 bytes: 16 for a panel of the embedding and each of five projections, 2 for o_proj, 9 for
    // down_proj, and 1 for each of five vectors, which without their padding would be below the limit.
    let config = |panels: usize| ModelConfig {
        hidden_size: 16,
        intermediate_size: 9,
        vocab_size: panels * 64,
        ..tiny(Architecture::Olmo2)
    };
    assert_eq!((4090 + 5) * 16 + 2 + 9 + 5, (16 << 20) / 256);
    let in_layer = [0, 4096, 8192, 12288, 12544, 12800, 13312, 13568, 17664, 21760, 24064];
    // Header, 13 records of tensors and two of sections end at 5888.
    let cases = [(4090, 2 << 20, 18_874_368, 18_939_904, 19_005_440), (4089, 8192, 16_756_736, 16_781_056, 16_781_312)];
    for (panels, embedding, layer, norm, file_bytes) in cases {
        let config = config(panels);
        let layout = layout::layout(&tensors_of(&config), &[Encoding::F32; 13], &[7, 1]).expect("a possible size");
        let offsets: Vec<u64> = layout.tensors.iter().map(|extent| extent.offset).collect();
        let layer = in_layer.map(|offset| layer + offset);
        assert_eq!(offsets, [&[embedding], &layer[..], &[norm]].concat());
        assert_eq!((layout.data_offset, layout.file_bytes), (embedding, file_bytes));
        assert_eq!(layout.sections.iter().map(|extent| extent.offset).collect::<Vec<_>>(), [5888, 5952]);
    }
}
