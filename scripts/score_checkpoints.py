#!/usr/bin/env python3
"""Evaluate the checkpoints of a training run: loss over steps, as a table and a plot.

    scripts/score_checkpoints.py out/ --checkpoints runs/step1000 runs/step2000 --texts held-out.jsonl.gz essay.txt

Each checkpoint is a folder that olmo-pack reads; the last number after "step" in its name is its step. In their order

    olmo-pack FOLDER out/NAME.olmo                     packs it, unless that file exists
    olmo-infer score out/NAME.olmo TEXTS --output out/NAME.jsonl    scores the texts; a run that was stopped continues
    olmo-pack diff out/PREVIOUS.olmo out/NAME.olmo     compares its weights with those of the checkpoint before it

and then out/table.md and out/table.json are written, and out/loss.svg with `--plot`. `--remove-models` deletes a model
file when its scores and differences are known, so that two of them exist at a time. out/NAME.packed.json has the files
that a model was packed from: a run with others is refused. docs/checkpoints.md is the recipe.

The programs are those of --bin, of target/release or of the PATH. Only the plot needs a package, matplotlib.
"""

import argparse
import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


class CheckpointError(Exception):
    """Why the checkpoints cannot be compared."""


# Files that get a column and a line of their own.
MOST_FILES = 6


@dataclass
class Loss:
    """Sums over the items of a file, or of all."""

    scored: int = 0
    nats: float = 0.0
    n_bytes: int = 0

    def add(self, found: dict) -> None:
        self.scored += found["scored"]
        self.nats += found["sum_nll"]
        self.n_bytes += found.get("bytes") or 0

    def per_token(self) -> float:
        """In nats."""
        return self.nats / self.scored

    def bits_per_byte(self) -> float | None:
        return self.nats / self.n_bytes / math.log(2) if self.n_bytes else None


@dataclass
class Row:
    """A checkpoint in the table."""

    name: str
    step: int
    all: Loss
    by_file: dict[str, Loss]
    # Against the checkpoint before: number of tensors that differ, and the largest difference of a weight with its
    # tensor.
    changed: int | None
    largest_change: float | None
    most_changed: str | None

    def as_json(self) -> dict:
        files = {file: loss.per_token() for file, loss in self.by_file.items()}
        return {
            "name": self.name,
            "step": self.step,
            "scored": self.all.scored,
            "nats_per_token": self.all.per_token(),
            "bits_per_byte": self.all.bits_per_byte(),
            "nats_per_token_by_file": files,
            "tensors_changed": self.changed,
            "largest_change": self.largest_change,
            "most_changed": self.most_changed,
        }


def step_of(folder: Path) -> int:
    """The step in the name of a folder, as in stage1-step140000-tokens294B."""
    steps = re.findall(r"step[-_]?([0-9]+)", folder.name)
    if not steps:
        raise CheckpointError(f"{folder} has no step in its name: rename it, as in step1000")
    return int(steps[-1])


def in_order(folders: list[Path]) -> list[tuple[int, Path]]:
    """The checkpoints by step."""
    ordered = sorted((step_of(folder), folder) for folder in folders)
    for (step, folder), (other_step, other) in zip(ordered, ordered[1:], strict=False):
        if step == other_step:
            raise CheckpointError(f"{folder} and {other} are both of step {step}")
    return ordered


def run(command: list[str | Path], allowed: tuple[int, ...] = (0,)) -> str:
    """What a program prints on standard output. Its messages are shown."""
    print("$", " ".join(map(str, command)), file=sys.stderr)
    ended = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    if ended.returncode not in allowed:
        raise CheckpointError(f"{Path(command[0]).name} ended with exit status {ended.returncode}")
    return ended.stdout


def sources(folder: Path, dtype: str | None) -> dict:
    """What a model file is packed from: the files of a checkpoint, with their sizes in bytes and their times."""
    files = {}
    for path in sorted(folder.iterdir()):
        if path.is_file():
            found = path.stat()
            files[path.name] = [found.st_size, found.st_mtime_ns]
    return {"folder": str(folder.resolve()), "dtype": dtype, "files": files}


