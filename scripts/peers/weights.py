"""A folder of `.npy` weights, as olmo-pack reads it."""

import json
from pathlib import Path

import numpy as np


class Weights:
    """The configuration and the float32 tensors of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = json.loads((folder / "config.json").read_text())
        self.names = sorted(path.stem for path in folder.glob("*.npy"))

    def tensor(self, name: str) -> np.ndarray:
        """One tensor, mapped."""
        tensor = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        if tensor.dtype != np.float32:
            raise SystemExit(f"{name}.npy: {tensor.dtype}, only folders of float32 are converted")
        return tensor


def to_bf16(tensor: np.ndarray) -> np.ndarray:
    """The nearest bf16 numbers, ties to even, as raw 16-bit numbers. For finite numbers."""
    bits = tensor.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
