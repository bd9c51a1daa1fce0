#!/usr/bin/env python3
"""Join the shards of a scored corpus, in the order of its items, and check that no item is missing or double.

    scripts/join_scores.py scores.jsonl scores/ --shards 16 --inputs corpus/*.jsonl.gz

The shards are the files scores.K.jsonl in the folder, which `olmo-infer score --shard K/N --output` wrote, as
scripts/slurm/score.sbatch calls it. The inputs are the files that were scored, named as they were then: the script
reads them again and compares every line with the item that belongs there. The output appears whole or not at all.

Exit status: 0 when every item has a score, 1 when some items in the output have an error, 2 when nothing was written: a
shard is unfinished, or an item is missing, double or another one than expected.

Needs only Python.
"""

import argparse
import gzip
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

JSON_LINES = (".jsonl", ".json", ".ndjson")
# What `olmo-infer score` takes for an empty line.
BLANK = b" \t\r\n\x0c"
MARK = b"\xef\xbb\xbf"

# A file, and a line in it or None.
Item = tuple[str, int | None]


class JoinError(Exception):
    """Why the shards cannot be joined."""


def items_of(inputs: list[str], kind: str | None) -> Iterator[tuple[int, Item]]:
    """The items of the files with their numbers, in order: each line that is not blank of JSON lines, other files as a
    whole. The number is that of the file plus that in the file. A file that is named again is the same file."""
    for number, path in enumerate(dict.fromkeys(inputs)):
        name = path.lower().removesuffix(".gz")
        if kind != "jsonl" and (kind is not None or not name.endswith(JSON_LINES)):
            yield number, (path, None)
            continue
        with open(path, "rb") as raw:
            is_gzip = raw.read(2) == b"\x1f\x8b"
        with (gzip.open if is_gzip else open)(path, "rb") as file:
            for line_number, line in enumerate(file, 1):
                if line_number == 1:
                    line = line.removeprefix(MARK)
                if line.strip(BLANK):
                    yield number, (path, line_number)
                    number += 1


class Shard:
    """The lines of a shard."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise JoinError(f"{path} is missing: run its shard")
        self.path = path
        self.file = path.open("rb")
        self.number = 0

    def next(self) -> tuple[bytes, dict] | None:
        """The next line, and what it has; None at the end."""
        line = self.file.readline()
        if not line:
            return None
        self.number += 1
        where = f"line {self.number} of {self.path}"
        if not line.endswith(b"\n"):
            raise JoinError(f"{where} is unfinished: run the shard again, it continues there")
        try:
            found = json.loads(line)
        except ValueError:
            raise JoinError(f"{where} is not JSON: it is not the output of olmo-infer score") from None
        if not isinstance(found, dict) or "file" not in found or ("error" in found) == ("sum_nll" in found):
            raise JoinError(f"{where} is not a score: it is not the output of olmo-infer score")
        return line, found


def shown(item: Item) -> str:
    path, line = item
    return path if line is None else f"line {line} of {path}"


def join(output: Path, folder: Path, n_shards: int, inputs: list[str], kind: str | None) -> dict[str, float]:
    """Writes the joined lines, and returns sums over them."""
    shards = [Shard(folder / f"scores.{index}.jsonl") for index in range(n_shards)]
    beyond = [path for path in folder.glob("scores.*.jsonl") if path not in {shard.path for shard in shards}]
    if beyond:
        raise JoinError(f"{beyond[0]} is not one of {n_shards} shards: give their number, or another folder")
    sums = {"items": 0, "errors": 0, "scored": 0, "sum_nll": 0.0}
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as out:
            for number, item in items_of(inputs, kind):
                shard = shards[number % n_shards]
                next_line = shard.next()
                if next_line is None:
                    raise JoinError(f"{shown(item)} is missing: {shard.path} ends before it; run the shard again")
                line, found = next_line
                if (found["file"], found.get("line")) != item:
                    other = shown((found["file"], found.get("line")))
                    raise JoinError(
                        f"line {shard.number} of {shard.path} is of {other}, expected {shown(item)}: "
                        "name the inputs as the shards did, in that order"
                    )
                out.write(line)
                sums["items"] += 1
                sums["errors"] += "error" in found
                sums["scored"] += found.get("scored", 0)
                # The program writes null for a sum that is not finite.
                sums["sum_nll"] += math.nan if found.get("sum_nll", 0.0) is None else found.get("sum_nll", 0.0)
            for shard in shards:
                if shard.next() is not None:
                    raise JoinError(f"line {shard.number} of {shard.path} is of no input: name all that were scored")
            out.flush()
            os.fsync(out.fileno())
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
        for shard in shards:
            shard.file.close()
    return sums


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="the joined lines, a new file")
    parser.add_argument("folder", type=Path, help="the folder of the shards, scores.0.jsonl and on")
    parser.add_argument("--shards", type=int, required=True, help="their number")
    parser.add_argument("--inputs", nargs="+", required=True, help="the files that were scored, in the same order")
    parser.add_argument(
        "--format", choices=["text", "jsonl", "tokens"], help="what the files are, as for olmo-infer score"
    )
    arguments = parser.parse_args()
    if arguments.shards < 1:
        parser.error("--shards is not a number of shards")
    if arguments.output.exists():
        parser.error(f"{arguments.output} exists: name a new file")
    try:
        sums = join(arguments.output, arguments.folder, arguments.shards, arguments.inputs, arguments.format)
    except (JoinError, OSError, EOFError) as error:
        print(f"join_scores.py: {error}", file=sys.stderr)
        return 2
    mean = sums["sum_nll"] / sums["scored"] if sums["scored"] else math.nan
    print(
        f"{sums['items']} items, {sums['errors']} with an error, {sums['scored']} tokens scored, "
        f"{mean:.6g} nats per token",
        file=sys.stderr,
    )
    return 1 if sums["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
