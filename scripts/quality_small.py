#!/usr/bin/env python3
"""Measure what int8 and int4 cost the model of train_small_olmo2.py, with and without --calibrate.

    cargo build --release
    make .venv-peers/installed
    .venv-peers/bin/python scripts/train_small_olmo2.py /tmp/small-olmo2
    .venv-peers/bin/python scripts/quality_small.py /tmp/small-olmo2 target/quality-small

Unlike quality.py this runs the programs themselves: olmo-pack packs, and the logits are those of `olmo-infer --logits`.
llama.cpp's rows are matrices through its quantisers, in the network of transformers, which rounds what enters a product
as llama.cpp does; `--without-llama-cpp` leaves them out. The two ways are compared, too: some matrices of olmo-pack go
through the network of transformers. Prints two tables as Markdown and writes them as JSON to the second folder. Every
row is compared with the same model in f32, computed in the same way:

    bits        bytes of all matrices over their weights, in bits
    1000 KLD    mean of the divergence of the f32 model's next token from this one's, in thousandths of a nat, and its
                standard error
    same top    how often both have the same most likely token
    perplexity  over that of the f32 model

and a pair of rows by the difference of their KLD, position by position, whose standard error is smaller, and by the
ratio of their KLD, whose standard error is over shuffles.

The measured positions are passages of the last two thirds of the held-out novel; --calibrate gets the first third, or
README.md.

Two encodings of equal error can be several percent apart in KLD. So the model is measured `--shuffles` times: each time
the columns of its hidden rows and of its intermediate rows are in another order, consistently in all matrices. Every
f32 logit is the same except for rounding, while each block of 32 columns holds other numbers. The KLD of a position is
the mean over shuffles.
"""

import argparse
import json
import math
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from transformers import Olmo2Config, Olmo2ForCausalLM

sys.path.insert(0, str(Path(__file__).parent))

import read_olmo  # noqa: E402
from lowbits.activations import i8, i16  # noqa: E402

INT4 = ["--dtype", "int4", "--tensor", "*=int4"]
INT4_16 = ["--dtype", "int4", "--tensor", "*=int4-16", "--tensor", "lm_head=int8"]
# Label, arguments of olmo-pack. NOVEL and README are replaced by the paths of these texts.
OURS = {
    "int8": ["--dtype", "int8"],
    "int8, calibrated": ["--dtype", "int8", "--calibrate", "NOVEL"],
    "int4": ["--dtype", "int4"],
    "int4, calibrated": ["--dtype", "int4", "--calibrate", "NOVEL"],
    "int4, calibrated by README.md": ["--dtype", "int4", "--calibrate", "README"],
    "int4, all matrices": INT4,
    "int4, all matrices, calibrated": [*INT4, "--calibrate", "NOVEL"],
    "int4, all matrices, calibrated by README.md": [*INT4, "--calibrate", "README"],
    "int4-16, head int8": INT4_16,
    "int4-16, head int8, calibrated": [*INT4_16, "--calibrate", "NOVEL"],
}
# Label, what llama.cpp's `quantize` is asked for, or the type of all matrices.
THEIRS = {
    "llama.cpp Q8_0": ("Q8_0", None),
    "llama.cpp Q4_0": ("Q4_0", None),
    "llama.cpp IQ4_NL": ("IQ4_NL", None),
    "llama.cpp Q4_K_M": ("Q4_K_M", None),
    "llama.cpp Q4_0, all matrices": (None, "Q4_0"),
    "llama.cpp IQ4_NL, all matrices": (None, "IQ4_NL"),
    "llama.cpp Q4_K, all matrices": (None, "Q4_K"),
}
# Rows of `OURS` that also go through the network of transformers.
CHECKED = ["int8", "int4, all matrices"]
# Rows whose difference is printed: the first minus the second.
PAIRS = [
    ("int8, calibrated", "int8"),
    ("int4, calibrated", "int4"),
    ("int4, calibrated by README.md", "int4"),
    ("int4, calibrated by README.md", "int4, calibrated"),
    ("int4, all matrices, calibrated", "int4, all matrices"),
    ("int4, all matrices, calibrated by README.md", "int4, all matrices"),
    ("int4-16, head int8, calibrated", "int4-16, head int8"),
    ("int8", "llama.cpp Q8_0"),
    ("int4", "llama.cpp Q4_0"),
    ("int4", "llama.cpp IQ4_NL"),
    ("int4", "llama.cpp Q4_K_M"),
    ("int4, all matrices", "llama.cpp Q4_0, all matrices"),
    ("int4, all matrices", "llama.cpp IQ4_NL, all matrices"),
    ("int4, all matrices", "llama.cpp Q4_K, all matrices"),
    ("int4, all matrices, calibrated", "llama.cpp Q4_K, all matrices"),
]


