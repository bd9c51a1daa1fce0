"""Trained models out of GGUF files, widened to f32.

The files are quantised, so their weights are on a grid, and a format with the same grid would lose nothing. Uniform
noise, one step of the grid wide, moves the weights off it. The model with this noise is the reference of all figures.
It predicts text slightly worse than the file: 0.2 nats a token for SmolLM2 (Q4_1), 0.03 for Qwen (Q5_0 and wider).
"""

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import quants
from tokenizers import Tokenizer, models, pre_tokenizers

# The matrices of a layer, by their GGUF names.
ROLES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
EMBEDDING, HEAD = "token_embd.weight", "output.weight"


@dataclass
class Checkpoint:
    """Matrices and vectors by their GGUF names. The head is always a matrix of its own, as in OLMo models."""

    name: str
    tensors: dict[str, np.ndarray]
    architecture: str
    layers: int
    heads: int
    kv_heads: int
    theta: float
    epsilon: float
    tokenizer: Tokenizer

    def matrices(self) -> list[str]:
        """Names of everything that is encoded."""
        layers = [f"blk.{layer}.{role}.weight" for layer in range(self.layers) for role in ROLES]
        return [EMBEDDING, *layers, HEAD]


def load(name: str, path: Path, seed: int) -> Checkpoint:
    """The model in `path`, moved off its grid by the noise of `seed`."""
    reader = gguf.GGUFReader(path)
    rng = np.random.default_rng(seed)
    tensors = {}
    for tensor in reader.tensors:
        if tensor.tensor_type == gguf.GGMLQuantizationType.F32:
            tensors[tensor.name] = np.array(tensor.data, np.float32)
            continue
        numbers = quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        noise = rng.random(numbers.shape, np.float32) - np.float32(0.5)
        tensors[tensor.name] = numbers + noise * steps(tensor).reshape(numbers.shape)
    tensors.setdefault(HEAD, tensors[EMBEDDING])

    architecture = reader.fields["general.architecture"].contents()
    field = lambda key: reader.fields[f"{architecture}.{key}"].contents()
    return Checkpoint(
        name, tensors, architecture, field("block_count"), field("attention.head_count"),
        field("attention.head_count_kv"), field("rope.freq_base"), field("attention.layer_norm_rms_epsilon"),
        tokenizer(reader),
    )


def steps(tensor: gguf.ReaderTensor) -> np.ndarray:
    """The step of the grid at each weight of a quantised tensor."""
    kind = tensor.tensor_type
    blocks = np.asarray(tensor.data).reshape(-1, gguf.GGML_QUANT_SIZES[kind][1])
    f16 = lambda part: np.ascontiguousarray(part).view(np.float16).astype(np.float32)
    match kind.name:
        case "Q4_1" | "Q5_0" | "Q8_0":
            return np.repeat(f16(blocks[:, :2]), 32, axis=1)
        case "Q4_K":
            scales, _ = quants.Q4_K.get_scale_min(np.ascontiguousarray(blocks[:, 4:16]))
            return np.repeat(scales.astype(np.float32) * f16(blocks[:, :2]), 32, axis=1)
        case "Q6_K":
            scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
            return np.repeat(np.abs(scales) * f16(blocks[:, 208:210]), 16, axis=1)
    raise SystemExit(f"{tensor.name}: no step is known for {kind.name}")


def tokenizer(reader: gguf.GGUFReader) -> Tokenizer:
    """The byte pairs of the file, in the pieces of GPT-2, each digit on its own: close to what both models learned."""
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in reader.fields["tokenizer.ggml.merges"].contents()]
    made = Tokenizer(models.BPE(vocab={token: id for id, token in enumerate(tokens)}, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return made
