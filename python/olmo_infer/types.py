"""Types of arguments, for annotations."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Ids: TypeAlias = Sequence[int] | npt.NDArray[np.integer[Any]]
"""Token ids: a list, or an array of integers of one dimension."""

Item: TypeAlias = Ids | tuple[Ids, int]
"""Ids to score, all after the first; or ids and the index of the first one that is scored, at least 1."""

Kv: TypeAlias = Literal["f32", "bf16"]
"""What keys and values are stored as."""

Activations: TypeAlias = Literal["auto", "int16", "int8", "f32"]
"""What weights of 8 and 4 bits are multiplied with."""
