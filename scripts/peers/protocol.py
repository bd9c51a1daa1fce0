"""The line protocol between `bench` and the programs that it compares with.

A peer is a process that loads one model, reports it with a line of JSON, and then answers one request a line with one line
of JSON each, until standard input ends. While it waits it computes nothing.

    decode CONTEXT N     N tokens of greedy decoding after CONTEXT positions   {"seconds": 1.25}
    prefill N            a prompt of N tokens, logits of the last one          {"seconds": 4.9}
    logits ID ID ...     a prompt, logits of the last one                      {"logits": [...]}

The first line describes the program: `name`, `version`, `settings`, `build`. With --first-token a peer answers
nothing: it measures, after its imports, the time from nothing to the logits of a prompt of one token, and ends.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from typing import Protocol


class Peer(Protocol):
    """What a program must be able to do."""

    vocab_size: int

    def decode(self, context: int, n: int) -> float:
        """Seconds for `n` tokens, one after the other, after `context` positions."""

    def prefill(self, tokens: list[int]) -> float:
        """Seconds from a prompt to the logits of its last token."""

    def logits(self, tokens: list[int]) -> list[float]:
        """Logits of the last token of a prompt."""

    def facts(self) -> dict:
        """Versions and settings, for the report."""


def arguments(description: str) -> argparse.Namespace:
    """The command line that all peers share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("model", help="model in the program's own format")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--positions", type=int, default=1024, help="longest sequence")
    parser.add_argument("--first-token", action="store_true", help="only measure the time to the first logits")
    return parser.parse_args()


def random_tokens(n: int, vocab_size: int) -> list[int]:
    """`n` ids without pattern, the same every time."""
    generator = random.Random(n)
    return [generator.randrange(vocab_size) for _ in range(n)]


def run(args: argparse.Namespace, load: Callable[[], Peer]) -> None:
    """Loads the model and answers until the questions end."""
    begun = time.perf_counter()
    peer = load()
    if args.first_token:
        peer.logits([1])
        say({"seconds": time.perf_counter() - begun})
        return
    say(peer.facts())
    for line in sys.stdin:
        what, *numbers = line.split()
        numbers = [int(number) for number in numbers]
        if what == "decode":
            say({"seconds": peer.decode(*numbers)})
        elif what == "prefill":
            say({"seconds": peer.prefill(random_tokens(numbers[0], peer.vocab_size))})
        elif what == "logits":
            say({"logits": peer.logits(numbers)})
        else:
            sys.exit(f"{what}: not a request")


def say(answer: dict) -> None:
    """One line of JSON on standard output."""
    print(json.dumps(answer), flush=True)
