#!/usr/bin/env python3
"""Write a folder of float32 OLMo-2 weights as a GGUF file for llama.cpp, matrices in f32 or bf16, norms in f32.

    to_gguf.py weights/ model.gguf --dtype bf16

Rows stay in the order of the checkpoint: llama.cpp rotates the halves of a head for this architecture, as transformers
does. The file has no tokenizer. `bench` compares the logits of both programs before it measures.
"""

import argparse
from pathlib import Path

import gguf
import numpy as np

from weights import Weights, to_bf16

# Names of the checkpoint -> GGUF.
MODEL = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "post_attention_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` -> `blk.3.ffn_up.weight`."""
    stem = name.removesuffix(".weight")
    if stem in MODEL:
        return f"{MODEL[stem]}.weight"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{LAYER[part]}.weight"


def write(weights: Weights, path: Path, bf16: bool) -> None:
    """Writes the file, a tensor at a time."""
    config = weights.config
    if config["model_type"] != "olmo2":
        raise SystemExit(f"{weights.folder}: {config['model_type']}, only olmo2 is converted")
    writer = gguf.GGUFWriter(path, "olmo2")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16 if bf16 else gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("none")

    def as_bf16(tensor: np.ndarray) -> bool:
        return bf16 and tensor.ndim == 2

    for name in weights.names:
        tensor = weights.tensor(name)
        if as_bf16(tensor):
            # The shape of raw types is given in bytes.
            shape = (*tensor.shape[:-1], 2 * tensor.shape[-1])
            kind = gguf.GGMLQuantizationType.BF16
            writer.add_tensor_info(gguf_name(name), shape, np.dtype(np.uint8), 2 * tensor.size, raw_dtype=kind)
        else:
            writer.add_tensor_info(gguf_name(name), tensor.shape, tensor.dtype, tensor.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name in weights.names:
        tensor = weights.tensor(name)
        writer.write_tensor_data(to_bf16(tensor) if as_bf16(tensor) else np.ascontiguousarray(tensor))
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a folder of OLMo-2 weights as a GGUF file.")
    parser.add_argument("weights", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--dtype", choices=["f32", "bf16"], required=True)
    args = parser.parse_args()
    write(Weights(args.weights), args.output, args.dtype == "bf16")


if __name__ == "__main__":
    main()
