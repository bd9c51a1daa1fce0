"""Models of the tests, as folders that olmo-pack reads. Needs numpy only: scripts/make_lm_eval_goldens.py makes the
same folders for transformers."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
TASKS = Path(__file__).parent / "tasks"
EXPECTED = Path(__file__).parent / "expected"

# The chat format of most chat models.
CHAT = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def demo(folder: Path) -> Path:
    """The demo model: a token is a byte, 0 is the EOS id."""
    shutil.copytree(ROOT / "demo/weights", folder)
    return folder


def words(folder: Path) -> Path:
    """Random weights over byte pairs and special tokens: the context is 96 positions, and there are two EOS ids."""
    folder.mkdir(parents=True)
    tokenizer = json.loads((ROOT / "tests/tokenizers/small-dolma2/tokenizer.json").read_text(encoding="utf-8"))
    # Its tests only encode; published tokenizers have this decoder.
    tokenizer["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    hidden, mlp, heads, layers, vocabulary = 48, 80, 4, 2, 712
    config = {
        "architectures": ["Olmo2ForCausalLM"],
        "model_type": "olmo2",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "max_position_embeddings": 96,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
        "pad_token_id": None,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    # What transformers takes as the prefix is the bos_token.
    names = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|extra_id_0|>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHAT, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    # The numbers of RandomState are the same in every version of numpy.
    random = np.random.RandomState(1903)

    def save(name: str, *shape: int) -> None:
        """Matrices around 0, norms around 1."""
        values = random.standard_normal(shape) * 0.2 + (len(shape) == 1)
        np.save(folder / f"{name}.weight.npy", values.astype(np.float32))

    save("model.embed_tokens", vocabulary, hidden)
    for layer in range(layers):
        at = f"model.layers.{layer}"
        for name, rows in [("q", hidden), ("k", hidden // 2), ("v", hidden // 2), ("o", hidden)]:
            save(f"{at}.self_attn.{name}_proj", rows, hidden)
        save(f"{at}.self_attn.q_norm", hidden)
        save(f"{at}.self_attn.k_norm", hidden // 2)
        save(f"{at}.mlp.gate_proj", mlp, hidden)
        save(f"{at}.mlp.up_proj", mlp, hidden)
        save(f"{at}.mlp.down_proj", hidden, mlp)
        save(f"{at}.post_attention_layernorm", hidden)
        save(f"{at}.post_feedforward_layernorm", hidden)
    save("model.norm", hidden)
    save("lm_head", vocabulary, hidden)
    return folder


def golden(folder: Path) -> Path:
    """A reference case without a tokenizer: Olmo-3 with YaRN and a window of 16 positions."""
    shutil.copytree(ROOT / "tests/golden/olmo3-yarn/weights", folder)
    return folder


def golden_requests() -> list[tuple[None, list[int], list[int]]]:
    """Contexts and continuations in tokens of the golden case, as the harness hands them to a model. Some begin alike,
    some are longer than 60 positions."""
    tokens = np.fromfile(ROOT / "tests/golden/olmo3-yarn/tokens.bin", dtype="<u4").tolist()
    cuts = [(0, 1, 2), (0, 30, 40), (0, 30, 31), (0, 50, 60), (0, 50, 61), (0, 90, 100), (20, 100, 139), (70, 71, 131)]
    requests = [(None, tokens[begin:middle], tokens[middle:end]) for begin, middle, end in cuts]
    return requests + [(None, tokens[:30], [(token + 1) % 113]) for token in tokens[30:34]]


ALL_TASKS = ["olmo_bare_choice", "olmo_choice", "olmo_continue", "olmo_perplexity", "olmo_speech"]
# The runs whose values are recorded: a model, arguments of it, tasks, and whether the chat format is used.
RUNS = {
    "demo": (demo, {}, ALL_TASKS, False),
    "demo-short": (demo, {"max_length": 64}, ALL_TASKS, False),
    "words": (words, {}, ALL_TASKS, False),
    "words-chat": (words, {}, ["olmo_choice", "olmo_speech", "olmo_continue"], True),
}
GOLDEN_LENGTHS = [None, 60]


def requests_of(samples: dict[str, list[dict]]) -> list[dict]:
    """What a run asked and what the model answered, in the order of the documents: the text of each request and its
    answer, a text or a log-likelihood with whether it is greedy."""
    found = []
    for task, documents in sorted(samples.items()):
        for document in sorted(documents, key=lambda document: document["doc_id"]):
            pairs = zip(document["arguments"], document["resps"], strict=True)
            found += [{"task": task, "asked": list(asked), "answer": answers[0]} for asked, answers in pairs]
    return found


def metrics_of(results: dict[str, dict]) -> dict[str, dict[str, float]]:
    """The metrics of each task without the bootstrapped errors, which are strings when there is no error."""
    return {
        task: {name: value for name, value in of_task.items() if isinstance(value, float)}
        for task, of_task in results.items()
    }


def program(name: str) -> Path:
    """A program of this repository: the one that the tests in Rust run, which `make test-python` builds, or that in the
    folder OLMO_BIN. A release build may be of an older commit."""
    folder = os.environ.get("OLMO_BIN")
    found = Path(folder) / name if folder else ROOT / "target/debug" / f"tested-{name}"
    assert found.exists(), f"{found} is not built: run make test-python"
    return found


def programs(folder: Path) -> Path:
    """A new folder with all programs by their own names, as a user has them."""
    folder.mkdir()
    for name in ("olmo-pack", "olmo-infer"):
        (folder / name).symlink_to(program(name).resolve())
    return folder


def packed(weights: Path) -> Path:
    """The model file of a folder of weights, next to it."""
    model = weights.with_suffix(".olmo")
    subprocess.run([program("olmo-pack"), weights, model], check=True, stdout=subprocess.DEVNULL)
    return model
