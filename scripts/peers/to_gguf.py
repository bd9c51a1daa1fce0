#!/usr/bin/env python3
"""Write a folder of float32 OLMo-2 weights as a GGUF file for llama.cpp. The norms are f32.

A q4_0 file has its embedding and its head in q8_0, as ours of 4 bits has them in int8.

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


TYPES = {
    "f32": (gguf.LlamaFileType.ALL_F32, gguf.GGMLQuantizationType.F32),
    "bf16": (gguf.LlamaFileType.MOSTLY_BF16, gguf.GGMLQuantizationType.BF16),
    "q8_0": (gguf.LlamaFileType.MOSTLY_Q8_0, gguf.GGMLQuantizationType.Q8_0),
    "q4_0": (gguf.LlamaFileType.MOSTLY_Q4_0, gguf.GGMLQuantizationType.Q4_0),
}


def type_of(name: str, dtype: str) -> gguf.GGMLQuantizationType:
    """How a matrix is stored."""
    if dtype == "q4_0" and name in ("model.embed_tokens.weight", "lm_head.weight"):
        dtype = "q8_0"
    return TYPES[dtype][1]


def stored(tensor: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """The bytes of a matrix."""
    if kind == gguf.GGMLQuantizationType.F32:
        return np.ascontiguousarray(tensor)
    return to_bf16(tensor) if kind == gguf.GGMLQuantizationType.BF16 else gguf.quants.quantize(tensor, kind)


def write(weights: Weights, path: Path, dtype: str) -> None:
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
    writer.add_file_type(TYPES[dtype][0])
    writer.add_tokenizer_model("none")

    kinds = {}
    for name in weights.names:
        tensor = weights.tensor(name)
        kind = type_of(name, dtype) if tensor.ndim == 2 else gguf.GGMLQuantizationType.F32
        kinds[name] = kind
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        # The shape of raw types is given in bytes.
        row_bytes = tensor.shape[-1] // block * block_bytes
        shape = (*tensor.shape[:-1], row_bytes)
        size = row_bytes * (tensor.size // tensor.shape[-1])
        writer.add_tensor_info(gguf_name(name), shape, np.dtype(np.uint8), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name in weights.names:
        writer.write_tensor_data(stored(weights.tensor(name), kinds[name]))
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a folder of OLMo-2 weights as a GGUF file.")
    parser.add_argument("weights", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--dtype", choices=list(TYPES), required=True)
    args = parser.parse_args()
    write(Weights(args.weights), args.output, args.dtype)


if __name__ == "__main__":
    main()
