#!/usr/bin/env python3
"""Record what lm-evaluation-harness gets with its own model `hf`, transformers, for python/tests/test_lm_eval.py.

Written with Python 3.11 and

    torch==2.15.0  transformers==5.23.0  numpy==2.4.6  lm-eval==0.4.13  accelerate==1.15.0

    python3 -m venv /tmp/venv-lm-eval
    /tmp/venv-lm-eval/bin/pip install torch==2.15.0 transformers==5.23.0 numpy==2.4.6 lm-eval==0.4.13 accelerate==1.15.0
    /tmp/venv-lm-eval/bin/python scripts/make_lm_eval_goldens.py

It writes python/tests/expected/lm_eval.json. The models, the tasks and the runs are those of python/tests/cases.py; no
number comes from this project's programs. The forward pass is float32 with eager attention; the softmax is taken in
float64, because a float32 sum over a long text is off by more than the tests allow.
"""

import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

# Every model and every task is local.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python/tests"))

import cases  # noqa: E402
import lm_eval  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast  # noqa: E402

PACKAGES = ["torch", "transformers", "numpy", "lm-eval"]


def for_transformers(weights: Path) -> tuple[torch.nn.Module, PreTrainedTokenizerFast]:
    """The model and the tokenizer of a folder of .npy files."""
    config = AutoConfig.from_pretrained(weights)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).float().eval()
    arrays = {path.name.removesuffix(".npy"): torch.from_numpy(np.load(path)) for path in weights.glob("*.npy")}
    missing, unexpected = model.load_state_dict(arrays, strict=False)
    assert not unexpected and not missing, (missing, unexpected)
    text = weights if (weights / "tokenizer.json").exists() else cases.ROOT / "demo/weights"
    # The demo model's token 0 in GPT-2's byte characters.
    settings = {"eos_token": "\u0100"}
    if (text / "tokenizer_config.json").exists():
        settings = json.loads((text / "tokenizer_config.json").read_text())
        del settings["tokenizer_class"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(text / "tokenizer.json"), **settings)
    model.generation_config.eos_token_id = config.eos_token_id
    model.generation_config.pad_token_id = 0
    return model, tokenizer


def harness_model(weights: Path, arguments: dict) -> HFLM:
    """The model `hf` of the harness. A case without a tokenizer is only asked in tokens, and has the demo model's."""
    model, tokenizer = for_transformers(weights)
    return HFLM(pretrained=model, tokenizer=tokenizer, softmax_dtype="float64", batch_size=1, **arguments)


def main() -> None:
    torch.set_num_threads(2)
    expected = {"versions": {package: version(package) for package in PACKAGES}, "runs": {}, "golden": {}}
    tasks = TaskManager(include_path=str(cases.TASKS), include_defaults=False)
    with tempfile.TemporaryDirectory() as scratch:
        for name, (make, arguments, asked, is_chat) in cases.RUNS.items():
            model = harness_model(make(Path(scratch) / name), arguments)
            found = lm_eval.simple_evaluate(
                model=model, tasks=asked, task_manager=tasks, apply_chat_template=is_chat, bootstrap_iters=0
            )
            requests = cases.requests_of(found["samples"])
            expected["runs"][name] = {"metrics": cases.metrics_of(found["results"]), "requests": requests}
            print(f"{name}: {len(requests)} requests")
        for length in cases.GOLDEN_LENGTHS:
            model = harness_model(cases.golden(Path(scratch) / f"golden-{length}"), {"max_length": length})
            expected["golden"][str(length)] = model._loglikelihood_tokens(cases.golden_requests(), disable_tqdm=True)
    cases.EXPECTED.mkdir(exist_ok=True)
    text = json.dumps(expected, ensure_ascii=False, indent=1)
    (cases.EXPECTED / "lm_eval.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
