#!/usr/bin/env python3
"""Join the shards of a scored corpus, in the order of its items, and check that no item is missing or double.

    scripts/join_scores.py scores.jsonl scores/ --shards 16 --inputs corpus/*.jsonl.gz

The shards are the files scores.K.jsonl in the folder, which `olmo-infer score --shard K/N --output` wrote, as
scripts/slurm/score.sbatch calls it. The inputs are the files that were scored, named as they were then: the script
reads them again and looks for the line of each item. The output appears whole or not at all. A file of JSON lines that
neither the shards nor this script can read to its end has one error line, after its last item.

Exit status: 0 when every item has a score, 1 when some items in the output have an error, 2 when nothing was written: a
shard is unfinished, could not read a file that this script reads, or an item is missing, double or of no input.

Needs only Python.
"""

import argparse
import gzip
import json
import math
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

JSON_LINES = (".jsonl", ".json", ".ndjson")
# What `olmo-infer score` takes for an empty line.
BLANK = b" \t\r\n\x0c"
MARK = b"\xef\xbb\xbf"
# Longest line that it reads.
MAX_LINE_BYTES = 64 << 20

# The types of `line`, `scored` and `sum_nll`.
NUMBERS = [(int, type(None)), (int,), (int, float, type(None))]

# A file, and a line in it or None.
Item = tuple[str, int | None]


class JoinError(Exception):
    """Why the shards cannot be joined."""


class UnreadableError(Exception):
    """Why the rest of a file of JSON lines cannot be read."""


def same_path(path: str) -> tuple[str, ...]:
    """Equal for paths that `olmo-infer score` takes as one: `a//b`, `a/./b` and `a/b/` are `a/b`, `./a` is not `a`."""
    parts = path.split("/")
    kept = (part for index, part in enumerate(parts) if part and (part != "." or index == 0))
    return ("/" if path.startswith("/") else "", *kept)


def is_json_lines(path: str, kind: str | None) -> bool:
    return kind == "jsonl" or (kind is None and path.lower().removesuffix(".gz").endswith(JSON_LINES))


