"""Runs and evaluates OLMo models on CPUs from a memory-mapped `.olmo` file, with the same bits every time.

    >>> model = olmo_infer.Model("model.olmo")
    >>> print("".join(model.generate("Four score and", max_tokens=20)))
    >>> [score.sum_nll for score in model.score([model.tokenize("Four score and seven years ago")])]
"""

from olmo_infer._native import Generation, Model, Score, Session, __version__
from olmo_infer.errors import (
    ChangedError,
    ContextError,
    DamagedError,
    Error,
    FileError,
    MessagesError,
    NotFiniteError,
    NotRun,
    OutOfMemory,
    SamplingError,
    SavedSessionError,
    TextError,
    TokenError,
)

__all__ = [
    "ChangedError",
    "ContextError",
    "DamagedError",
    "Error",
    "FileError",
    "Generation",
    "MessagesError",
    "Model",
    "NotFiniteError",
    "NotRun",
    "OutOfMemory",
    "SamplingError",
    "SavedSessionError",
    "Score",
    "Session",
    "TextError",
    "TokenError",
    "__version__",
]
