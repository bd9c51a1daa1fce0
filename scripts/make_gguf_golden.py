#!/usr/bin/env python3
"""Write tests/golden-gguf: a small OLMo-2 by the Python package gguf, and the numbers that it reads in it.

    python3 -m venv venv && venv/bin/pip install gguf==0.19.0 numpy==2.2.6 xxhash==3.5.0
    venv/bin/python scripts/make_gguf_golden.py

The tests read the file, and write the same bytes with their own writer. Each block type occurs, with random codes.
"""

import json
from pathlib import Path

import gguf
import numpy as np
import xxhash
from gguf import GGMLQuantizationType as Type

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "golden-gguf"
HIDDEN, HEADS, HEAD_DIM, FEED_FORWARD, ROWS = 256, 2, 16, 32, 40
#: Shape and type of each tensor, in the order of the file.
TENSORS = {
    "token_embd.weight": ([ROWS, HIDDEN], Type.Q8_0),
    "blk.0.attn_q.weight": ([HEADS * HEAD_DIM, HIDDEN], Type.Q4_0),
    "blk.0.attn_k.weight": ([HEAD_DIM, HIDDEN], Type.IQ4_NL),
    "blk.0.attn_v.weight": ([HEAD_DIM, HIDDEN], Type.F16),
    "blk.0.attn_q_norm.weight": ([HEADS * HEAD_DIM], Type.F32),
    "blk.0.attn_k_norm.weight": ([HEAD_DIM], Type.F32),
    "blk.0.attn_output.weight": ([HIDDEN, HEADS * HEAD_DIM], Type.Q4_0),
    "blk.0.post_attention_norm.weight": ([HIDDEN], Type.F32),
    "blk.0.ffn_gate.weight": ([FEED_FORWARD, HIDDEN], Type.Q8_0),
    "blk.0.ffn_up.weight": ([FEED_FORWARD, HIDDEN], Type.BF16),
    "blk.0.ffn_down.weight": ([HIDDEN, FEED_FORWARD], Type.IQ4_NL),
    "blk.0.post_ffw_norm.weight": ([HIDDEN], Type.F32),
    "output_norm.weight": ([HIDDEN], Type.F32),
    "output.weight": ([ROWS, HIDDEN], Type.Q6_K),
}


def data_of(shape: list[int], kind: Type, random: np.random.Generator) -> np.ndarray:
    """Random data, a row of bytes for each row; a scale is an f16 from 2^-9 to 2^-8."""
    numbers = random.uniform(-1, 1, shape).astype(np.float32)
    if kind == Type.F32:
        return numbers
    if kind == Type.F16:
        return numbers.astype(np.float16)
    if kind == Type.BF16:
        return (numbers.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (shape[0], shape[1] // elements, size), dtype=np.uint8)
    scales = random.integers(0x1800, 0x1C00, blocks.shape[:2], dtype=np.uint16)
    place = slice(208, 210) if kind == Type.Q6_K else slice(0, 2)
    blocks[:, :, place] = scales[..., None].view(np.uint8)
    return blocks.reshape(shape[0], -1)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / "model.gguf"
    writer = gguf.GGUFWriter(path, "olmo2")
    writer.add_name("A small OLMo-2")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(500000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("dbrx")
    writer.add_token_list(["a", "b", "ab", "<|endoftext|>"] + [f"[PAD{i}]" for i in range(4, ROWS)])
    writer.add_token_types([1, 1, 1, 3] + [5] * (ROWS - 4))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(3)
    writer.add_add_bos_token(False)
    random = np.random.default_rng(1)
    expected = {}
    for name, (shape, kind) in TENSORS.items():
        data = data_of(shape, kind, random)
        raw = None if kind in (Type.F32, Type.F16) else kind
        writer.add_tensor(name, data, raw_dtype=raw)
        numbers = gguf.quants.dequantize(data, kind).astype("<f4").reshape(shape)
        expected[name] = {
            "type": kind.name,
            "shape": shape,
            "xxh3": f"{xxhash.xxh3_64_intdigest(numbers.tobytes()):016x}",
            "first": [float(number) for number in numbers.flat[:4]],
        }
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (FOLDER / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
