"""Matrices through olmo-pack and back.

The matrices of a checkpoint become those of an OLMo-2 model of the same widths, whose norms are ones. olmo-pack encodes
it, and read_olmo.py decodes the file. So what is measured is what the program writes.
"""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

import read_olmo
from lowbits.models import EMBEDDING, HEAD, Checkpoint

ROLES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def olmo_name(name: str) -> str:
    """The name of a matrix in an OLMo-2 checkpoint."""
    if name in (EMBEDDING, HEAD):
        return {EMBEDDING: "model.embed_tokens.weight", HEAD: "lm_head.weight"}[name]
    _, layer, role, _ = name.split(".")
    return f"model.layers.{layer}.{ROLES[role]}.weight"


def write_folder(checkpoint: Checkpoint, folder: Path) -> None:
    """The checkpoint as an OLMo-2 weights folder."""
    tensors, layers = checkpoint.tensors, checkpoint.layers
    for name in checkpoint.matrices():
        np.save(folder / f"{olmo_name(name)}.npy", tensors[name])
    hidden = tensors[EMBEDDING].shape[1]
    keys = tensors["blk.0.attn_k.weight"].shape[0]
    ones = {"model.norm": hidden}
    for layer in range(layers):
        of = f"model.layers.{layer}"
        ones |= {f"{of}.post_attention_layernorm": hidden, f"{of}.post_feedforward_layernorm": hidden}
        ones |= {f"{of}.self_attn.q_norm": tensors["blk.0.attn_q.weight"].shape[0], f"{of}.self_attn.k_norm": keys}
    for name, length in ones.items():
        np.save(folder / f"{name}.weight.npy", np.ones(length, np.float32))
    config = {
        "architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "attention_bias": False, "hidden_act": "silu",
        "hidden_size": hidden, "intermediate_size": tensors["blk.0.ffn_gate.weight"].shape[0],
        "max_position_embeddings": 2048, "num_attention_heads": checkpoint.heads, "num_hidden_layers": layers,
        "num_key_value_heads": checkpoint.kv_heads, "rms_norm_eps": 1e-6, "rope_theta": 500000.0,
        "tie_word_embeddings": False, "vocab_size": tensors[EMBEDDING].shape[0], "eos_token_id": 0,
        "pad_token_id": None, "bos_token_id": None,
    }
    (folder / "config.json").write_text(json.dumps(config))


class Packer:
    """A checkpoint as a weights folder in `scratch`, which olmo-pack reads again for every choice of encodings."""

    def __init__(self, program: Path, checkpoint: Checkpoint, scratch: Path) -> None:
        self.program = program
        self.names = checkpoint.matrices()
        self.folder = Path(tempfile.mkdtemp(prefix="weights-", dir=scratch))
        write_folder(checkpoint, self.folder)

    def through(self, arguments: list[str]) -> tuple[dict[str, np.ndarray], dict[str, int], dict[str, str]]:
        """The matrices after olmo-pack with `arguments`, the bytes of each in the file, and its encoding."""
        path = self.folder.with_suffix(".olmo")
        subprocess.run([self.program, self.folder, path, "--force", *arguments], check=True, stdout=subprocess.DEVNULL)
        model = read_olmo.Model(str(path))
        matrices, sizes, encodings = {}, {}, {}
        for name in self.names:
            position = model.positions[olmo_name(name)]
            matrices[name] = model.matrix(olmo_name(name))
            sizes[name] = int(model.records[position][9])
            encodings[name] = model.encoding(position)
        del model
        path.unlink()
        return matrices, sizes, encodings

    def remove(self) -> None:
        """Removes the weights folder."""
        shutil.rmtree(self.folder)
