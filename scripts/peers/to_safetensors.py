#!/usr/bin/env python3
"""Write a folder of weights as a folder that transformers loads, all tensors in f32 or bf16.

    to_safetensors.py weights/ model/ --dtype bf16
"""

import argparse
import json
from pathlib import Path

import numpy as np

from weights import Weights, to_bf16, to_f32


def write(weights: Weights, folder: Path, bf16: bool) -> None:
    """Writes `config.json` and `model.safetensors`, a tensor at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    config = dict(weights.config, dtype="bfloat16" if bf16 else "float32")
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    # https://huggingface.co/docs/safetensors: length of the header, the header in JSON, the numbers.
    width = 2 if bf16 else 4
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in weights.names:
        shape = weights.tensor(name).shape
        begin, end = end, end + width * int(np.prod(shape))
        header[name] = {"dtype": "BF16" if bf16 else "F32", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in weights.names:
            tensor = weights.tensor(name)
            file.write((to_bf16(tensor) if bf16 else to_f32(tensor)).data)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a folder of weights for transformers.")
    parser.add_argument("weights", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--dtype", choices=["f32", "bf16"], required=True)
    args = parser.parse_args()
    write(Weights(args.weights), args.output, args.dtype == "bf16")


if __name__ == "__main__":
    main()