def other_source(model: Path, record: Path, packed_from: dict) -> str | None:
    """How the sources of a model file that exists differ from those of now; None if they are the same."""
    try:
        before = json.loads(record.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        before = None
    if not isinstance(before, dict) or not isinstance(before.get("files"), dict):
        return f"{record} does not record what {model} was packed from"
    for name in ("folder", "dtype"):
        if before.get(name) != packed_from[name]:
            return f"{model} was packed from the {name} {before.get(name)}, now it is {packed_from[name]}"
    files = {**before["files"], **packed_from["files"]}
    changed = [name for name in files if before["files"].get(name) != packed_from["files"].get(name)]
    return f"{changed[0]} in {packed_from['folder']} has changed since {model} was packed" if changed else None


def pack(program: Path, folder: Path, model: Path, dtype: str | None) -> None:
    """Packs a checkpoint, unless that has been done."""
    record = model.with_suffix(".packed.json")
    packed_from = sources(folder, dtype)
    if model.exists():
        if difference := other_source(model, record, packed_from):
            raise CheckpointError(f"{difference}: name another folder of results, or remove {model}")
        return
    # Before the model: one that exists has its own record.
    record.write_text(json.dumps(packed_from, indent=1) + "\n", encoding="utf-8")
    run([program, folder, model, *(["--dtype", dtype] if dtype else [])])


def losses(scores: Path, texts: list[str]) -> tuple[Loss, dict[str, Loss]]:
    """The loss over the lines of some text files in a file of scores, and over those of each."""
    total, by_file = Loss(), {}
    for number, line in enumerate(scores.read_text(encoding="utf-8").splitlines(), 1):
        found = json.loads(line)
        # Earlier runs may have scored more.
        if found["file"] not in texts:
            continue
        if "error" in found:
            raise CheckpointError(f"line {number} of {scores} has an error: {found['error']}")
        if found["sum_nll"] is None:
            raise CheckpointError(f"line {number} of {scores} has a sum that is not finite")
        # A file with nothing to score has no loss.
        if found["scored"]:
            total.add(found)
            by_file.setdefault(found["file"], Loss()).add(found)
    if total.scored == 0:
        raise CheckpointError(f"{scores} has no scored token")
    return total, by_file


def change(report: dict) -> tuple[int, float | None, str | None]:
    """How many tensors of two files differ, the largest difference of two weights, and the tensor that has it."""
    if report["config"]:
        raise CheckpointError(f"{' and '.join(report['files'])} are of different shapes: {', '.join(report['config'])}")
    tensors = [tensor for tensor in report["tensors"] if tensor["largest_difference"] is not None]
    if not tensors:
        return len(report["tensors"]), None, None
    most = max(tensors, key=lambda tensor: tensor["largest_difference"])
    return len(report["tensors"]), most["largest_difference"], most["name"]


def files_of(rows: list[Row]) -> list[str]:
    """The files that have a column of their own."""
    files = list(rows[0].by_file)
    return files if 1 < len(files) <= MOST_FILES else []


def table(rows: list[Row]) -> str:
    """The rows as Markdown. Losses are in nats per token."""
    files = files_of(rows)
    heads = [
        "step",
        "loss",
        *files,
        "perplexity",
        "bits per byte",
        "tokens",
        "tensors changed",
        "largest change",
        "name",
    ]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        mean, bits = row.all.per_token(), row.all.bits_per_byte()
        lines.append(
            [
                str(row.step),
                f"{mean:.4f}",
                *(f"{row.by_file[file].per_token():.4f}" for file in files),
                f"{math.exp(mean):.5g}" if mean < 700 else "inf",
                "" if bits is None else f"{bits:.4f}",
                str(row.all.scored),
                "" if row.changed is None else str(row.changed),
                "" if row.most_changed is None else f"{row.largest_change:.3g} in {row.most_changed}",
                row.name,
            ]
        )
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def plot(rows: list[Row], path: Path) -> None:
    """Loss over steps: a line for all texts, or for each file of a few."""
    import matplotlib

    matplotlib.use("svg")
    # The same rows give the same bytes.
    matplotlib.rcParams |= {"svg.hashsalt": "olmo", "svg.fonttype": "none"}
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4), layout="constrained")
    steps = [row.step for row in rows]
    for file in files_of(rows):
        axes.plot(steps, [row.by_file[file].per_token() for row in rows], marker="o", label=Path(file).name)
    if files_of(rows):
        axes.legend()
    else:
        axes.plot(steps, [row.all.per_token() for row in rows], marker="o")
    axes.set(xlabel="step", ylabel="nats per token", title="Loss over steps")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def evaluate(arguments: argparse.Namespace, find) -> list[Row]:
    """The rows of all checkpoints."""
    rows, previous = [], None
    for step, folder in in_order(arguments.checkpoints):
        model = arguments.output / f"{folder.name}.olmo"
        pack(find("olmo-pack"), folder, model, arguments.dtype)
        scores = arguments.output / f"{folder.name}.jsonl"
        options = ["--threads", str(arguments.threads)] if arguments.threads else []
        options += ["--format", arguments.format] if arguments.format else []
        run([find("olmo-infer"), "score", model, *arguments.texts, "--output", scores, *options])
        moved = None, None, None
        if previous is not None:
            # Different weights are exit status 1, and so is a failure, which prints no report.
            report = run([find("olmo-pack"), "diff", previous, model, "--json"], allowed=(0, 1))
            if not report:
                raise CheckpointError(f"{previous} and {model} could not be compared")
            moved = change(json.loads(report))
            if arguments.remove_models:
                previous.unlink()
        rows.append(Row(folder.name, step, *losses(scores, arguments.texts), *moved))
        previous = model
    if arguments.remove_models and previous is not None:
        previous.unlink()
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="the folder of the results")
    parser.add_argument(
        "--checkpoints",
        type=Path,
        nargs="+",
        required=True,
        help="folders of weights, with step1000 and so on in their names",
    )
    parser.add_argument("--texts", nargs="+", required=True, help="files to score, as olmo-infer score takes them")
    parser.add_argument(
        "--format", choices=["text", "jsonl", "tokens"], help="what the files are, as for olmo-infer score"
    )
    parser.add_argument("--dtype", help="as for olmo-pack")
    parser.add_argument("--threads", type=int, help="as for olmo-infer")
    parser.add_argument("--bin", type=Path, help="the folder of the programs")
    parser.add_argument("--plot", action="store_true", help="write loss.svg, too")
    parser.add_argument("--remove-models", action="store_true", help="delete each model file after its last use")
    arguments = parser.parse_args()

    def find(name: str) -> Path:
        folders = [arguments.bin] if arguments.bin else [Path(__file__).resolve().parents[1] / "target/release"]
        found = [folder / name for folder in folders if (folder / name).exists()]
        if not found and not arguments.bin and shutil.which(name):
            found = [Path(shutil.which(name))]
        if not found:
            raise CheckpointError(
                f"there is no {name}: build it with cargo build --release, or name its folder with --bin"
            )
        return found[0]

    arguments.output.mkdir(parents=True, exist_ok=True)
    try:
        rows = evaluate(arguments, find)
    except (CheckpointError, OSError, ValueError, KeyError) as error:
        print(f"score_checkpoints.py: {error}", file=sys.stderr)
        return 1
    (arguments.output / "table.json").write_text(json.dumps([row.as_json() for row in rows], indent=1) + "\n")
    (arguments.output / "table.md").write_text(table(rows))
    if arguments.plot:
        plot(rows, arguments.output / "loss.svg")
    print(table(rows), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
