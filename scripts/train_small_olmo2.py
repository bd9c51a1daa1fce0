#!/usr/bin/env python3
"""Train a small OLMo-2 on novels: real weights whose quantization can be measured, without any model from a hub.

    python3 -m venv /tmp/venv-small
    /tmp/venv-small/bin/pip install torch==2.15.0 transformers==5.24.0 numpy==2.2.6
    /tmp/venv-small/bin/python scripts/train_small_olmo2.py /tmp/small-olmo2

    olmo-pack /tmp/small-olmo2 small.olmo
    olmo-infer small.olmo --prompt "The next morning"

The text is that of Jane Austen's six novels (public domain), 4.0 MB, out of Debian's package r-cran-janeaustenr, which
is downloaded with apt-get and not installed. `--package FILE.deb` takes the file instead, for systems without apt-get;
dpkg-deb unpacks it. Emma is held out: neither the vocabulary nor the model sees it. Its text becomes
FOLDER/held-out.txt.

The model has 4.2 million parameters. All its matrices have rows of a multiple of 256 columns, as llama.cpp's K types
need, and fewer heads of keys and values than of queries. It takes a quarter of an hour on one free core. The seed is
fixed, and one thread trains, so a rerun on the same machine gives the same files. Another CPU adds in another order and
ends at other, equally good weights.
"""

import argparse
import hashlib
import math
import subprocess
import tempfile
import time
import zlib
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import Olmo2Config, Olmo2ForCausalLM

PACKAGE = "r-cran-janeaustenr=1.0.0-1"
PACKAGE_SHA256 = "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95"
NOVELS = "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
HELD_OUT = "EMMA"

VOCABULARY = 2048
END = "<|endoftext|>"

SEED = 1775
STEPS = 1500
SEQUENCES, POSITIONS = 4, 256
PEAK_LEARNING_RATE = 3e-3
WARM_UP = 100
WEIGHT_DECAY = 0.1


def download(folder: Path) -> Path:
    """The package of the novels, in `folder`."""
    subprocess.run(["apt-get", "download", PACKAGE], check=True, cwd=folder, stdout=subprocess.DEVNULL)
    [path] = folder.glob("*.deb")
    return path


def read_novels(package: Path | None) -> dict[str, str]:
    """The text of each novel by its title, which is its first line."""
    with tempfile.TemporaryDirectory() as scratch:
        package = package or download(Path(scratch))
        digest = hashlib.sha256(package.read_bytes()).hexdigest()
        if digest != PACKAGE_SHA256:
            raise SystemExit(f"{package}: SHA-256 is {digest}, not that of {PACKAGE}")
        subprocess.run(["dpkg-deb", "-x", package, scratch], check=True)
        database = (Path(scratch) / NOVELS).read_bytes()
    novels = {}
    while database:
        # Each object is its length in 4 bytes and a zlib stream.
        stream = zlib.decompressobj()
        lines = strings(stream.decompress(database[4:]))
        database = stream.unused_data
        novels[lines[0]] = paragraphs(lines)
    return novels


def strings(data: bytes) -> list[str]:
    """A character vector as R serializes it: big-endian integers, version 3."""
    at = 0

    def integer() -> int:
        nonlocal at
        at += 4
        return int.from_bytes(data[at - 4 : at], "big")

    def text() -> str:
        nonlocal at
        length = integer()
        at += length
        return data[at - length : at].decode()

    if data[:2] != b"X\n":
        raise SystemExit("not a serialized object of R")
    at = 2
    if integer() != 3:
        raise SystemExit("not version 3 of R's serialization")
    at += 8  # The versions of R that wrote it and that can read it.
    text()  # The encoding.
    character_vector, string = 16, 9
    if integer() & 0xFF != character_vector:
        raise SystemExit("not a character vector")
    lines = []
    for _ in range(integer()):
        if integer() & 0xFF != string:
            raise SystemExit("not a string")
        lines.append(text())
    return lines


def paragraphs(lines: list[str]) -> str:
    """The lines of each paragraph as one line, and an empty line after each."""
    text = "\n".join(line.rstrip() for line in lines)
    parts = (" ".join(part.split()) for part in text.split("\n\n"))
    return "".join(f"{part}\n\n" for part in parts if part)


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte pairs of the texts, with GPT-2's split."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def build_model(end: int) -> Olmo2ForCausalLM:
    config = Olmo2Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=None,
        architectures=["Olmo2ForCausalLM"],
        dtype="float32",
    )
    return Olmo2ForCausalLM(config)


def learning_rate(step: int) -> float:
    """A linear rise, and half a cosine down to a hundredth."""
    if step < WARM_UP:
        return PEAK_LEARNING_RATE * (step + 1) / WARM_UP
    done = (step - WARM_UP) / (STEPS - WARM_UP)
    return PEAK_LEARNING_RATE * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def train(model: Olmo2ForCausalLM, ids: torch.Tensor, held_out: torch.Tensor) -> None:
    """Sequences from random places of the novels."""
    model.train()
    model.set_attn_implementation("sdpa")
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95))
    begun, losses = time.time(), []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        starts = torch.randint(len(ids) - POSITIONS, (SEQUENCES,)).tolist()
        batch = torch.stack([ids[start : start + POSITIONS + 1] for start in starts])
        logits = model(batch[:, :-1], use_cache=False).logits
        loss = cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            mean = sum(losses[-100:]) / 100
            print(f"step {step + 1}  loss {mean:.4f}  held out {loss_of(model, held_out, 4):.4f}  "
                  f"{time.time() - begun:.0f} s", flush=True)
    model.eval()


@torch.no_grad()
def loss_of(model: Olmo2ForCausalLM, ids: torch.Tensor, passages: int) -> float:
    """Mean loss over passages of 512 tokens, at equal distances."""
    step = len(ids) // passages
    batch = torch.stack([ids[start : start + 513] for start in range(0, step * passages, step)])
    logits = model(batch[:, :-1], use_cache=False).logits
    return cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for config.json, model.safetensors, tokenizer.json, held-out.txt")
    parser.add_argument("--package", type=Path, help=f"the file of {PACKAGE}, instead of downloading it")
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    novels = read_novels(options.package)
    held_out = novels.pop(HELD_OUT)
    tokenizer = train_tokenizer(list(novels.values()))
    end = tokenizer.token_to_id(END)
    ids = torch.tensor([id for novel in novels.values() for id in [*tokenizer.encode(novel).ids, end]])
    held_out_ids = torch.tensor(tokenizer.encode(held_out).ids)
    model = build_model(end)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    letters = sum(map(len, novels.values()))
    print(f"{parameters} parameters; {len(novels)} novels of {letters} letters, {len(ids)} tokens; held out: "
          f"{len(held_out)} letters, {len(held_out_ids)} tokens", flush=True)

    train(model, ids, held_out_ids)
    options.folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(options.folder)
    (options.folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    (options.folder / "held-out.txt").write_text(held_out, encoding="utf-8")
    loss = loss_of(model, held_out_ids, 64)
    print(f"held out: {loss:.4f} nats a token, perplexity {math.exp(loss):.2f}")


if __name__ == "__main__":
    main()
