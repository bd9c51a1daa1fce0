"""The texts that figures are measured on: a novel, a manual and a program."""

import argparse
import hashlib
import inspect
from pathlib import Path
from pydoc_data.topics import topics

NOVEL = Path(__file__).with_name("emma.txt")


def measured() -> dict[str, str]:
    """Jane Austen's Emma, in part (public domain), and two texts that every Python contains."""
    manual = "\n\n".join(topics[name] for name in sorted(topics))
    return {"novel": NOVEL.read_text(), "manual": manual[100_000:], "program": inspect.getsource(argparse)}


def digest(ids: list[int]) -> str:
    """A few digits that change when a text does: manual and program depend on the version of Python."""
    return hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()[:12]
