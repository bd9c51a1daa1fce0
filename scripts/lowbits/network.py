"""The forward pass in f32, with any matrices and any rounding of the activations that enter them."""

import math

import numpy as np
import torch

from lowbits.models import EMBEDDING, HEAD, Checkpoint

Matrices = dict[str, np.ndarray]


def product(rows: torch.Tensor, matrix: np.ndarray) -> torch.Tensor:
    """rows @ matrix.T by numpy, which is faster than torch on some processors."""
    flat = rows.reshape(-1, rows.shape[-1]).numpy()
    return torch.from_numpy(flat @ matrix.T).view(*rows.shape[:-1], matrix.shape[0])


class Network:
    """A model of the Llama or Qwen2 architecture, as GGUF stores it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.head_width = checkpoint.tensors["blk.0.attn_q.weight"].shape[0] // checkpoint.heads

    @torch.no_grad()
    def logits(self, ids: torch.Tensor, matrices: Matrices | None = None, rounding=None) -> torch.Tensor:
        """The logits at each position of `ids` [texts, positions].

        `matrices` are used instead of those of the checkpoint; `rounding` maps the name of a matrix to a function of
        its input rows.
        """
        of, tensors = self.checkpoint, self.checkpoint.tensors
        matrices = matrices or {}
        texts, positions = ids.shape

        def multiply(rows, name):
            if rounding is not None:
                rows = rounding(name)(rows)
            return product(rows, matrices.get(name, tensors[name]))

        def linear(rows, name):
            result = multiply(rows, f"{name}.weight")
            bias = tensors.get(f"{name}.bias")
            return result if bias is None else result + torch.from_numpy(bias)

        def norm(rows, name):
            mean = rows.pow(2).mean(-1, keepdim=True)
            return rows * torch.rsqrt(mean + of.epsilon) * torch.from_numpy(tensors[f"{name}.weight"])

        def split(rows, heads):
            return rows.view(texts, positions, heads, self.head_width).transpose(1, 2)

        rotate = self.rotation(positions)
        hidden_later = torch.full((positions, positions), -math.inf).triu(1)
        rows = torch.from_numpy(matrices.get(EMBEDDING, tensors[EMBEDDING])[ids.numpy()])
        for layer in range(of.layers):
            block = f"blk.{layer}"
            normed = norm(rows, f"{block}.attn_norm")
            queries = rotate(split(linear(normed, f"{block}.attn_q"), of.heads))
            keys = rotate(split(linear(normed, f"{block}.attn_k"), of.kv_heads))
            values = split(linear(normed, f"{block}.attn_v"), of.kv_heads)
            shared = of.heads // of.kv_heads
            keys, values = keys.repeat_interleave(shared, 1), values.repeat_interleave(shared, 1)
            weights = torch.softmax(queries @ keys.transpose(2, 3) / math.sqrt(self.head_width) + hidden_later, -1)
            mixed = (weights @ values).transpose(1, 2).reshape(texts, positions, -1)
            rows = rows + linear(mixed, f"{block}.attn_output")
            normed = norm(rows, f"{block}.ffn_norm")
            gate, up = linear(normed, f"{block}.ffn_gate"), linear(normed, f"{block}.ffn_up")
            rows = rows + linear(torch.nn.functional.silu(gate) * up, f"{block}.ffn_down")
        return multiply(norm(rows, "output_norm"), HEAD)

    def rotation(self, positions: int):
        """The rotation of queries and keys. GGUF files of Llama have the two halves of a pair next to each other."""
        half = self.head_width // 2
        speeds = self.checkpoint.theta ** (-torch.arange(half).float() / half)
        angles = torch.arange(positions).float()[:, None] * speeds
        cosine, sine = angles.cos(), angles.sin()
        paired = self.checkpoint.architecture == "llama"

        def rotate(rows):
            first, second = (rows[..., 0::2], rows[..., 1::2]) if paired else (rows[..., :half], rows[..., half:])
            turned = first * cosine - second * sine, second * cosine + first * sine
            return torch.stack(turned, -1).flatten(-2) if paired else torch.cat(turned, -1)

        return rotate
