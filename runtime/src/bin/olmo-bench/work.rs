//! How much a forward pass reads and computes.

use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::config::{AttentionKind, ModelConfig};
use olmo_infer::internals::format::mapped_bytes::MappedBytes;
use olmo_infer::internals::format::tensors::{TensorSpec, tensors_of};
use olmo_infer::internals::network::kv_type::KvType;
use zerocopy::IntoBytes;

/// Positions that a layer sees from position `position`, its own included.
fn visible(config: &ModelConfig, kind: AttentionKind, position: usize) -> u64 {
    let seen = match kind {
        AttentionKind::Full => position + 1,
        AttentionKind::Sliding => (position + 1).min(config.sliding_window),
        AttentionKind::Linear => 0,
    };
    seen as u64
}

/// Sum over the layers of [`visible`].
fn visible_in_all_layers(config: &ModelConfig, position: usize) -> u64 {
    config.layer_types.iter().map(|&kind| visible(config, kind, position)).sum()
}

/// Bytes that the token at `position` reads of what the sequence keeps: keys, values, and the states of linear
/// attention.
pub fn past_bytes(config: &ModelConfig, kv: KvType, position: usize) -> u64 {
    visible_in_all_layers(config, position) * 2 * kv.bytes() * config.kv_width() as u64 + 4 * state_elements(config)
}

/// Elements of the states of all layers with linear attention.
fn state_elements(config: &ModelConfig) -> u64 {
    let Some(linear) = config.linear else { return 0 };
    let n_layers = config.layer_types.iter().filter(|&&kind| kind == AttentionKind::Linear).count();
    (n_layers * linear.value_width() * linear.key_head_dim) as u64
}

/// Multiplications and additions of a forward pass over `n` tokens from position 0: the matrices of the layers, the
/// visible part of attention and the products of the delta rule for all of them, the head for the last.
pub fn prefill_flops(config: &ModelConfig, n: usize) -> u64 {
    // Of the experts those that a token takes: they are all of one shape.
    let taken = config.experts.map_or(0, |experts| experts.n_per_token);
    let is_multiplied = |spec: &TensorSpec| {
        spec.layer.is_some() && spec.columns.is_some() && spec.expert.is_none_or(|expert| expert < taken)
    };
    let in_layers = tensors_of(config).into_iter().filter(is_multiplied);
    let weights: u64 = in_layers.map(|spec| spec.n_elements()).sum();
    let seen: u64 = (0..n).map(|position| visible_in_all_layers(config, position)).sum();
    // A score and a weighted value for every query, key and dimension.
    let attention = 4 * seen * config.q_width() as u64;
    // A state is multiplied by a key and by a query, and a product of key and value is added to it.
    let delta_rule = 6 * state_elements(config) * n as u64;
    2 * weights * n as u64 + attention + delta_rule + head_flops(config)
}

/// Those of the logits of one position.
pub fn head_flops(config: &ModelConfig) -> u64 {
    2 * config.vocab_size as u64 * config.hidden_size as u64
}

/// The part of the mapping that passes read: all but an embedding that is not also the head, and drafts. Of experts a
/// token reads some.
pub fn weights_read_by_decode(file: &ModelFile) -> &[u8] {
    let first = if file.config().tie_word_embeddings { 0 } else { 1 };
    let tensors = &file.layout().tensors;
    let end = tensors.get(file.model_specs().len()).map_or(file.layout().file_bytes, |draft| draft.offset);
    let data = file.bytes().get(tensors[first].offset as usize..end as usize);
    // Only read, and nothing follows from it.
    data.and_then(MappedBytes::u32s).expect("the layout aligns and sizes tensors").as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use olmo_infer::internals::format::config::{Architecture, LinearAttention};

    fn olmo2_1b() -> ModelConfig {
        ModelConfig {
            architecture: Architecture::Olmo2,
            hidden_size: 2048,
            n_heads: 16,
            n_kv_heads: 16,
            head_dim: 128,
            intermediate_size: 8192,
            vocab_size: 100352,
            max_position_embeddings: 4096,
            rms_norm_eps: 1e-6,
            clip_qkv: None,
            rope_theta: 500000.0,
            rope_theta_sliding: 500000.0,
            yarn: None,
            sliding_window: 0,
            layer_types: vec![AttentionKind::Full; 16],
            experts: None,
            linear: None,
            tie_word_embeddings: false,
            eos_token_ids: vec![100257],
            bos_token_id: None,
            pad_token_id: None,
        }
    }

    #[test]
    fn the_published_1b_shape_has_these_numbers() {
        let config = olmo2_1b();
        assert_eq!(past_bytes(&config, KvType::F32, 0), 262_144);
        assert_eq!(past_bytes(&config, KvType::F32, 1023), 1024 * 262_144);
        assert_eq!(past_bytes(&config, KvType::Bf16, 1023), 1024 * 131_072);
        // Layers 2 * 1,073,741,824; attention 131,072 a visible position; head 2 * 205,520,896.
        assert_eq!(prefill_flops(&config, 1), 2_147_483_648 + 131_072 + 411_041_792);
        assert_eq!(prefill_flops(&config, 3) - prefill_flops(&config, 1), 2 * 2_147_483_648 + 5 * 131_072);
    }

    #[test]
    fn a_sliding_window_bounds_what_is_read() {
        let layer_types = vec![AttentionKind::Sliding; 16];
        let config = ModelConfig { sliding_window: 100, layer_types, ..olmo2_1b() };
        assert_eq!(past_bytes(&config, KvType::F32, 50), 51 * 262_144);
        assert_eq!(past_bytes(&config, KvType::F32, 500), 100 * 262_144);
    }

    #[test]
    fn a_state_is_read_at_every_position() {
        let linear = LinearAttention {
            n_key_heads: 30,
            n_value_heads: 30,
            key_head_dim: 96,
            value_head_dim: 192,
            conv_kernel: 4,
            allow_neg_eigval: true,
        };
        // The states of Olmo-Hybrid-7B are 2,211,840 bytes a layer.
        let with = |layer_types| ModelConfig { linear: Some(linear), layer_types, ..olmo2_1b() };
        let states = with(vec![AttentionKind::Linear; 24]);
        assert_eq!([0, 500].map(|position| past_bytes(&states, KvType::F32, position)), [24 * 2_211_840; 2]);
        let mixed = with(vec![AttentionKind::Linear, AttentionKind::Full]);
        assert_eq!(past_bytes(&mixed, KvType::F32, 1), 2_211_840 + 2 * 16_384);
    }
}
