#!/usr/bin/env python3
"""Make the reference cases in tests/golden: small random models as transformers computes them.

Written with Python 3.11 and

    torch==2.15.0  transformers==5.23.0  numpy==2.4.6
    (the last three cases: transformers==5.24.0  numpy==2.2.6)

(any transformers from 5.13 on; 5.0 to 5.12 apply YaRN to the wrong Olmo-3 layers)

    python3 -m venv /tmp/venv-olmo
    /tmp/venv-olmo/bin/pip install torch==2.15.0 transformers==5.23.0 numpy==2.4.6
    /tmp/venv-olmo/bin/python scripts/make_goldens.py            # writes tests/golden/, seconds

Nothing is downloaded. Each case becomes a folder:

    weights/<parameter>.npy   the weights; tied models have no lm_head
    weights/config.json       the configuration, in the spelling the case asks for
    tokens.bin                the prompt, little-endian u32 ids
    logits.npy                [n_tokens, vocab_size] float32, at every position of the prompt
    hidden.npy                [layers + 1, 3, hidden_size] float32, output_hidden_states at the
                              last three positions of the prompt
    expected.json             greedy: the 16 ids of greedy decoding after the prompt
                              mean_nll: mean negative log-likelihood of each id given those before
                              last_top5: the best five ids at the last position, best first
                              bf16_reference: how far the logits of the same model run in
                              bfloat16 are from the float32 ones

The reference is float32 with eager attention, computed from the weights exactly as stored: where
a case stores f16 or bf16, the model's weights are rounded first. Weights and prompts come from
NumPy's seeded generator and are the same everywhere; the last digits of the logits depend on the
CPU.
"""

import argparse
import copy
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import (
    FlexOlmoConfig,
    FlexOlmoForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Olmo3Config,
    Olmo3ForCausalLM,
    OlmoConfig,
    OlmoeConfig,
    OlmoeForCausalLM,
    OlmoForCausalLM,
    OlmoHybridConfig,
    OlmoHybridForCausalLM,
)

GREEDY_STEPS = 16
# What the best logit must lead by at every step of greedy decoding. Float32 rounding is far
# smaller. The ids must be the same in bfloat16 too: see `expectations`.
MIN_GREEDY_GAP = 0.1
# The same between neighbours in last_top5, where only float32 rounding matters.
MIN_TOP5_GAP = 0.01
# A loop on one or two ids would test little of decoding.
MIN_DISTINCT_GREEDY = 6
# Mean change of a logit when clipping is left out of a model that clips.
MIN_CLIPPING_CHANGE = 0.5
END = 1
# Positions in hidden.npy, the last ones.
HIDDEN_POSITIONS = 3

MAX_CASE_BYTES = 250_000
MAX_TOTAL_BYTES = 1_700_000

MODELS = {
    "olmo": (OlmoConfig, OlmoForCausalLM),
    "olmo2": (Olmo2Config, Olmo2ForCausalLM),
    "olmo3": (Olmo3Config, Olmo3ForCausalLM),
    "olmoe": (OlmoeConfig, OlmoeForCausalLM),
    "flex_olmo": (FlexOlmoConfig, FlexOlmoForCausalLM),
    "olmo_hybrid": (OlmoHybridConfig, OlmoHybridForCausalLM),
}


@dataclass(frozen=True)
class Case:
    name: str
    model_type: str
    seed: int
    n_tokens: int
    config: dict
    stored: str = "float32"  # element type of the .npy files: float32, float16 or bfloat16
    spelling: str = "5.23.0"  # the transformers release whose config.json is imitated
    gain: float = 2.0  # how much wider the outputs of a matrix are than its inputs


DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 500000.0}
OLMO1_ROPE = {"rope_type": "default", "rope_theta": 10000.0}

