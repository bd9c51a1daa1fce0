#!/usr/bin/env python3
"""Measure how fast texts are scored, by turns: olmo-infer, transformers, and llama.cpp through its Python binding.

    target/release/random-weights --shape olmo2-1b weights/
    target/release/olmo-pack weights/ model.olmo --dtype f32
    scripts/peers/to_safetensors.py weights/ peer/ --dtype f32
    .venv-peers/bin/python scripts/peers/score_by_turns.py model.olmo peer/ --gguf peer.gguf

Every text has 512 tokens, no two begin alike, and every token but the first is scored. olmo-infer is timed as a whole
process, from its start to its last line; the others inside theirs, with the model loaded and after a first pass.
transformers evaluates eight texts at a time and computes the log-softmax of their logits; llama.cpp evaluates one after
the other with the logits of all positions. The sums of all programs are compared first: they may differ by 1 %.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np

import protocol

N_TOKENS = 512
BATCH = 8


def ours(program: str, model: str, threads: int, texts: list[list[int]]) -> tuple[float, float]:
    """Seconds of a whole process, and the sum of the negative log-likelihoods."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(json.dumps({"tokens": text}) + "\n" for text in texts)
        file.flush()
        command = [program, "score", model, file.name, "--threads", str(threads)]
        begun = time.perf_counter()
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds = time.perf_counter() - begun
    return seconds, sum(json.loads(line)["sum_nll"] for line in output.splitlines())


def with_torch(folder: str, threads: int) -> Callable[[list[list[int]]], tuple[float, float]]:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()

    @torch.inference_mode()
    def score(texts: list[list[int]]) -> tuple[float, float]:
        begun, total = time.perf_counter(), 0.0
        for first in range(0, len(texts), BATCH):
            ids = torch.tensor(texts[first : first + BATCH])
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
            flat = logits.float().flatten(0, 1)
            total += torch.nn.functional.cross_entropy(flat, ids[:, 1:].flatten(), reduction="sum").item()
        return time.perf_counter() - begun, total

    return score


def with_llama_cpp(path: str, threads: int) -> Callable[[list[list[int]]], tuple[float, float]]:
    import llama_cpp

    model = llama_cpp.Llama(
        path, n_ctx=N_TOKENS, n_batch=N_TOKENS, n_threads=threads, n_threads_batch=threads, logits_all=True, verbose=False
    )

    def score(texts: list[list[int]]) -> tuple[float, float]:
        begun, total = time.perf_counter(), 0.0
        for text in texts:
            model.reset()
            model.eval(text)
            logits = model.scores[: len(text) - 1]
            largest = logits.max(axis=1)
            sums = np.log(np.exp(logits - largest[:, None]).sum(axis=1, dtype=np.float64)) + largest
            total += float((sums - logits[np.arange(len(text) - 1), text[1:]]).sum())
        return time.perf_counter() - begun, total

    return score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="the .olmo file")
    parser.add_argument("folder", help="the same weights for transformers, by to_safetensors.py")
    parser.add_argument("--gguf", help="the same weights for llama.cpp, by to_gguf.py")
    parser.add_argument("--program", default="target/release/olmo-infer")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--texts", type=int, default=BATCH)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    vocab_size = json.loads((Path(args.folder) / "config.json").read_text())["vocab_size"]
    ids = protocol.random_tokens(args.texts * N_TOKENS, vocab_size)
    texts = [ids[first : first + N_TOKENS] for first in range(0, len(ids), N_TOKENS)]
    programs = {
        "olmo-infer": lambda texts: ours(args.program, args.model, args.threads, texts),
        "transformers": with_torch(args.folder, args.threads),
    }
    if args.gguf:
        programs["llama.cpp"] = with_llama_cpp(args.gguf, args.threads)
    # The first pass of each is not timed.
    sums = {name: score(texts[:BATCH])[1] for name, score in programs.items()}
    if any(abs(total / sums["olmo-infer"] - 1) > 0.01 for total in sums.values()):
        sys.exit(f"the sums differ: {sums}")
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(args.rounds):
        for name, score in programs.items():
            seconds[name].append(score(texts)[0])
            print(f"round {number + 1}: {name} {len(ids) / seconds[name][-1]:.1f} tok/s", file=sys.stderr)
    for name, times in seconds.items():
        ratio = statistics.median(theirs / own for theirs, own in zip(times, seconds["olmo-infer"], strict=True))
        print(f"{name:14} {len(ids) / statistics.median(times):8.1f} tok/s  olmo-infer is {ratio:.2f} x as fast")


if __name__ == "__main__":
    main()