def lines_of(path: str) -> Iterator[int]:
    """The lines with an item of a file of JSON lines. Raises UnreadableError where `olmo-infer score` ends with an
    error, after the lines before."""
    try:
        with open(path, "rb") as raw:
            begin = raw.read(2)
        if not begin and path.lower().endswith(".gz"):
            raise UnreadableError("0 bytes, expected a gzip file")
        with (gzip.open if begin == b"\x1f\x8b" else open)(path, "rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise UnreadableError(f"line {number} has more than 64 MiB")
                if number == 1:
                    line = line.removeprefix(MARK)
                if line.strip(BLANK):
                    yield number
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableError(str(error)) from error


class Line(NamedTuple):
    """A line of a shard."""

    number: int
    item: Item
    text: bytes
    found: dict


class Shard:
    """The lines of a shard. They are read one after the other; those of a run that added items of earlier files are
    found by an index."""

    def __init__(self, index: int, path: Path, kind: str | None) -> None:
        if not path.is_file():
            raise JoinError(f"{path} is missing: run its shard")
        self.index = index
        self.path = path
        self.kind = kind
        self.file = path.open("rb")
        self.n_read = 0
        # The place and the number of each line that was not taken, once a later one was needed first.
        self.later: dict[Item, tuple[int, int]] | None = None
        # The lines of files of JSON lines that could not be read.
        self.faults: dict[str, Line] = {}
        # The line after those that were taken.
        self.ahead = self.read()

    def read(self) -> Line | None:
        """The next line of an item; None at the end."""
        while text := self.file.readline():
            self.n_read += 1
            line = self.parsed(text, self.n_read)
            path = line.item[0]
            # Only what cannot be read has no digest.
            if "error" not in line.found or "digest" in line.found or not is_json_lines(path, self.kind):
                return line
            self.faults.setdefault(path, line)
        return None

    def parsed(self, text: bytes, number: int) -> Line:
        where = f"line {number} of {self.path}"
        if not text.endswith(b"\n"):
            raise JoinError(f"{where} is unfinished: run the shard again, it continues there")
        try:
            found = json.loads(text)
        except ValueError:
            raise JoinError(f"{where} is not JSON: it is not the output of olmo-infer score") from None
        if not isinstance(found, dict) or not isinstance(found.get("file"), str):
            raise JoinError(f"{where} is not a score: it is not the output of olmo-infer score")
        numbers = [found.get("line"), found.get("scored", 0), found.get("sum_nll")]
        are_numbers = all(type(number) in kinds for number, kinds in zip(numbers, NUMBERS, strict=True))
        if not are_numbers or ("error" in found) == ("sum_nll" in found):
            raise JoinError(f"{where} is not a score: it is not the output of olmo-infer score")
        return Line(number, (found["file"], found.get("line")), text, found)

    def take(self, item: Item) -> Line | None:
        """The line of an item; None without one, when all lines of the shard were read."""
        if self.later is None:
            line = self.ahead
            if line is not None and line.item == item:
                self.ahead = self.read()
                return line
            self.seek_all()
        if item not in self.later:
            return None
        place, number = self.later.pop(item)
        self.file.seek(place)
        return self.parsed(self.file.readline(), number)

    def seek_all(self) -> None:
        """Notes the places of the lines that were not taken."""
        if self.later is not None:
            return
        self.later = {}
        line = self.ahead
        while line is not None:
            if line.item in self.later:
                raise JoinError(f"line {line.number} of {self.path} is of {shown(line.item)}, which is double")
            self.later[line.item] = self.file.tell() - len(line.text), line.number
            line = self.read()

    def rest_of(self, path: str) -> list[Line]:
        """The lines of a file of JSON lines that were not taken."""
        self.seek_all()
        return [self.take(item) for item in [item for item in self.later if item[0] == path]]

    def first_left(self) -> tuple[int, Item] | None:
        """The first line that was not taken."""
        self.seek_all()
        return min(((number, item) for item, (_, number) in self.later.items()), default=None)


def shown(item: Item) -> str:
    path, line = item
    return path if line is None else f"line {line} of {path}"


class Join:
    """The joined lines of shards."""

    def __init__(self, shards: list[Shard], out: BinaryIO) -> None:
        self.shards = shards
        self.out = out
        self.sums = {"items": 0, "errors": 0, "scored": 0, "sum_nll": 0.0}

    def add(self, line: Line) -> None:
        self.out.write(line.text)
        self.sums["items"] += 1
        self.sums["errors"] += "error" in line.found
        self.sums["scored"] += line.found.get("scored", 0)
        # The program writes null for a sum that is not finite.
        nats = line.found.get("sum_nll", 0.0)
        self.sums["sum_nll"] += math.nan if nats is None else nats

    def of(self, number: int) -> Shard:
        """The shard of an item."""
        return self.shards[number % len(self.shards)]

    def add_item(self, number: int, item: Item) -> bool:
        """Whether its shard has the item."""
        line = self.of(number).take(item)
        if line is not None:
            self.add(line)
        return line is not None

    def missing(self, number: int, item: Item) -> JoinError:
        shard = self.of(number)
        left = shard.first_left()
        if left is None:
            return JoinError(f"{shown(item)} is missing: {shard.path} ends before it; run the shard again")
        return JoinError(
            f"{shown(item)} is missing: line {left[0]} of {shard.path} is of {shown(left[1])}; run the shard again, or "
            "name the inputs as the shards did, in that order"
        )

    def add_json_lines(self, number: int, path: str) -> None:
        """The items of a file of JSON lines, of which the first has the number."""
        lines = lines_of(path)
        try:
            for line in lines:
                if not self.add_item(number, (path, line)):
                    if path not in self.of(number).faults:
                        raise self.missing(number, (path, line))
                    # Is it readable here?
                    for _ in lines:
                        pass
                    raise unread_by(self.of(number), path)
                number += 1
        except UnreadableError as problem:
            self.add_unreadable(number, path, problem)

    def add_unreadable(self, number: int, path: str, problem: UnreadableError) -> None:
        """The end of a file that this script cannot read: zlib may end some lines before the program does."""
        for shard in self.shards:
            shard.seek_all()
        if any(path not in shard.faults for shard in self.shards):
            raise JoinError(f"{path} cannot be read: {problem}; the shards could read it, fetch it again")
        ends = [shard.faults[path].item[1] or 0 for shard in self.shards]
        if min(ends) != max(ends):
            raise unread_by(self.shards[ends.index(min(ends))], path)
        rest = [(line.item[1] or 0, shard, line) for shard in self.shards for line in shard.rest_of(path)]
        for line_number, shard, line in sorted(rest, key=lambda found: found[0]):
            if shard is not self.of(number):
                raise JoinError(f"an item of {path} before line {line_number} is missing in {self.of(number).path}")
            self.add(line)
            number += 1
        self.add(self.shards[0].faults[path])
        for shard in self.shards:
            del shard.faults[path]

    def finish(self, paths: list[str]) -> None:
        """Refuses lines that were not taken."""
        for shard in self.shards:
            left = shard.first_left()
            for path in shard.faults:
                if path in paths:
                    raise unread_by(shard, path)
                left = left or (shard.faults[path].number, shard.faults[path].item)
            if left is not None:
                number, item = left
                raise JoinError(
                    f"line {number} of {shard.path} is of {shown(item)}, which is of no input or double: "
                    "name all that were scored, as the shards did"
                )


def unread_by(shard: Shard, path: str) -> JoinError:
    return JoinError(
        f"{path} could not be read by shard {shard.index}: remove line {shard.faults[path].number} from {shard.path} "
        "and run the shard again"
    )


def join(output: Path, folder: Path, n_shards: int, inputs: list[str], kind: str | None) -> dict[str, float]:
    """Writes the joined lines, and returns sums over them."""
    # A file that is named again is the same file.
    first: dict[tuple[str, ...], str] = {}
    for path in inputs:
        first.setdefault(same_path(path), path)
    paths = list(first.values())
    shards = [Shard(index, folder / f"scores.{index}.jsonl", kind) for index in range(n_shards)]
    beyond = [path for path in folder.glob("scores.*.jsonl") if path not in {shard.path for shard in shards}]
    if beyond:
        raise JoinError(f"{beyond[0]} is not one of {n_shards} shards: give their number, or another folder")
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as out:
            joined = Join(shards, out)
            for number, path in enumerate(paths):
                if is_json_lines(path, kind):
                    joined.add_json_lines(number, path)
                elif not joined.add_item(number, (path, None)):
                    raise joined.missing(number, (path, None))
            joined.finish(paths)
            out.flush()
            os.fsync(out.fileno())
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
        for shard in shards:
            shard.file.close()
    return joined.sums


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
    except (JoinError, OSError) as error:
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
