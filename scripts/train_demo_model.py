#!/usr/bin/env python3
"""Train the demo model: a tiny OLMo-2 that knows the Gettysburg Address by heart.

Given the bytes "Four score and seven" it continues, greedily, letter for letter to the end of the
speech and then emits token 0, its end-of-sequence token. A run that gets one layer, one rotation or
one norm wrong does not stay on the text for long, so the speech is a test that every reader can check.

Written with Python 3.11 and

    torch==2.15.0  transformers==5.23.0  numpy==2.4.6

    python3 -m venv /tmp/venv-olmo
    /tmp/venv-olmo/bin/pip install torch==2.15.0 transformers==5.23.0 numpy==2.4.6
    /tmp/venv-olmo/bin/python scripts/train_demo_model.py            # writes demo/, 1 to 4 minutes
    /tmp/venv-olmo/bin/python scripts/train_demo_model.py --check    # checks demo/ as it is

Nothing is downloaded: the model starts from random weights and the text is below.

The vocabulary is the 256 bytes, id == byte value. The model sees one sequence only, the speech
and a 0, always from position 0; learning it by heart is the whole point.

The output folder afterwards contains:

    weights/<parameter>.npy   the weights, float32, one file per parameter
    weights/config.json       the configuration as transformers writes it
    weights/vocab.txt         id, tab, token in GPT-2's byte characters
    weights/tokenizer.json    the same for the crate `tokenizers`: byte pairs without any merge
    prompt.tokens.bin         "Four score and seven" as little-endian u32 ids
    speech.txt                what prompt and continuation spell together, without the final 0
    logits.npy                [20, 256] float32: the reference logits of the prompt

`--keep-steps 50 200 400` also leaves what the model was after these steps, in FOLDER.steps/step50/ and so on, each with
the files of weights/: docs/checkpoints.md evaluates them.

The seed is fixed and a rerun on the same machine gives the same files. Another CPU adds in another
order and ends at other, equally good weights; every run ends by checking the files it has written.
"""

import argparse
import copy
import json
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import Olmo2Config, Olmo2ForCausalLM

# The Bliss copy (1864), in ASCII. The final newline is learned like every other letter.
SPEECH = """\
Four score and seven years ago our fathers brought forth on this continent, a new nation, \
conceived in Liberty, and dedicated to the proposition that all men are created equal.

Now we are engaged in a great civil war, testing whether that nation, or any nation so \
conceived and so dedicated, can long endure. We are met on a great battle-field of that war. We \
have come to dedicate a portion of that field, as a final resting place for those who here gave \
their lives that that nation might live. It is altogether fitting and proper that we should do \
this.

But, in a larger sense, we can not dedicate -- we can not consecrate -- we can not hallow -- \
this ground. The brave men, living and dead, who struggled here, have consecrated it, far above \
our poor power to add or detract. The world will little note, nor long remember what we say \
here, but it can never forget what they did here. It is for us the living, rather, to be \
dedicated here to the unfinished work which they who fought here have thus far so nobly \
advanced. It is rather for us to be here dedicated to the great task remaining before us -- that \
from these honored dead we take increased devotion to that cause for which they gave the last \
full measure of devotion -- that we here highly resolve that these dead shall not have died in \
vain -- that this nation, under God, shall have a new birth of freedom -- and that government of \
the people, by the people, for the people, shall not perish from the earth.
"""
PROMPT = "Four score and seven"
END = 0

SEED = 1863
STEPS = 400
PEAK_LEARNING_RATE = 4e-3

# What the files must satisfy. The margin is the lead of the right next byte over the best wrong
# one, in logits. Running in bf16 moves a logit of this model by less than 0.5.
MIN_MARGIN = 3.0
MAX_PARAMETERS = 900_000
MAX_FOLDER_BYTES = 4_000_000


def speech_ids() -> torch.Tensor:
    """The training sequence, [1, n]: the bytes of the speech and the end token."""
    return torch.tensor([*SPEECH.encode("ascii"), END])[None]


def build_model() -> Olmo2ForCausalLM:
    config = Olmo2Config(
        vocab_size=256,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,  # grouped-query attention, head_dim 32
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=None,
        architectures=["Olmo2ForCausalLM"],
        dtype="float32",
    )
    return Olmo2ForCausalLM(config)


