"""llama.cpp's types, by its own quantisers, and its choice of a type for each tensor."""

import ctypes
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from gguf import quants

from lowbits import activations
from lowbits.models import EMBEDDING, HEAD

LIBRARY = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
LIBRARY.ggml_quantize_chunk.restype = ctypes.c_size_t
LIBRARY.ggml_quantize_chunk.argtypes = [
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
]


def through(kind: str, matrix: np.ndarray) -> tuple[np.ndarray, int]:
    """The numbers that the quantised matrix denotes, and its bytes.

    A K type needs rows of a multiple of 256 columns. OLMo's have that, the rows measured here do not, so the blocks of
    such a type run across the ends of rows. llama.cpp would take a wider type instead.
    """
    type_ = gguf.GGMLQuantizationType[kind]
    block, block_bytes = gguf.GGML_QUANT_SIZES[type_]
    source = np.ascontiguousarray(matrix, np.float32)
    columns = matrix.shape[1] if matrix.shape[1] % block == 0 else block
    rows = matrix.size // columns
    target = np.empty((rows, columns // block * block_bytes), np.uint8)
    LIBRARY.ggml_quantize_init(int(type_))
    LIBRARY.ggml_quantize_chunk(int(type_), source.ctypes.data, target.ctypes.data, 0, rows, columns, None)
    return quants.dequantize(target, type_).astype(np.float32).reshape(matrix.shape), target.nbytes


def kind_of(grade: str, name: str, layers: int, queries_per_key: int) -> str:
    """The type that llama.cpp 0.3.36's `quantize` chooses for a tensor without an importance matrix."""
    if grade == "Q8_0":
        return "Q8_0"
    base = {"Q4_0": "Q4_0", "IQ4_NL": "IQ4_NL", "Q4_K_M": "Q4_K"}[grade]
    if name == HEAD:
        return "Q6_K"
    if name == EMBEDDING:
        return base
    layer = int(name.split(".")[1])
    eighth = layers // 8
    wider = layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
    if grade == "Q4_K_M" and ("attn_v" in name or "ffn_down" in name) and wider:
        return "Q6_K"
    if grade == "IQ4_NL" and ("attn_v" in name and queries_per_key >= 4 or "ffn_down" in name and layer < eighth):
        return "Q5_K"
    return base


def rounding_of(kind: str):
    """How llama.cpp rounds what it multiplies a matrix of this type with."""
    return activations.q8_k if kind.endswith("_K") else activations.q8_0