@dataclass
class Row:
    """What was measured of a choice of encodings, a list entry or a first index for each shuffle."""

    bits: float = 0.0
    divergences: list[np.ndarray] = field(default_factory=list)
    same_top: list[np.ndarray] = field(default_factory=list)
    losses: list[np.ndarray] = field(default_factory=list)

    def kld(self) -> np.ndarray:
        """The divergence at each position, the mean over shuffles."""
        return np.mean(self.divergences, axis=0)

    def add(self, exact: np.ndarray, logits: np.ndarray, ids: np.ndarray) -> None:
        """Compares the logits of all passages [passage, position, token] with the log probabilities `exact`."""
        found = log_softmax(logits)
        self.divergences.append((np.exp(exact) * (exact - found)).sum(-1).ravel())
        self.same_top.append((exact.argmax(-1) == found.argmax(-1)).ravel())
        self.losses.append((losses(found, ids) - losses(exact, ids)).ravel())


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """In f64: the divergence of int8 is a sum of small differences."""
    logits = logits.astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def losses(log_probabilities: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The negative log probability of every token of the passages but the first."""
    return -np.take_along_axis(log_probabilities[:, :-1], ids[:, 1:, None], -1)[..., 0]


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """The mean and its standard error over positions."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(values.size))


def shuffled(tensors: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """The same model with hidden and intermediate columns in the order of the seed; as it is for seed 0."""
    if seed == 0:
        return tensors
    rng = np.random.default_rng(seed)
    hidden = rng.permutation(tensors["model.norm.weight"].size)
    result = {}
    for name in sorted(tensors):
        tensor = tensors[name]
        if name.endswith(("gate_proj.weight", "up_proj.weight", "down_proj.weight")):
            # The same order for the three matrices of a layer.
            layer = int(name.split(".")[2])
            inner = tensors[f"model.layers.{layer}.mlp.gate_proj.weight"].shape[0]
            inner = np.random.default_rng([seed, layer]).permutation(inner)
            result[name] = tensor[hidden][:, inner] if "down_proj" in name else tensor[inner][:, hidden]
        elif name.endswith("o_proj.weight"):
            result[name] = tensor[hidden]
        elif name.endswith(("q_norm.weight", "k_norm.weight")):
            result[name] = tensor
        elif tensor.ndim == 1:
            result[name] = tensor[hidden]
        else:
            result[name] = tensor[:, hidden]
    return result


def write_folder(tensors: dict[str, np.ndarray], source: Path, folder: Path) -> None:
    """A folder of .npy weights, which olmo-pack reads."""
    for name, tensor in tensors.items():
        np.save(folder / f"{name}.npy", np.ascontiguousarray(tensor, np.float32))
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(source / name, folder / name)


class Ours:
    """olmo-pack and olmo-infer."""

    def __init__(self, pack: Path, infer: Path, scratch: Path, texts: dict[str, Path], arguments: list[str]) -> None:
        self.pack, self.infer, self.texts, self.arguments = pack, infer, texts, arguments
        self.model, self.tokens, self.npy = scratch / "ours.olmo", scratch / "tokens.bin", scratch / "logits.npy"

    def logits(self, weights: Path, arguments: list[str], ids: np.ndarray) -> tuple[np.ndarray, float]:
        """The logits of the passages and the bits of a weight."""
        arguments = [str(self.texts.get(argument, argument)) for argument in arguments]
        run([self.pack, weights, self.model, "--force", *arguments])
        results = []
        for passage in ids:
            passage.astype("<u4").tofile(self.tokens)
            steps = ["--steps", str(len(passage))]
            run([self.infer, self.model, self.tokens, *steps, "--logits", self.npy, *self.arguments])
            results.append(np.load(self.npy))
        return np.stack(results), self.bits()

    def bits(self) -> float:
        """Bits of a weight of the matrices in the file."""
        model = read_olmo.Model(str(self.model))
        matrices = [
            (record[9], rows * columns)
            for (_, _, _, rows, columns), record in zip(model.shapes, model.records) if columns is not None
        ]
        return 8 * sum(size for size, _ in matrices) / sum(weights for _, weights in matrices)

    def matrices(self) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """The numbers that the matrices of the file denote, and their encodings."""
        model = read_olmo.Model(str(self.model))
        names = [name for name, _, _, _, columns in model.shapes if columns is not None]
        encodings = {name: model.encoding(model.positions[name]) for name in names}
        return {name: model.matrix(name) for name in names}, encodings


def run(command: list) -> None:
    """Runs a program, whose output is shown only if it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr}")


class Reference:
    """The network of transformers, with any matrices and any rounding of the rows that enter them."""

    def __init__(self, source: Path, tensors: dict[str, np.ndarray]) -> None:
        self.tensors, self.rounding = tensors, None
        self.model = Olmo2ForCausalLM(Olmo2Config.from_json_file(source / "config.json")).float().eval()
        for name, module in self.model.named_modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_pre_hook(partial(self._round, f"{name}.weight"))

    def _round(self, name: str, _module: torch.nn.Module, inputs: tuple) -> tuple | None:
        return self.rounding and (self.rounding(name)(inputs[0]), *inputs[1:])

    @torch.no_grad()
    def logits(self, ids: np.ndarray, matrices: dict[str, np.ndarray] | None = None, rounding=None) -> np.ndarray:
        """The logits of the passages; `rounding` maps the name of a matrix to a function of its input rows."""
        state = {**self.tensors, **(matrices or {})}
        self.model.load_state_dict({name: torch.from_numpy(tensor.copy()) for name, tensor in state.items()})
        self.rounding = rounding
        return self.model(torch.from_numpy(ids), use_cache=False).logits.numpy()


class Theirs:
    """llama.cpp's quantisers."""

    def __init__(self, config: dict) -> None:
        from lowbits import models, theirs
        from lowbits.ours import olmo_name

        self.api, self.layers = theirs, config["num_hidden_layers"]
        self.shared = config["num_attention_heads"] // config["num_key_value_heads"]
        layers = [f"blk.{layer}.{role}.weight" for layer in range(self.layers) for role in models.ROLES]
        self.names = {name: olmo_name(name) for name in [models.EMBEDDING, *layers, models.HEAD]}

    def through(self, tensors: dict[str, np.ndarray], grade: str | None, kind: str | None) -> tuple:
        """The matrices of a row of `THEIRS`, the bits of a weight, and the roundings of their input rows."""
        matrices, roundings, size = {}, {}, 0
        for gguf_name, name in self.names.items():
            of = kind or self.api.kind_of(grade, gguf_name, self.layers, self.shared)
            matrices[name], stored = self.api.through(of, tensors[name])
            roundings[name] = self.api.rounding_of(of)
            size += stored
        return matrices, 8 * size / sum(matrix.size for matrix in matrices.values()), roundings.__getitem__


def passages(ids: list[int], count: int, length: int) -> np.ndarray:
    """Passages at equal distances."""
    step = (len(ids) - length) // max(count - 1, 1)
    return np.array([ids[step * passage :][:length] for passage in range(count)])


def table(rows: dict[str, Row]) -> str:
    """The rows as Markdown."""
    lines = ["| encoding | bits | 1000 KLD | same top | perplexity |", "|---|---|---|---|---|"]
    for label, row in rows.items():
        mean, error = mean_and_error(row.kld())
        same, ratio = 100 * np.mean(row.same_top), math.exp(np.mean(row.losses))
        kld = f"{1000 * mean:.4f} ± {1000 * error:.4f}"
        lines.append(f"| {label} | {row.bits:.2f} | {kld} | {same:.2f} % | {ratio:.4f} |")
    return "\n".join(lines)


def differences(rows: dict[str, Row], pairs: list[tuple[str, str]]) -> list[dict]:
    """The pairs of which both rows were measured."""
    found = []
    for first, second in pairs:
        if first in rows and second in rows:
            mean, error = mean_and_error(rows[first].kld() - rows[second].kld())
            ratios = [a.mean() / b.mean() for a, b in zip(rows[first].divergences, rows[second].divergences)]
            found.append({"first": first, "second": second, "difference": mean, "error": error, "ratios": ratios})
    return found


def table_of_differences(found: list[dict]) -> str:
    """The differences as Markdown."""
    lines = ["| | minus | difference of 1000 KLD | ratio | lowest, highest |", "|---|---|---|---|---|"]
    for pair in found:
        ratios = np.array(pair["ratios"])
        ratio = f"{ratios.mean():.3f}"
        if ratios.size > 1:
            ratio += f" ± {ratios.std(ddof=1) / math.sqrt(ratios.size):.3f}"
        difference = f"{1000 * pair['difference']:+.4f} ± {1000 * pair['error']:.4f}"
        extremes = f"{ratios.min():.2f}, {ratios.max():.2f}"
        lines.append(f"| {pair['first']} | {pair['second']} | {difference} | {ratio} | {extremes} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="the folder of train_small_olmo2.py")
    parser.add_argument("folder", type=Path, help="for temporary files and results")
    parser.add_argument("--olmo-pack", type=Path, default=Path("target/release/olmo-pack"))
    parser.add_argument("--olmo-infer", type=Path, default=Path("target/release/olmo-infer"))
    parser.add_argument("--infer-argument", action="append", default=[], help="such as --activations=int8")
    parser.add_argument("--without-llama-cpp", action="store_true")
    parser.add_argument("--passages", type=int, default=8)
    parser.add_argument("--positions", type=int, default=512, help="of each passage")
    parser.add_argument("--shuffles", type=int, default=4)
    parser.add_argument("--rows", nargs="+", help="only encodings of these labels")
    options = parser.parse_args()

    options.folder.mkdir(parents=True, exist_ok=True)
    text = (options.weights / "held-out.txt").read_text(encoding="utf-8")
    third = text.index("\n\n", len(text) // 3) + 2
    tokenizer = Tokenizer.from_file(str(options.weights / "tokenizer.json"))
    ids = passages(tokenizer.encode(text[third:]).ids, options.passages, options.positions)
    published = load_file(options.weights / "model.safetensors")
    config = json.loads((options.weights / "config.json").read_text())
    selected = lambda label: not options.rows or label in options.rows
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory(prefix="small-", dir=options.folder) as name:
        scratch = Path(name)
        (scratch / "novel.txt").write_text(text[:third], encoding="utf-8")
        texts = {"NOVEL": scratch / "novel.txt", "README": Path(__file__).parent.parent / "README.md"}
        ours = Ours(options.olmo_pack, options.olmo_infer, scratch, texts, options.infer_argument)
        theirs = None if options.without_llama_cpp else Theirs(config)
        for shuffle in range(options.shuffles):
            weights = scratch / f"weights-{shuffle}"
            weights.mkdir()
            tensors = shuffled(published, shuffle)
            write_folder(tensors, options.weights, weights)
            exact = log_softmax(ours.logits(weights, ["--dtype", "f32"], ids)[0])
            perplexity = math.exp(losses(exact, ids).mean())
            print(f"shuffle {shuffle}: perplexity in f32 {perplexity:.4f}", file=sys.stderr)
            reference = Reference(options.weights, tensors)
            by_reference = log_softmax(reference.logits(ids))
            between = (np.exp(exact) * (exact - by_reference)).sum(-1).mean()
            print(f"shuffle {shuffle}: KLD of transformers in f32 {between:.1e}", file=sys.stderr)
            for label, arguments in OURS.items():
                if selected(label):
                    row = rows.setdefault(label, Row())
                    logits, row.bits = ours.logits(weights, arguments, ids)
                    row.add(exact, logits, ids)
                    if label in CHECKED:
                        matrices, encodings = ours.matrices()
                        rounding = {name: i16 if of.startswith("int8") else i8 for name, of in encodings.items()}.get
                        row = rows.setdefault(f"{label}, by transformers", Row(row.bits))
                        row.add(by_reference, reference.logits(ids, matrices, rounding), ids)
            for label, (grade, kind) in THEIRS.items():
                if theirs is not None and selected(label):
                    row = rows.setdefault(label, Row())
                    matrices, row.bits, rounding = theirs.through(tensors, grade, kind)
                    row.add(by_reference, reference.logits(ids, matrices, rounding), ids)
            shutil.rmtree(weights)

    found = differences(rows, PAIRS)
    result = {
        "machine": platform.processor() or platform.machine(), "python": platform.python_version(),
        "numpy": np.__version__, "torch": torch.__version__, "transformers": transformers.__version__,
        "positions": ids.size, "shuffles": options.shuffles, "perplexity": perplexity,
        "rows": {
            label: {
                "bits": row.bits, "kld": mean_and_error(row.kld()), "same_top": float(np.mean(row.same_top)),
                "perplexity_ratio": math.exp(np.mean(row.losses)),
            } for label, row in rows.items()
        },
        "differences": found,
    }
    (options.folder / "quality-small.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{ids.size} positions, perplexity in f32 {perplexity:.2f}\n")
    print(table(rows))
    print()
    print(table_of_differences(found))


if __name__ == "__main__":
    main()