def train(model: Olmo2ForCausalLM, keep: dict[int, Path]) -> None:
    """Every step is the whole speech; there is nothing else to see. Writes the weights after some steps to folders."""
    ids = speech_ids()
    model.set_attn_implementation("sdpa")  # same result as eager, faster
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LEARNING_RATE, total_steps=STEPS, pct_start=0.1
    )
    for step in range(1, STEPS + 1):
        logits = model(ids[:, :-1], use_cache=False).logits
        loss = cross_entropy(logits[0], ids[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            margin = smallest_margin(logits[0].detach(), ids[0, 1:])
            print(f"step {step:3}  loss {loss.item():.5f}  smallest margin {margin:6.2f}")
        if step in keep:
            write_weights(model, keep[step])
    model.set_attn_implementation("eager")


def smallest_margin(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Over all positions, the smallest lead of the right id over the best wrong one.

    Positive means that greedy decoding follows the targets to their end.
    """
    right = logits.gather(1, targets[:, None])
    wrong = logits.scatter(1, targets[:, None], -torch.inf).amax(1, keepdim=True)
    return (right - wrong).min().item()


@torch.no_grad()
def logits_of(model: Olmo2ForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Logits of one forward pass over [1, n] ids, as [n, vocab] float32."""
    return model(ids, use_cache=False).logits[0].float()


def gpt2_byte_characters() -> list[str]:
    """The printable character of each byte in GPT-2 style vocabularies.

    Printable bytes are themselves; the others, in order, take the code points from 256 on.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte if byte in printable else 256 + others.index(byte)) for byte in range(256)]


def write_weights(model: Olmo2ForCausalLM, weights: Path) -> None:
    weights.mkdir(parents=True, exist_ok=True)
    for stale in weights.glob("*.npy"):
        stale.unlink()
    for name, parameter in model.named_parameters():
        np.save(weights / f"{name}.npy", parameter.detach().numpy())
    model.config.to_json_file(weights / "config.json")

    # A backslash would begin an escape, so it is itself escaped; no other escape can occur.
    lines = [
        f"{byte}\t{character}\n".replace("\\", "\\\\")
        for byte, character in enumerate(gpt2_byte_characters())
    ]
    (weights / "vocab.txt").write_bytes("".join(lines).encode("utf-8"))
    (weights / "tokenizer.json").write_text(json.dumps(tokenizer(), ensure_ascii=False) + "\n", encoding="utf-8")


def write(model: Olmo2ForCausalLM, folder: Path) -> None:
    write_weights(model, folder / "weights")
    prompt = np.frombuffer(PROMPT.encode("ascii"), dtype=np.uint8)
    (folder / "prompt.tokens.bin").write_bytes(prompt.astype("<u4").tobytes())
    (folder / "speech.txt").write_bytes(SPEECH.encode("ascii"))
    logits = logits_of(model, speech_ids()[:, : len(PROMPT)])
    np.save(folder / "logits.npy", logits.numpy())


def tokenizer() -> dict:
    """A tokenizer whose only tokens are the bytes."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    vocab = {character: byte for byte, character in enumerate(gpt2_byte_characters())}
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "ignore_merges": False, "vocab": vocab, "merges": []},
    }


def read_model(weights: Path) -> Olmo2ForCausalLM:
    """The model from its files, with nothing carried over from training."""
    config = Olmo2Config.from_json_file(weights / "config.json")
    model = Olmo2ForCausalLM(config).float().eval()
    model.set_attn_implementation("eager")
    arrays = {path.name.removesuffix(".npy"): np.load(path) for path in weights.glob("*.npy")}
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return model


def in_bfloat16(model: Olmo2ForCausalLM) -> Olmo2ForCausalLM:
    """A bfloat16 copy; RoPE tables are not parameters and stay float32, as in transformers."""
    rounded = copy.deepcopy(model)
    for parameter in rounded.parameters():
        parameter.data = parameter.data.bfloat16()
    return rounded


def check(folder: Path) -> None:
    """Hold the files in the folder, and nothing but them, to what this script promises."""
    model = read_model(folder / "weights")
    ids = speech_ids()
    inputs, targets = ids[:, :-1], ids[0, 1:]

    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters <= MAX_PARAMETERS, f"{parameters} parameters"
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size <= MAX_FOLDER_BYTES, f"{folder} has {size} bytes"

    # The side files are as expected.
    assert (folder / "speech.txt").read_bytes() == SPEECH.encode("ascii")
    prompt = np.fromfile(folder / "prompt.tokens.bin", dtype="<u4")
    assert bytes(prompt.tolist()) == PROMPT.encode("ascii")
    assert SPEECH.startswith(PROMPT)
    vocab = (folder / "weights" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert len(vocab) == 256 and vocab[65] == "65\tA" and vocab[92] == "92\t\\\\"
    assert (vocab[0], vocab[10], vocab[32]) == ("0\t\u0100", "10\t\u010a", "32\t\u0120")
    stored = np.load(folder / "logits.npy")
    assert stored.shape == (len(PROMPT), 256) and stored.dtype == np.float32
    logits = logits_of(model, torch.from_numpy(prompt.astype(np.int64))[None])
    np.testing.assert_allclose(logits.numpy(), stored, rtol=0, atol=1e-4)

    # The margins: as stored, with weights rounded to bf16, with activations rounded as well.
    variants = {
        "float32": model,
        "bf16 weights": in_bfloat16(model).float(),
        "bf16 weights and activations": in_bfloat16(model),
    }
    for what, variant in variants.items():
        margin = smallest_margin(logits_of(variant, inputs), targets)
        print(f"smallest margin {margin:6.2f}  {what}")
        assert margin >= MIN_MARGIN, f"margin {margin} with {what}"

    # And once for real: greedy, token by token, with a key/value cache.
    generated = model.generate(
        ids[:, : len(PROMPT)],
        attention_mask=torch.ones(1, len(PROMPT), dtype=torch.long),
        do_sample=False,
        max_new_tokens=len(SPEECH),
        pad_token_id=END,
    )
    assert torch.equal(generated, ids), "greedy generation leaves the speech"
    print(f"{folder}: {parameters} parameters, {size} bytes, {len(SPEECH)} letters by heart")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("demo"))
    parser.add_argument("--check", action="store_true", help="check the folder, train nothing")
    parser.add_argument("--keep-steps", nargs="+", type=int, default=[], help="keep the weights of these steps, too")
    arguments = parser.parse_args()
    if not all(1 <= step <= STEPS for step in arguments.keep_steps):
        parser.error(f"--keep-steps: expected numbers from 1 to {STEPS}")

    torch.set_num_threads(2)
    torch.manual_seed(SEED)
    if not arguments.check:
        model = build_model()
        steps = arguments.folder.with_name(f"{arguments.folder.name}.steps")
        train(model, {step: steps / f"step{step}" for step in arguments.keep_steps})
        write(model.eval(), arguments.folder)
    check(arguments.folder)


if __name__ == "__main__":
    main()
