#!/usr/bin/env python3
"""Write a folder of OLMo-2 or OLMoE weights as a GGUF file for llama.cpp. Norms and routers are f32.

A q4_0 file has its embedding and its head in q8_0, as ours of 4 bits has them in int8.

    to_gguf.py weights/ model.gguf --dtype bf16

Rows stay in the order of the checkpoint: llama.cpp rotates the halves of a head for this architecture, as transformers
does. The file has no tokenizer. `bench` compares the logits of both programs before it measures.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import gguf
import numpy as np

from weights import Weights, to_bf16, to_f32

# Names of the checkpoint -> GGUF.
MODEL = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
LAYER = {
    "input_layernorm": "attn_norm",
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


# The experts of a layer are one tensor there.
EXPERTS = {"gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps"}


def gguf_name(name: str, architecture: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` -> `blk.3.ffn_up.weight`."""
    stem = name.removesuffix(".weight")
    if stem in MODEL:
        return f"{MODEL[stem]}.weight"
    _, _, layer, part = stem.split(".", 3)
    if architecture == "olmoe":
        # The norm before the experts is not the one after attention that OLMo-2 has under this name.
        other = {"post_attention_layernorm": "ffn_norm", "mlp.gate": "ffn_gate_inp"}
        return f"blk.{layer}.{other.get(part) or LAYER[part]}.weight"
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
        return to_f32(tensor)
    return to_bf16(tensor) if kind == gguf.GGMLQuantizationType.BF16 else gguf.quants.quantize(to_f32(tensor), kind)


def tensors(weights: Weights, dtype: str) -> Iterator[tuple[str, gguf.GGMLQuantizationType, Callable[[], np.ndarray]]]:
    """The name in the file, the type and the numbers of each tensor."""
    architecture = weights.config["model_type"]
    for name in weights.names:
        if ".experts." in name:
            continue
        load = partial(weights.tensor, name)
        is_matrix = load().ndim == 2 and not name.endswith("mlp.gate.weight")
        kind = type_of(name, dtype) if is_matrix else gguf.GGMLQuantizationType.F32
        yield gguf_name(name, architecture), kind, load
    if architecture == "olmoe":
        for layer in range(weights.config["num_hidden_layers"]):
            for part, name in EXPERTS.items():
                yield f"blk.{layer}.{name}.weight", TYPES[dtype][1], partial(weights.experts, layer, part)


def write(weights: Weights, path: Path, dtype: str) -> None:
    """Writes the file, a tensor at a time."""
    config = weights.config
    architecture = config["model_type"]
    if architecture not in ("olmo2", "olmoe"):
        raise SystemExit(f"{weights.folder}: {architecture}, only olmo2 and olmoe are converted")
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    if architecture == "olmoe":
        writer.add_expert_count(config["num_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_file_type(TYPES[dtype][0])
    writer.add_tokenizer_model("none")

    for name, kind, load in tensors(weights, dtype):
        tensor = load()
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        # The shape of raw types is given in bytes.
        row_bytes = tensor.shape[-1] // block * block_bytes
        size = tensor.size // tensor.shape[-1] * row_bytes
        writer.add_tensor_info(name, (*tensor.shape[:-1], row_bytes), np.dtype(np.uint8), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, kind, load in tensors(weights, dtype):
        writer.write_tensor_data(stored(load(), kind))
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a folder of OLMo-2 or OLMoE weights as a GGUF file.")
    parser.add_argument("weights", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--dtype", choices=list(TYPES), required=True)
    args = parser.parse_args()
    write(Weights(args.weights), args.output, args.dtype)


if __name__ == "__main__":
    main()
