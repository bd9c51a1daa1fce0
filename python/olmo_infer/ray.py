"""Scores a column of a Ray dataset: a corpus on many machines.

    import ray
    from olmo_infer.ray import score

    texts = ray.data.read_parquet("corpus/")
    score(texts, "model.olmo", workers=8, threads=4).write_parquet("scores/")

Each worker is an actor of Ray with a `Scorer`. Workers of one machine map the same file, so its pages are in memory
once. Ray starts a worker that ended again, and repeats the batches that it had; the numbers are the same bits wherever
and however often a row is computed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

import olmo_infer
from olmo_infer.texts import start_token, windows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import ray.data

# The columns that a scorer adds, with their types. All but `error` are null in a row with an error.
COLUMNS = {
    "sum_nll": pa.float64(),
    "n_tokens": pa.int64(),
    "n_bytes": pa.int64(),
    "n_words": pa.int64(),
    "error": pa.string(),
}


def score(
    dataset: ray.data.Dataset,
    path: str,
    *,
    column: str = "text",
    workers: int = 1,
    threads: int = 1,
    batch_size: int = 64,
    **options: Any,
) -> ray.data.Dataset:
    """`dataset` with the columns of `Scorer`: `workers` actors of `threads` cores each.

    `path` is the model file on every machine. `options` are those of `Scorer`. Nothing is computed before the dataset
    is used, as with every dataset of Ray.
    """
    return dataset.map_batches(
        Scorer,
        fn_constructor_args=(str(path),),
        fn_constructor_kwargs={"column": column, "threads": threads, **options},
        batch_format="pyarrow",
        batch_size=batch_size,
        concurrency=workers,
        num_cpus=threads,
    )


class Scorer:
    """For `Dataset.map_batches(Scorer, fn_constructor_args=("model.olmo",), batch_format="pyarrow", ...)`: a batch with
    a column of texts, or of lists of token ids, becomes the batch with more columns:

    sum_nll   sum of the negative log-likelihoods of the scored tokens, in nats
    n_tokens  number of scored tokens: every token of a text, every id after the first
    n_bytes   bytes of the text in UTF-8; null for ids
    n_words   words of the text, as lm-evaluation-harness counts them; null for ids
    error     null, or why the row has no score; a bad row costs no other row

    The perplexity per token of a corpus is `exp(sum of sum_nll / sum of n_tokens)`, likewise per byte and per word.
    """

    def __init__(
        self,
        path: str,
        *,
        column: str = "text",
        threads: int | None = 1,
        load: str = "auto",
        max_length: int | None = None,
        stride: int | None = None,
        **options: Any,
    ) -> None:
        """Opens the model file at `path`.

        max_length  most tokens that a prediction can see; longer texts go in windows; default: the model's positions
        stride      tokens that a window scores after those of the one before it; default: all of its tokens
        options     those of `olmo_infer.Model.score`: kv, activations, at_once, ...

        Raises `olmo_infer.Error` for the file, ValueError for a number that is out of range.
        """
        self.model = olmo_infer.Model(str(path), threads=threads, load=load)
        most = self.model.max_positions
        self.positions = most if max_length is None else max_length
        if not 1 <= self.positions <= most:
            raise ValueError(f"max_length={max_length} is not a number from 1 to {most}, the positions of the model")
        self.stride = self.positions if stride is None else stride
        # Refuses a bad stride before any text.
        next(windows(2, self.positions, self.stride))
        self.column = column
        self.options = options

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The batch with the columns of scores.

        Raises TypeError for a batch that is not a table of Arrow, ValueError without the column or with one of those
        that it adds, `olmo_infer.Error` if the model file changed or memory is short.
        """
        if not isinstance(batch, pa.Table):
            raise TypeError(f"a batch is a {type(batch).__name__}: give map_batches batch_format='pyarrow'")
        if self.column not in batch.column_names:
            raise ValueError(f"the dataset has no column {self.column!r}: it has {', '.join(batch.column_names)}")
        taken = [name for name in COLUMNS if name in batch.column_names]
        if taken:
            raise ValueError(f"the dataset has a column {taken[0]!r} already: rename it, scores need the name")
        rows = self.rows(batch.column(self.column).to_pylist())
        for name, kind in COLUMNS.items():
            batch = batch.append_column(name, pa.array([row.get(name) for row in rows], type=kind))
        return batch

    def rows(self, values: Sequence[str | Sequence[int] | np.ndarray | None]) -> list[dict[str, Any]]:
        """The columns of each value."""
        rows: list[dict[str, Any]] = []
        items, owners = [], []
        for index, value in enumerate(values):
            try:
                tokens, row = self._sequence(value)
            except (olmo_infer.TextError, olmo_infer.TokenError, RowError) as error:
                rows.append({"error": str(error)})
                continue
            rows.append({**row, "n_tokens": max(0, len(tokens) - 1)})
            for begin, first, end in windows(len(tokens), self.positions, self.stride):
                items.append((tokens[begin:end], first - begin))
                owners.append(index)
        of_rows: list[list[olmo_infer.Score]] = [[] for _ in rows]
        for index, score in zip(owners, self.model.score(items, **self.options), strict=True):
            of_rows[index].append(score)
        for index, scores in enumerate(of_rows):
            errors = [score.error for score in scores if score.error is not None]
            if errors:
                rows[index] = {"error": str(errors[0])}
            elif "error" not in rows[index]:
                rows[index]["sum_nll"] = summed([score.nll for score in scores])
        return rows

    def _sequence(self, value: str | Sequence[int] | np.ndarray | None) -> tuple[list[int], dict[str, int]]:
        """The tokens of a value, of which all after the first are scored, and its extent."""
        if isinstance(value, str):
            start = start_token(self.model)
            if start is None:
                raise RowError("the model has no <|endoftext|> and no EOS id to begin a text")
            tokens = [start, *(int(token) for token in self.model.tokenize(value))]
            return tokens, {"n_bytes": len(value.encode()), "n_words": len(re.split(r"\s+", value))}
        # A column of tensors, as `ray.data.from_numpy` makes it.
        if isinstance(value, np.ndarray) and value.ndim == 1:
            value = value.tolist()
        if isinstance(value, list) and value and all(type(token) is int for token in value):
            size = self.model.vocab_size
            outside = next((index for index, token in enumerate(value) if not 0 <= token < size), None)
            if outside is not None:
                raise RowError(f"token {outside} is {value[outside]}, the vocabulary has ids 0 to {size - 1}")
            return value, {}
        is_empty = isinstance(value, list) and not value
        found = "null" if value is None else "an empty list" if is_empty else f"a {type(value).__name__}"
        raise RowError(f"the row has {found}, expected a text or token ids")


def summed(parts: list[np.ndarray]) -> float:
    """The sum of numbers one after the other, as `olmo-infer score` adds them: `sum` and `numpy.sum` round otherwise."""
    return float(np.cumsum(np.concatenate(parts))[-1]) if any(map(len, parts)) else 0.0


class RowError(ValueError):
    """Why a row has no score."""