CASES = [
    # Grouped-query 5:1 where no size is a multiple of 4: rows, heads, MLP and vocabulary all end
    # in the middle of any vector or panel that a kernel uses.
    Case(
        name="olmo2-gqa-odd",
        model_type="olmo2",
        seed=104,
        n_tokens=30,
        config=dict(
            vocab_size=173,
            hidden_size=50,
            intermediate_size=83,
            num_hidden_layers=2,
            num_attention_heads=5,
            num_key_value_heads=1,
            max_position_embeddings=64,
            rms_norm_eps=1e-5,
            rope_parameters=DEFAULT_ROPE,
        ),
    ),
    # Tied embeddings, tiny heads (three rotated pairs), f16 files.
    Case(
        name="olmo2-tied-hd6",
        model_type="olmo2",
        seed=207,
        n_tokens=25,
        stored="float16",
        spelling="4.55.4",
        config=dict(
            vocab_size=259,
            hidden_size=36,
            intermediate_size=52,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=3,
            max_position_embeddings=48,
            rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            tie_word_embeddings=True,
        ),
    ),
    # A window much shorter than the prompt, and a last layer that slides: the one full layer is
    # the fourth of five. 150 positions span three blocks of 64 keys. Theta stays at 500000:
    # transformers 5 does not apply another one from a 4.x config.json to sliding layers.
    Case(
        name="olmo3-swa",
        model_type="olmo3",
        seed=302,
        n_tokens=150,
        spelling="4.57.1",
        config=dict(
            vocab_size=113,
            hidden_size=32,
            intermediate_size=36,
            num_hidden_layers=5,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            rms_norm_eps=1e-6,
            sliding_window=5,
            rope_parameters={
                "full_attention": dict(DEFAULT_ROPE),
                "sliding_attention": dict(DEFAULT_ROPE),
            },
        ),
    ),
    # YaRN on the full-attention layer only, attention_factor left to its default 0.1 ln 4 + 1.
    # With theta 10000 the eight frequencies of a head have an untouched one, two on the ramp and
    # five divided by the factor. The window is longer than a block of 64 keys.
    Case(
        name="olmo3-yarn",
        model_type="olmo3",
        seed=425,
        n_tokens=140,
        config=dict(
            vocab_size=131,
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=4,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=256,
            rms_norm_eps=1e-6,
            sliding_window=70,
            rope_parameters={
                "full_attention": {
                    "rope_type": "yarn",
                    "rope_theta": 10000.0,
                    "factor": 4.0,
                    "original_max_position_embeddings": 64,
                    "beta_fast": 32.0,
                    "beta_slow": 1.0,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        ),
    ),
    # Weights that are bf16 values, stored as raw bits: .npy has no bfloat16, so the files have
    # uint16 and config.json gives the type.
    Case(
        name="olmo2-bf16",
        model_type="olmo2",
        seed=539,
        n_tokens=40,
        stored="bfloat16",
        config=dict(
            vocab_size=149,
            hidden_size=48,
            intermediate_size=100,
            num_hidden_layers=2,
            num_attention_heads=3,
            num_key_value_heads=3,
            max_position_embeddings=64,
            rms_norm_eps=1e-6,
            rope_parameters=DEFAULT_ROPE,
        ),
    ),
    # OLMo-1 with a head of its own, where clipping meets about half of all queries, keys and
    # values. No size is a multiple of 4.
    Case(
        name="olmo1-clip",
        model_type="olmo",
        seed=616,
        n_tokens=25,
        gain=2.5,
        config=dict(
            vocab_size=107,
            hidden_size=30,
            intermediate_size=41,
            num_hidden_layers=2,
            num_attention_heads=3,
            num_key_value_heads=3,
            max_position_embeddings=48,
            clip_qkv=1.75,
            rope_parameters=OLMO1_ROPE,
        ),
    ),
    # Tied and without clipping, as OLMo-1B was published; f16 files.
    Case(
        name="olmo1-tied",
        model_type="olmo",
        seed=711,
        n_tokens=30,
        stored="float16",
        spelling="4.55.4",
        config=dict(
            vocab_size=127,
            hidden_size=32,
            intermediate_size=44,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=64,
            rope_parameters=OLMO1_ROPE,
            tie_word_embeddings=True,
        ),
    ),
    # Grouped queries, which no published OLMo-1 has, in bf16, clipped, over a block of 64 keys.
    Case(
        name="olmo1-gqa-bf16",
        model_type="olmo",
        seed=814,
        n_tokens=80,
        gain=2.5,
        stored="bfloat16",
        config=dict(
            vocab_size=113,
            hidden_size=32,
            intermediate_size=36,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=1,
            max_position_embeddings=128,
            clip_qkv=3.0,
            rope_parameters=OLMO1_ROPE,
        ),
    ),
    # Experts of a width that ends within a panel, their weights normalised, queries, keys and values clipped, and one key
    # head for three of queries.
    Case(
        name="olmoe-odd",
        model_type="olmoe",
        seed=906,
        n_tokens=70,
        gain=2.5,
        config=dict(
            vocab_size=113,
            hidden_size=30,
            intermediate_size=19,
            num_hidden_layers=2,
            num_attention_heads=3,
            num_key_value_heads=1,
            max_position_embeddings=128,
            rms_norm_eps=1e-5,
            num_experts=7,
            num_experts_per_tok=3,
            norm_topk_prob=True,
            clip_qkv=2.5,
            rope_parameters=OLMO1_ROPE,
        ),
    ),
    # The block of OLMo-2 with experts, in bf16.
    Case(
        name="flexolmo-bf16",
        model_type="flex_olmo",
        seed=1037,
        n_tokens=30,
        stored="bfloat16",
        config=dict(
            vocab_size=113,
            hidden_size=32,
            intermediate_size=28,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            rms_norm_eps=1e-6,
            num_experts=5,
            num_experts_per_tok=4,
            rope_parameters=DEFAULT_ROPE,
        ),
    ),
    # Linear attention in three of four layers, none of them with RoPE; the prompt is longer than a block of 64 keys.
    Case(
        name="hybrid-nope",
        model_type="olmo_hybrid",
        seed=1179,
        n_tokens=90,
        stored="bfloat16",
        config=dict(
            vocab_size=113,
            hidden_size=36,
            intermediate_size=44,
            num_hidden_layers=4,
            num_attention_heads=3,
            num_key_value_heads=3,
            max_position_embeddings=128,
            rms_norm_eps=1e-6,
            layer_types=["linear_attention"] * 3 + ["full_attention"],
            linear_num_key_heads=3,
            linear_num_value_heads=3,
            linear_key_head_dim=9,
            linear_value_head_dim=18,
            linear_conv_kernel_dim=4,
            linear_allow_neg_eigval=True,
            rope_parameters={"rope_type": "default", "rope_theta": None},
        ),
    ),
]


# ---------------------------------------------------------------------------- model and prompt


def build_model(case: Case) -> torch.nn.Module:
    """The case's model in float32, its weights random and exact in the stored type."""
    config_class, model_class = MODELS[case.model_type]
    config = config_class(
        **copy.deepcopy(case.config),
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=None,
        architectures=[model_class.__name__],
        dtype=case.stored,
    )
    model = as_reference(model_class(config))
    rng = np.random.default_rng(case.seed)
    for name, parameter in model.named_parameters():
        values = random_weights(rng, name, tuple(parameter.shape), case.gain)
        rounded = torch.from_numpy(values).to(getattr(torch, case.stored))
        parameter.data = rounded.float()
    model.tie_weights()
    check_rope(model)
    return model


def as_reference(model: torch.nn.Module) -> torch.nn.Module:
    model = model.float().eval()
    model.set_attn_implementation("eager")
    # The grouped product needs sizes that are multiples of 16 bytes.
    model.set_experts_implementation("eager")
    return model


def random_weights(
    rng: np.random.Generator, name: str, shape: tuple[int, ...], gain: float
) -> np.ndarray:
    """Large enough that every layer matters: logits come out with a deviation of 2 to 4."""
    noise = rng.standard_normal(shape)
    if len(shape) == 1:  # a norm
        values = 1.0 + 0.3 * noise
    elif "embed_tokens" in name:
        values = 0.5 * noise
    else:  # a matrix [out, in]
        values = gain / math.sqrt(shape[1]) * noise
    return values.astype(np.float32)


def random_prompt(case: Case) -> torch.Tensor:
    """[1, n_tokens] ids without the end token."""
    rng = np.random.default_rng(case.seed + 50)
    ids = rng.integers(END + 1, case.config["vocab_size"], case.n_tokens)
    return torch.from_numpy(ids)[None]


def check_rope(model: torch.nn.Module) -> None:
    """Compare the tables of an Olmo-3 model with the formulas, per kind of layer.

    Some releases of transformers use YaRN in sliding layers too; their logits are not a reference.
    """
    config = model.config
    if config.model_type != "olmo3":
        return
    head_dim = config.hidden_size // config.num_attention_heads
    for kind, rope in config.rope_parameters.items():
        assert kind == "full_attention" or rope["rope_type"] == "default"
        theta = rope["rope_theta"]
        index = np.arange(head_dim // 2)
        frequencies = theta ** (-2.0 * index / head_dim)
        attention_factor = 1.0
        if rope["rope_type"] == "yarn":
            # The pair that turns `turns` times within the original length.
            def pair(turns: float) -> float:
                length = rope["original_max_position_embeddings"]
                return head_dim * math.log(length / (2 * math.pi * turns)) / (2 * math.log(theta))

            low = max(math.floor(pair(rope["beta_fast"])), 0)
            high = min(math.ceil(pair(rope["beta_slow"])), head_dim - 1)
            ramp = np.clip((index - low) / (high - low), 0, 1)
            frequencies *= (1 - ramp) + ramp / rope["factor"]
            attention_factor = 0.1 * math.log(rope["factor"]) + 1
        rotary = model.model.rotary_emb
        used = getattr(rotary, f"{kind}_inv_freq").numpy()
        np.testing.assert_allclose(used, frequencies, rtol=1e-6)
        assert math.isclose(getattr(rotary, f"{kind}_attention_scaling"), attention_factor)


def check_clipping(model: torch.nn.Module, ids: torch.Tensor, logits: torch.Tensor) -> None:
    """A model that clips must give other logits without."""
    clip = getattr(model.config, "clip_qkv", None)
    if clip is None:
        return
    model.config.clip_qkv = None
    change = (logits_of(model, ids) - logits).abs().mean().item()
    model.config.clip_qkv = clip
    assert change > MIN_CLIPPING_CHANGE, f"clipping changes logits by {change:.3f} only"


# ---------------------------------------------------------------------------------- reference


@torch.no_grad()
def logits_of(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Logits of one forward pass over [1, n] ids, as [n, vocab] float32."""
    return model(ids, use_cache=False).logits[0].float()


@torch.no_grad()
def hidden_of(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """The hidden states of all layers at the last positions, as transformers numbers them."""
    hidden = model(ids, use_cache=False, output_hidden_states=True).hidden_states
    return torch.stack([layer[0, -HIDDEN_POSITIONS:].float() for layer in hidden])


def greedy_decode(model: torch.nn.Module, ids: torch.Tensor) -> tuple[list[int], float]:
    """The ids chosen, every step computed from scratch, and the smallest lead of the best logit."""
    chosen, gaps = [], []
    for _ in range(GREEDY_STEPS):
        best = logits_of(model, ids)[-1].topk(2)
        chosen.append(best.indices[0].item())
        gaps.append((best.values[0] - best.values[1]).item())
        ids = torch.cat([ids, best.indices[None, :1]], dim=1)
    return chosen, min(gaps)


def in_bfloat16(model: torch.nn.Module) -> torch.nn.Module:
    """A bfloat16 copy; RoPE tables are not parameters and stay float32, as in transformers."""
    rounded = copy.deepcopy(model)
    for parameter in rounded.parameters():
        parameter.data = parameter.data.bfloat16()
    return rounded


def expectations(model: torch.nn.Module, ids: torch.Tensor, logits: torch.Tensor) -> dict:
    """The content of expected.json; an AssertionError asks for another seed."""
    log_probabilities = logits.double().log_softmax(1)
    nll = -log_probabilities[:-1].gather(1, ids[0, 1:, None])

    top = logits[-1].topk(6)
    gap = -top.values.diff().max().item()
    assert gap > MIN_TOP5_GAP, f"last_top5 has a near-tie ({gap:.4f})"

    greedy, gap = greedy_decode(model, ids)
    assert gap > MIN_GREEDY_GAP, f"greedy decoding has a near-tie ({gap:.4f})"
    assert END not in greedy, "greedy decoding meets the end token"
    assert len({*greedy}) >= MIN_DISTINCT_GREEDY, "greedy decoding is a short loop"

    rounded = in_bfloat16(model)
    assert greedy_decode(rounded, ids)[0] == greedy, "greedy decoding differs in bfloat16"
    error = (logits_of(rounded, ids) - logits).abs()

    return {
        "bf16_reference": {"max_abs": error.max().item(), "mean_abs": error.mean().item()},
        "greedy": greedy,
        "last_top5": top.indices[:5].tolist(),
        "mean_nll": nll.mean().item(),
    }


# -------------------------------------------------------------------------------------- files


def spelled_config(case: Case, model: torch.nn.Module) -> dict:
    """The configuration as the release `case.spelling` writes it.

    4.x keeps rope_theta at the top level, leaves out absent ids and, up to 4.55, writes
    torch_dtype. 5.x is what the class itself writes: for olmo3 one entry per kind of layer.
    """
    config = json.loads(model.config.to_json_string())
    if case.spelling.startswith("5."):
        return config
    rope = config.pop("rope_parameters")
    kinds = list(rope.values()) if case.model_type == "olmo3" else [rope]
    assert all(kind == kinds[0] and kind["rope_type"] == "default" for kind in kinds)
    config["rope_theta"] = kinds[0]["rope_theta"]
    config["rope_scaling"] = None
    if case.spelling < "4.57":
        config["torch_dtype"] = config.pop("dtype")
    for absent in ("bos_token_id", "pad_token_id"):
        del config[absent]
    config["transformers_version"] = case.spelling
    return config


def stored_array(case: Case, parameter: torch.Tensor) -> np.ndarray:
    if case.stored == "bfloat16":
        return parameter.bfloat16().view(torch.int16).numpy().view("<u2")
    return parameter.numpy().astype(case.stored)


def loaded_array(case: Case, array: np.ndarray) -> torch.Tensor:
    if case.stored == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).float()
    return torch.from_numpy(array).float()


def write_case(case: Case, folder: Path) -> None:
    model = build_model(case)
    ids = random_prompt(case)
    logits = logits_of(model, ids)
    deviation = logits.std().item()
    assert 2.0 <= deviation <= 4.5, f"logits have a deviation of {deviation:.2f}"
    check_clipping(model, ids, logits)
    expected = expectations(model, ids, logits)

    if folder.exists():
        shutil.rmtree(folder)
    weights = folder / "weights"
    weights.mkdir(parents=True)
    for name, parameter in model.named_parameters():
        np.save(weights / f"{name}.npy", stored_array(case, parameter.detach()))
    write_json(weights / "config.json", spelled_config(case, model), indent=2)
    (folder / "tokens.bin").write_bytes(ids.numpy().astype("<u4").tobytes())
    np.save(folder / "logits.npy", logits.numpy())
    np.save(folder / "hidden.npy", hidden_of(model, ids).numpy())
    write_json(folder / "expected.json", expected, indent=1)

    check_case(case, folder)
    error = expected["bf16_reference"]["max_abs"]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{case.name:15} {parameters:6} parameters  {bytes_in(folder):6} bytes  "
        f"logits' deviation {deviation:.2f}  bf16 error up to {error:.3f}"
    )


def check_case(case: Case, folder: Path) -> None:
    """The files alone, read by transformers, give the very same logits."""
    config_class, model_class = MODELS[case.model_type]
    config = config_class.from_json_file(folder / "weights" / "config.json")
    model = as_reference(model_class(config))
    check_rope(model)
    arrays = {
        path.name.removesuffix(".npy"): np.load(path)
        for path in (folder / "weights").glob("*.npy")
    }
    named = dict(model.named_parameters())
    assert named.keys() == arrays.keys()
    for name, array in arrays.items():
        assert named[name].shape == array.shape
        named[name].data = loaded_array(case, array)
    model.tie_weights()
    ids = np.fromfile(folder / "tokens.bin", dtype="<u4").astype(np.int64)
    logits = logits_of(model, torch.from_numpy(ids)[None]).numpy()
    assert np.array_equal(logits, np.load(folder / "logits.npy"))
    hidden = hidden_of(model, torch.from_numpy(ids)[None]).numpy()
    assert np.array_equal(hidden, np.load(folder / "hidden.npy"))
    assert bytes_in(folder) <= MAX_CASE_BYTES, f"{folder} has {bytes_in(folder)} bytes"


def write_json(path: Path, value: dict, indent: int) -> None:
    path.write_text(json.dumps(value, indent=indent, sort_keys=True) + "\n", encoding="utf-8")


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("tests/golden"))
    parser.add_argument("--case", choices=[case.name for case in CASES], action="append", help="only this one")
    arguments = parser.parse_args()
    cases = [case for case in CASES if not arguments.case or case.name in arguments.case]

    torch.set_num_threads(1)  # one order of summation; the models are tiny
    for case in cases:
        write_case(case, arguments.folder / case.name)
    total = sum(bytes_in(arguments.folder / case.name) for case in CASES)
    assert total <= MAX_TOTAL_BYTES, f"{total} bytes in all cases"


if __name__ == "__main__":
    main()
