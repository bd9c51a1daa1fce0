"""Texts as sequences to score, as `olmo-infer score` and EleutherAI's evaluation harness make them."""

from __future__ import annotations

from collections.abc import Iterator

from olmo_infer import Model

# The token between documents in the training of OLMo models.
END_OF_TEXT = "<|endoftext|>"


def start_token(model: Model) -> int | None:
    """The token that a text follows when nothing else precedes it: `<|endoftext|>`, or the first EOS id of a model
    without one; `None` for a model without either.

    Raises `TextError` for a model without a tokenizer.
    """
    ids = model.tokenize(END_OF_TEXT)
    if len(ids) == 1:
        return int(ids[0])
    end = list(model.eos_ids)
    return int(end[0]) if end else None


def windows(n: int, positions: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """The windows of a sequence of `n` tokens, of which all after the first are scored: begin, first scored, end.

    A window evaluates at most `positions` tokens. The first scores all it can, each of the others the next `stride`.
    The last one reaches as far back as it can.

    Raises ValueError for a stride that is not from 1 to `positions`.
    """
    if not 1 <= stride <= positions:
        raise ValueError(f"stride={stride} is not a number from 1 to {positions}, the tokens of a window")
    first = 1
    while first < n:
        end = min(first + (positions if first == 1 else stride), n)
        yield max(0, end - positions - 1), first, end
        first = end
