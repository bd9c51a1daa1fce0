//! The names of the tensors of OLMo models in GGUF files.

/// Names outside the layers: in a checkpoint, and in a GGUF file.
const MODEL: [(&str, &str); 3] = [
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
];

/// Names in a layer, without the beginnings of both.
const LAYER: [(&str, &str); 11] = [
    ("self_attn.q_proj.weight", "attn_q.weight"),
    ("self_attn.k_proj.weight", "attn_k.weight"),
    ("self_attn.v_proj.weight", "attn_v.weight"),
    ("self_attn.q_norm.weight", "attn_q_norm.weight"),
    ("self_attn.k_norm.weight", "attn_k_norm.weight"),
    ("self_attn.o_proj.weight", "attn_output.weight"),
    ("post_attention_layernorm.weight", "post_attention_norm.weight"),
    ("mlp.gate_proj.weight", "ffn_gate.weight"),
    ("mlp.up_proj.weight", "ffn_up.weight"),
    ("mlp.down_proj.weight", "ffn_down.weight"),
    ("post_feedforward_layernorm.weight", "post_ffw_norm.weight"),
];

/// What the names in a layer begin with in a checkpoint, before its number.
const IN_CHECKPOINT: &str = "model.layers.";
/// The same in a GGUF file.
const IN_GGUF: &str = "blk.";

/// The name in a checkpoint of a tensor of a GGUF file; `None` if no OLMo model has such a tensor.
pub fn of_checkpoint(name: &str) -> Option<String> {
    if let Some((checkpoint, _)) = MODEL.iter().find(|(_, gguf)| *gguf == name) {
        return Some((*checkpoint).into());
    }
    let (layer, rest) = layer(name, IN_GGUF)?;
    let (checkpoint, _) = LAYER.iter().find(|(_, gguf)| *gguf == rest)?;
    Some(format!("{IN_CHECKPOINT}{layer}.{checkpoint}"))
}

/// The name in a GGUF file of a tensor of a checkpoint; `None` if no OLMo model has such a tensor.
pub fn of_gguf(name: &str) -> Option<String> {
    if let Some((_, gguf)) = MODEL.iter().find(|(checkpoint, _)| *checkpoint == name) {
        return Some((*gguf).into());
    }
    let (layer, rest) = layer(name, IN_CHECKPOINT)?;
    let (_, gguf) = LAYER.iter().find(|(checkpoint, _)| *checkpoint == rest)?;
    Some(format!("{IN_GGUF}{layer}.{gguf}"))
}

/// The number of a layer, in its only spelling, and what follows it.
fn layer<'a>(name: &'a str, begin: &str) -> Option<(u32, &'a str)> {
    let (number, rest) = name.strip_prefix(begin)?.split_once('.')?;
    let layer: u32 = number.parse().ok()?;
    (layer.to_string() == number).then_some((layer, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tensor_of_a_model_has_one_name() {
        for (checkpoint, gguf) in MODEL {
            assert_eq!(of_checkpoint(gguf).as_deref(), Some(checkpoint));
            assert_eq!(of_gguf(checkpoint).as_deref(), Some(gguf));
        }
        for (checkpoint, gguf) in LAYER {
            let (checkpoint, gguf) = (format!("model.layers.17.{checkpoint}"), format!("blk.17.{gguf}"));
            assert_eq!(of_checkpoint(&gguf), Some(checkpoint.clone()));
            assert_eq!(of_gguf(&checkpoint), Some(gguf));
        }
        for name in [
            "blk.017.attn_q.weight",
            "blk.+1.attn_q.weight",
            "blk.-1.attn_q.weight",
            "blk..attn_q.weight",
            "blk.1.attn_q.bias",
            "blk.1.attn_norm.weight",
            "blk.4294967296.attn_q.weight",
            "lm_head.weight",
            "rope_freqs.weight",
        ] {
            assert_eq!(of_checkpoint(name), None, "{name}");
        }
    }
}
