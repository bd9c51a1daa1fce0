"""Roundings of the rows that enter a matrix product, each as the numbers that the integers denote."""

import torch


def exact(rows: torch.Tensor) -> torch.Tensor:
    """Unchanged."""
    return rows


def i16(rows: torch.Tensor) -> torch.Tensor:
    """16-bit integers with a scale for each 32 columns."""
    blocks = rows.unflatten(-1, (-1, 32))
    largest = blocks.abs().amax(-1, keepdim=True)
    integers = torch.round(blocks * (32512 / largest.clamp_min(1e-30)))
    return (integers * (largest / 32512)).flatten(-2)


def i8(rows: torch.Tensor, block: int = 32, f16_scale: bool = False) -> torch.Tensor:
    """8-bit integers with a scale for each `block` columns."""
    blocks = rows.unflatten(-1, (-1, block))
    largest = blocks.abs().amax(-1, keepdim=True)
    integers = torch.round(blocks * (127 / largest.clamp_min(1e-30)))
    scales = largest / 127
    return (integers * (scales.half().float() if f16_scale else scales)).flatten(-2)


def q8_0(rows: torch.Tensor) -> torch.Tensor:
    """What llama.cpp multiplies its 32-column types with."""
    return i8(rows, 32, f16_scale=True)


def q8_k(rows: torch.Tensor) -> torch.Tensor:
    """What llama.cpp multiplies its K types with; the last block of a row is shorter if the width requires it."""
    whole = rows.shape[-1] // 256 * 256
    parts = [i8(rows[..., :whole], 256)] if whole else []
    if whole < rows.shape[-1]:
        parts.append(i8(rows[..., whole:].contiguous(), rows.shape[-1] - whole))
    return torch.cat(parts, -1)
