#!/usr/bin/env python3
"""Make tests/tokenizers/pairs.jsonl: texts with continuations, and their ids by EleutherAI's harness.

Written with Python 3.11, lm-eval 0.4.13 and tokenizers 0.23.3:

    python3 -m venv /tmp/venv-pairs
    /tmp/venv-pairs/bin/pip install lm-eval==0.4.13 tokenizers==0.23.3
    /tmp/venv-pairs/bin/python scripts/make_pair_goldens.py

The texts are those of tests/tokenizers/texts.jsonl, cut in two at random places, many of them next to white space. Each
line has the two parts and, for both small tokenizers, the ids of the context and of the continuation. The splitting is
the harness's own.
"""

import json
import random
from pathlib import Path

from lm_eval.api.model import TemplateLM
from tokenizers import Tokenizer

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "tokenizers"
NAMES = ["small-dolma2", "small-gpt2"]
N_PAIRS = 1_500


class Splitter(TemplateLM):
    """The harness's own way to split a pair, with a tokenizer of this project."""

    eot_token_id = 0

    def __init__(self, name):
        super().__init__()
        self.encoder = Tokenizer.from_file(str(FOLDER / name / "tokenizer.json"))

    def tok_encode(self, string, add_special_tokens=None, **kwargs):
        return self.encoder.encode(string, add_special_tokens=False).ids

    def _loglikelihood_tokens(self, requests, **kwargs):
        raise NotImplementedError

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        raise NotImplementedError

    def generate_until(self, requests, disable_tqdm=False):
        raise NotImplementedError


def cut(rng, text):
    """A text in two parts, of which the first has something other than white space."""
    spaces = [i for i, c in enumerate(text) if c.isspace()]
    at = rng.choice(spaces) + rng.randrange(2) if spaces and rng.random() < 0.6 else rng.randrange(1, len(text))
    context, continuation = text[:at], text[at:]
    if rng.random() < 0.3:
        context += rng.choice([" ", "  ", "\n", "\t", "\u00a0", "\x1c", "\x85", "\u200b"])
    return (context, continuation) if context.strip() and continuation else None


def main():
    rng = random.Random(19)
    texts = [json.loads(line) for line in (FOLDER / "texts.jsonl").read_text().split("\n") if line]
    texts = [text for text in texts if 1 < len(text) < 200]
    splitters = [Splitter(name) for name in NAMES]
    with open(FOLDER / "pairs.jsonl", "w") as out:
        n = 0
        while n < N_PAIRS:
            pair = cut(rng, rng.choice(texts))
            if pair is None:
                continue
            ids = [splitter._encode_pair(*pair) for splitter in splitters]
            out.write(json.dumps([*pair, *ids], separators=(",", ":")) + "\n")
            n += 1


if __name__ == "__main__":
    main()
