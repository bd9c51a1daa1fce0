"""A folder of `.npy` weights, as olmo-pack reads it."""

import json
from pathlib import Path

import numpy as np


class Weights:
    """The configuration and the tensors of a folder, float32 or bf16."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = json.loads((folder / "config.json").read_text())
        self.names = sorted(path.stem for path in folder.glob("*.npy"))

    def tensor(self, name: str) -> np.ndarray:
        """One tensor, mapped: float32 numbers, or the raw 16-bit numbers of bf16."""
        tensor = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        if self.config["dtype"] == "bfloat16" and tensor.dtype.itemsize == 2:
            return tensor.view(np.uint16)
        if tensor.dtype != np.float32:
            raise SystemExit(f"{name}.npy: {tensor.dtype}, only folders of float32 or bf16 are converted")
        return tensor

    def experts(self, layer: int, part: str) -> np.ndarray:
        """All experts of a layer in one tensor, `[experts, rows, columns]`."""
        names = (f"model.layers.{layer}.mlp.experts.{e}.{part}.weight" for e in range(self.config["num_experts"]))
        return np.stack([self.tensor(name) for name in names])


def to_f32(tensor: np.ndarray) -> np.ndarray:
    """The numbers of a tensor as float32."""
    if tensor.dtype == np.uint16:
        return (tensor.astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(tensor)


def to_bf16(tensor: np.ndarray) -> np.ndarray:
    """The nearest bf16 numbers, ties to even, as raw 16-bit numbers. For finite numbers."""
    if tensor.dtype == np.uint16:
        return np.ascontiguousarray(tensor)
    bits = tensor.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
