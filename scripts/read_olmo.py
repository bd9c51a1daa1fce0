#!/usr/bin/env python3
"""Reads an .olmo file, from format-spec.md alone. Needs numpy; with the xxhash module it checks the digests too.

    read_olmo.py MODEL                  lists what is in the file
    read_olmo.py MODEL --export DIR     writes every tensor as an f32 .npy file
    read_olmo.py --judge                prints a line of JSON for each path on standard input: the facts of the file,
                                        under the keys of olmo-pack inspect --json, or why it is refused or cannot be
                                        read

Each of them checks the header, the index and the sections of a file as format-spec.md defines them. Of the tensors only
the digests are checked, by --export. olmo-pack verify also checks that `min_magnitude` is their smallest magnitude, and
that padding is zero.

In a program, `read(path)` returns {name: array}, every array f32 in the shape of the checkpoint, but a convolution
[channels, 1, kernel] as a vector of channels x kernel numbers. If that is too much, `Model(path)` opens the file:

    model.rows(name, start, stop)   decodes some rows of a matrix to f32, and reads only the panels of these rows
    model.matrix(name)              decodes a whole matrix
    model.panels(name)              is a view of a plain matrix in the file; it reads and copies nothing

The name of a draft, a second copy of a matrix, is that of the matrix after "draft.".
"""

import argparse
import json
import os
import re
import secrets
import stat
import struct
import sys

import numpy as np

try:
    import xxhash
except ImportError:
    xxhash = None

MAGIC = b"\x89OLMO\r\n\x1a"
VERSION_MAJOR, VERSION_MINOR = 1, 0
BYTE_ORDER_MARK = 0x01020304
HEADER_BYTES = 4096
SECTION_ALIGNMENT = 64
TENSOR_ALIGNMENT = 256
LARGE_DATA_BYTES = 16 << 20
PANEL_ROWS = 64
MAX_SECTIONS = 64
MAX_WIDTH, MAX_LAYERS, MAX_HEAD_DIM, MAX_POSITIONS = 1 << 20, 1024, 1024, 1 << 24
MAX_EXPERTS, MAX_TENSORS, MAX_LINEAR_HEADS, MAX_CONV_KERNEL = 512, 1 << 16, 1 << 12, 16
MAX_FILE_BYTES = 2**63 - 1
NONE = 0xFFFFFFFF
# Most ids that a vocabulary may have beyond the rows of the embedding.
MAX_TOKENS_BEYOND = 1024
# Limits of a tokenizer: added tokens, their bytes, the bytes of what merges make.
MAX_ADDED, MAX_ADDED_BYTES, MAX_MERGED_BYTES = 1 << 16, 1 << 20, 64 << 20
# Longest format of a date in a chat format, and its conversions.
MAX_DATE_BYTES = 100
DATE = re.compile(rb"(?:[^%]|%-?[aAbBdDeFHIjmMpRSTyY%])*", re.DOTALL)
SECTION_REQUIRED = 1
FEATURE_BF12, FEATURE_DRAFTS, FEATURE_QUANTIZED, FEATURE_EXPERTS, FEATURE_LINEAR = 1, 2, 4, 8, 16
DRAFT_ROLE = 0x100
N_CODES = 16
CODED_STEP_BYTES, RAW_STEP_BYTES = 192, 256
STEPS_PER_RAW_STEP = 8
# Panels of a matrix that are decoded at a time, so that decoding needs little memory in addition to the result.
PANELS_AT_A_TIME = 32
BLOCK_COLUMNS, N_LEVELS, ELEMENT_OFFSET = 32, 16, 128
PLAIN, BF12, F16_SCALES, ROW_SCALES_32, ROW_SCALES_16 = range(5)
F32, BF16, INT8, INT4 = 1, 2, 3, 4
VECTOR, PANELS64 = 1, 2
DTYPE_NAMES = {F32: "f32", BF16: "bf16", INT8: "int8", INT4: "int4"}
ENCODINGS = {
    F32: (PLAIN,), BF16: (PLAIN, BF12), INT8: (F16_SCALES, ROW_SCALES_32, ROW_SCALES_16),
    INT4: (F16_SCALES, ROW_SCALES_32, ROW_SCALES_16),
}
# Of quantized panels: bytes of the scales of a block by encoding, and of its elements by type.
SCALE_BYTES = {F16_SCALES: 2 * PANEL_ROWS, ROW_SCALES_32: PANEL_ROWS, ROW_SCALES_16: 2 * PANEL_ROWS}
ELEMENT_BYTES = {INT8: BLOCK_COLUMNS * PANEL_ROWS, INT4: BLOCK_COLUMNS * PANEL_ROWS // 2}
# Columns of a step of a panel, and bytes of an element.
STEP_COLUMNS, WIDTHS = {F32: 1, BF16: 2}, {F32: 4, BF16: 2}
BF12_SECTION = 5
SECTION_NAMES = {
    1: "SOURCES", 2: "VOCABULARY", 3: "CONFIG_JSON", 4: "PROVENANCE", BF12_SECTION: "BF12", 6: "TOKENIZER", 7: "CHAT",
    8: "FILES", 9: "SAMPLING", 10: "GGUF", 11: "SPELLING",
}
FILE_NAMES = (
    "tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "generation_config.json",
)
SECTION_LIMITS = {1: 64 << 20, 2: 128 << 20, 4: 64 << 10, BF12_SECTION: 64 << 20, 8: 64 << 20, 10: 32 << 20}
SOURCE_TYPES = {1: "f32", 2: "f16", 3: "bf16"}
SOURCE_OF_DESCR = {"<f4": 1, "<f2": 2, "<V2": 3, "|V2": 3, "<u2": 3}

HEADER = struct.Struct("<8sHHIQQQIIIIQQQQ40s496s3464sQ")
CONFIG = struct.Struct("<12I7d6I16I128sd10I128s")
OLMO2, OLMO3, OLMO1, OLMOE, FLEX_OLMO, OLMO_HYBRID = range(1, 7)
ARCHITECTURES = {
    OLMO2: "olmo2", OLMO3: "olmo3", OLMO1: "olmo", OLMOE: "olmoe", FLEX_OLMO: "flex_olmo", OLMO_HYBRID: "olmo_hybrid",
}
ROPE_DEFAULT, ROPE_YARN, ROPE_NONE = range(3)
LAYER_NORM_EPS = 1e-5
CONFIG_FIELDS = (
    "architecture n_layers hidden_size n_heads n_kv_heads head_dim intermediate_size vocab_size "
    "max_position_embeddings sliding_window tie_word_embeddings rope_type rms_norm_eps rope_theta rope_theta_sliding "
    "yarn_factor yarn_beta_fast yarn_beta_slow yarn_attention_factor yarn_original_max_position_embeddings "
    "yarn_truncate bos_token_id pad_token_id n_eos_token_ids reserved"
).split()
# Those after the bitmap of sliding layers.
MORE_CONFIG_FIELDS = (
    "clip_qkv n_experts n_experts_per_tok norm_topk_prob linear_num_key_heads linear_num_value_heads "
    "linear_key_head_dim linear_value_head_dim linear_conv_kernel_dim linear_allow_neg_eigval reserved_2"
).split()
TENSOR = struct.Struct("<6I5Q2I16sI36s")
SECTION = struct.Struct("<2I3Q32s")
SAMPLING = struct.Struct("<4d2I")
SOURCE = struct.Struct("<2IQ")
SPELLING_HEAD, SPELLING, SPELLING_PART = struct.Struct("<2I"), struct.Struct("<4I3Q"), struct.Struct("<2I2Q")
# What a tensor of a folder can be named.
SPELLED_NAME = re.compile(rb"[A-Za-z0-9_-][A-Za-z0-9._-]{0,250}")
TOKENIZER = struct.Struct("<6I8s")
CHAT = struct.Struct("<6I")
CHAT_STYLE = struct.Struct("<12H14II")
PRE_TOKENIZERS = {1: "dolma2", 2: "GPT-2"}
WITHOUT_SYSTEM, WITH_SYSTEM, TAKES_BLANK, HAS_DATES = 1, 2, 4, 8
# Characters that control a terminal or the order of text are escaped in lines: control characters, separators of lines
# and paragraphs, bidirectional controls, and annotations.
DISPLAY_CONTROLS = (
    *range(0x20), *range(0x7F, 0xA0), *range(0x2028, 0x202F), *range(0x2066, 0x2070), *range(0xFFF9, 0xFFFC),
)
ESCAPES = {code: f"\\u{{{code:x}}}" for code in DISPLAY_CONTROLS}
ESCAPES |= {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}
# GGUF files: limits of a header, bytes of values by type, and the code of lists.
GGUF_HEADER_BYTES, GGUF_KEYS, GGUF_TENSORS, GGUF_NAME_BYTES, GGUF_TEXT_BYTES = 16 << 20, 4096, 16384, 255, 4 << 20
GGUF_ALIGNMENT, GGUF_ALIGNMENTS = "general.alignment", [1 << n for n in range(3, 21)]
GGUF_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 10: "<Q", 11: "<q", 12: "<d"}
GGUF_BOOL, GGUF_TEXT, GGUF_LIST = 7, 8, 9
# Elements and bytes of a block of each type of tensors.
GGUF_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74),
    18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2),
    26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
    40: (64, 36), 41: (128, 18),
}
# The types that a model is packed from, as SOURCES has them.
GGUF_SOURCES = {0: "f32", 1: "f16", 30: "bf16", 2: "f32", 8: "f32", 14: "f32", 20: "f32"}
# The names of tensors: outside the layers, and in one.
GGUF_MODEL = {1: "token_embd.weight", 13: "output_norm.weight", 14: "output.weight"}
GGUF_LAYER = {
    2: "attn_q", 3: "attn_k", 4: "attn_v", 5: "attn_q_norm", 6: "attn_k_norm", 7: "attn_output",
    8: "post_attention_norm", 9: "ffn_gate", 10: "ffn_up", 11: "ffn_down", 12: "post_ffw_norm",
}
# Bytes that no UTF-8 text has.
NOT_IN_UTF8 = {0xC0, 0xC1, *range(0xF5, 0x100)}

# Of a layer, in the order of the file: which layers have it, role, name, rows and columns.
LAYER_TENSORS = (
    ("pre-norm", 15, "input_layernorm.weight", "h", None),
    ("attention", 2, "self_attn.q_proj.weight", "q", "h"),
    ("attention", 3, "self_attn.k_proj.weight", "kv", "h"),
    ("attention", 4, "self_attn.v_proj.weight", "kv", "h"),
    ("attention", 5, "self_attn.q_norm.weight", "q", None),
    ("attention", 6, "self_attn.k_norm.weight", "kv", None),
    ("attention", 7, "self_attn.o_proj.weight", "h", "q"),
    ("linear", 20, "linear_attn.q_proj.weight", "lk", "h"),
    ("linear", 21, "linear_attn.k_proj.weight", "lk", "h"),
    ("linear", 22, "linear_attn.v_proj.weight", "lv", "h"),
    ("linear", 23, "linear_attn.conv1d.weight", "lc", None),
    ("linear", 24, "linear_attn.a_proj.weight", "lh", "h"),
    ("linear", 25, "linear_attn.b_proj.weight", "lh", "h"),
    ("linear", 26, "linear_attn.A_log", "lh", None),
    ("linear", 27, "linear_attn.dt_bias", "lh", None),
    ("linear", 28, "linear_attn.g_proj.weight", "lv", "h"),
    ("linear", 29, "linear_attn.o_norm.weight", "ld", None),
    ("linear", 30, "linear_attn.o_proj.weight", "h", "lv"),
    ("all", 8, "post_attention_layernorm.weight", "h", None),
    ("experts", 16, "mlp.gate.weight", "E", "h"),
    ("mlp", 9, "mlp.gate_proj.weight", "f", "h"),
    ("mlp", 10, "mlp.up_proj.weight", "f", "h"),
    ("mlp", 11, "mlp.down_proj.weight", "h", "f"),
    ("post-norm", 12, "post_feedforward_layernorm.weight", "h", None),
)
# Of each expert of a layer, after those of the layer.
EXPERT_TENSORS = (
    (17, "gate_proj.weight", "f", "h"),
    (18, "up_proj.weight", "f", "h"),
    (19, "down_proj.weight", "h", "f"),
)
# Matrices that are f32 in every file, and have no drafts: the router, and the projections for decay and rate.
ALWAYS_F32 = (16, 24, 25)
# Most tensors that a layer has without experts.
MAX_LAYER_TENSORS = 18


class FormatError(Exception):
    """The file does not follow format-spec.md; the text names the place."""


def expect(place, found, expected):
    """Refuses a value that is not the only one possible."""
    if found != expected:
        raise FormatError(f"{place}: found {found}, expected {expected}")


def check_digest(place, data, seed, expected):
    """Compares a digest, when the xxhash module is there."""
    if xxhash is not None:
        found = xxhash.xxh3_64_intdigest(data, seed=seed)
        expect(f"{place}: digest", f"{found:016x}", f"{expected:016x}")


def align(offset, alignment):
    return -(-offset // alignment) * alignment


def factor_bytes(encoding):
    """Bytes of the factors of the rows of a panel."""
    return 0 if encoding == F16_SCALES else 4 * PANEL_ROWS


def has_choice(shape):
    """Whether a tensor is a matrix that can have several types."""
    return shape[4] is not None and shape[1] & ~DRAFT_ROLE not in ALWAYS_F32


def widened(panels):
    """The rows of panels of bf16 numbers, f32."""
    upper = panels.transpose(0, 2, 1, 3).reshape(panels.shape[0] * PANEL_ROWS, -1)
    return (upper.astype("<u4") << 16).view("<f4")


def without_waiting(path, flags):
    """Opens as os.open, but waits for no writer of a pipe and takes no terminal."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


class Model:
    """An open file: its configuration, tensors and sections.

    `config` is a dict, `shapes` are [(name, role, layer, rows, columns or None)] in the order of the file, those of
    drafts after the first `n_model_tensors`, `experts` is the expert of each or None, and `bytes` is the whole file as
    a numpy.memmap. Names are those of the checkpoint, after "draft." for a draft; one that the file does not have is a
    KeyError.
    """

    def __init__(self, path):
        self.path = path
        with open(path, "rb", opener=without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise FormatError("is a pipe, a socket or a device, expected a regular file")
            page = file.read(HEADER_BYTES)
            self._read_header(page, status.st_size)
            self._read_index(file.read(self.index_bytes))
            self._check_layout()
            # Not the path, which may be another file by now.
            self.bytes = np.memmap(file, dtype=np.uint8, mode="r")
        expect("file length", len(self.bytes), self.file_bytes)
        self.positions = {shape[0]: position for position, shape in enumerate(self.shapes)}
        self._read_tables()

    def _read_header(self, page, length):
        if page[:8] != MAGIC:
            raise FormatError("not an .olmo file: the first eight bytes are not its magic")
        if len(page) < HEADER_BYTES:
            raise FormatError(f"truncated: {len(page)} bytes, less than the header")
        (
            _, major, self.version_minor, byte_order, self.file_bytes, self.features, _, header_bytes, self.n_tensors,
            self.n_sections, reserved_a, self.index_bytes, self.index_digest, self.data_offset, self.data_bytes,
            reserved_b, config, reserved_c, digest,
        ) = HEADER.unpack(page)
        expect("byte order mark", f"{byte_order:#010x}", f"{BYTE_ORDER_MARK:#010x}")
        if major != VERSION_MAJOR:
            raise FormatError(f"format version {major}.{self.version_minor}, this reads {VERSION_MAJOR}.{VERSION_MINOR}")
        check_digest("header", page[: HEADER_BYTES - 8], 0, digest)
        known = FEATURE_BF12 | FEATURE_DRAFTS | FEATURE_QUANTIZED | FEATURE_EXPERTS | FEATURE_LINEAR
        if self.features & ~known:
            raise FormatError(f"needs features {self.features:#x}, of which this reader knows {known:#x}")
        expect("file length", length, self.file_bytes)
        expect("header length", header_bytes, HEADER_BYTES)
        if reserved_a or any(reserved_b) or any(reserved_c):
            raise FormatError("header: reserved fields are not zero")
        self._read_config(config)
        self.shapes, self.experts = self._tensor_shapes()
        self.n_model_tensors = len(self.shapes)
        if self.features & FEATURE_DRAFTS:
            if not 1 <= self.n_tensors - self.n_model_tensors <= sum(map(has_choice, self.shapes)):
                raise FormatError(f"number of tensors: found {self.n_tensors}, no possible number of drafts")
        else:
            expect("number of tensors", self.n_tensors, self.n_model_tensors)
        if self.n_sections > MAX_SECTIONS:
            raise FormatError(f"{self.n_sections} sections, more than {MAX_SECTIONS}")
        expect("index length", self.index_bytes, self.n_tensors * TENSOR.size + self.n_sections * SECTION.size)

    def _read_config(self, block):
        values = CONFIG.unpack(block)
        config = dict(zip(CONFIG_FIELDS, values))
        bitmaps_at = -len(MORE_CONFIG_FIELDS) - 2
        eos, sliding, linear = values[len(CONFIG_FIELDS) : bitmaps_at], values[bitmaps_at], values[-1]
        config |= zip(MORE_CONFIG_FIELDS, values[bitmaps_at + 1 : -1])

        def within(name, low, high):
            if not low <= config[name] <= high:
                raise FormatError(f"{name}: found {config[name]}, expected {low} to {high}")

        def is_zero(name):
            """Whether a number is +0, which has its own meaning; -0 has none."""
            return struct.pack("<d", config[name]) == bytes(8)

        for name in ("hidden_size", "n_heads", "intermediate_size"):
            within(name, 1, MAX_WIDTH)
        within("architecture", min(ARCHITECTURES), max(ARCHITECTURES))
        architecture = config["architecture"]
        olmo1, olmo3, hybrid = (architecture == code for code in (OLMO1, OLMO3, OLMO_HYBRID))
        within("n_layers", 1, MAX_LAYERS)
        within("n_kv_heads", 1, config["n_heads"])
        within("head_dim", 2, MAX_HEAD_DIM)
        within("vocab_size", 1, 1 << 24)
        within("max_position_embeddings", 1, MAX_POSITIONS)
        within("tie_word_embeddings", 0, 1)
        within("rms_norm_eps", LAYER_NORM_EPS if olmo1 else 1e-12, LAYER_NORM_EPS if olmo1 else 1)
        if not is_zero("clip_qkv"):
            if architecture not in (OLMO1, OLMOE):
                raise FormatError("clip_qkv: only OLMo-1 and OLMoE clip")
            within("clip_qkv", 1e-3, 1e6)
        if config["head_dim"] % 2 or config["n_heads"] % config["n_kv_heads"]:
            raise FormatError("head_dim must be even and n_kv_heads a divisor of n_heads")
        if config["n_heads"] * config["head_dim"] > MAX_WIDTH:
            raise FormatError("n_heads x head_dim is more than 2^20")
        within("rope_type", ROPE_DEFAULT, ROPE_NONE)
        yarn, has_rope = config["rope_type"] == ROPE_YARN, config["rope_type"] != ROPE_NONE
        if (yarn and not olmo3) or not (has_rope or hybrid):
            raise FormatError(f"rope_type: found {config['rope_type']}, which the architecture does not have")
        for name in ("rope_theta", "rope_theta_sliding"):
            if has_rope:
                within(name, 1, 1e12)
            elif not is_zero(name):
                raise FormatError(f"{name}: found {config[name]}, expected 0 without rotation")
        for name, low, high in (
            ("yarn_factor", 1, 1e6),
            ("yarn_beta_fast", 1e-3, 1e6),
            ("yarn_beta_slow", 1e-3, 1e6),
            ("yarn_attention_factor", 1e-3, 1e3),
            ("yarn_original_max_position_embeddings", 1, MAX_POSITIONS),
            ("yarn_truncate", 0, 1),
        ):
            within(name, low if yarn else 0, high if yarn else 0)
            if not yarn and not is_zero(name):
                raise FormatError(f"{name}: found {config[name]}, expected 0")
        if yarn and config["rope_theta"] <= 1:
            raise FormatError("rope_theta must be above 1 with YaRN")
        for name, bits in (("sliding_layers", sliding), ("linear_layers", linear)):
            config[name] = [bool(bits[layer // 8] >> (layer % 8) & 1) for layer in range(config["n_layers"])]
            if sum(byte.bit_count() for byte in bits) != sum(config[name]):
                raise FormatError(f"{name}: bits beyond the last layer")
        slides, has_linear = any(config["sliding_layers"]), any(config["linear_layers"])
        if slides and not olmo3:
            raise FormatError("sliding_layers: only Olmo-3 has some")
        if has_linear and not hybrid:
            raise FormatError("linear_layers: only Olmo-Hybrid has some")
        within("sliding_window", 1 if slides else 0, MAX_POSITIONS if slides else 0)
        self._check_experts(within, config, architecture in (OLMOE, FLEX_OLMO))
        self._check_linear(within, config, has_linear)
        if config["n_layers"] * (MAX_LAYER_TENSORS + 3 * config["n_experts"]) + 3 > MAX_TENSORS:
            raise FormatError(f"n_experts: found {config['n_experts']}, too many for {config['n_layers']} layers")
        within("n_eos_token_ids", 0, 16)
        for name in ("reserved", "reserved_2"):
            expect("config: reserved field", config.pop(name), 0)
        used = config.pop("n_eos_token_ids")
        config["eos_token_ids"] = list(eos[:used])
        if any(id != NONE for id in eos[used:]) or NONE in eos[:used]:
            raise FormatError("eos_token_ids: entries beyond their number, or none among them")
        self.config = config

    @staticmethod
    def _check_experts(within, config, has_experts):
        within("n_experts", int(has_experts), MAX_EXPERTS if has_experts else 0)
        within("n_experts_per_tok", int(has_experts), config["n_experts"])
        within("norm_topk_prob", 0, int(has_experts))

    @staticmethod
    def _check_linear(within, config, has_linear):
        for name, most in (
            ("linear_num_key_heads", MAX_LINEAR_HEADS),
            ("linear_num_value_heads", MAX_LINEAR_HEADS),
            ("linear_key_head_dim", MAX_HEAD_DIM),
            ("linear_value_head_dim", MAX_HEAD_DIM),
            ("linear_conv_kernel_dim", MAX_CONV_KERNEL),
        ):
            within(name, int(has_linear), most if has_linear else 0)
        within("linear_allow_neg_eigval", 0, int(has_linear))
        if has_linear and config["linear_num_value_heads"] % config["linear_num_key_heads"]:
            raise FormatError("linear_num_value_heads must be a multiple of linear_num_key_heads")
        keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
        if 2 * keys + config["linear_num_value_heads"] * config["linear_value_head_dim"] > MAX_WIDTH:
            raise FormatError("queries, keys and values of linear attention have more than 2^20 channels")

    def _tensor_shapes(self):
        """[(name, role, layer, rows, columns or None)] in the canonical order, and the expert of each or None."""
        config = self.config
        keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
        values = config["linear_num_value_heads"] * config["linear_value_head_dim"]
        sizes = {
            "h": config["hidden_size"],
            "q": config["n_heads"] * config["head_dim"],
            "kv": config["n_kv_heads"] * config["head_dim"],
            "f": config["intermediate_size"],
            "E": config["n_experts"],
            "lk": keys,
            "lv": values,
            "lh": config["linear_num_value_heads"],
            "ld": config["linear_value_head_dim"],
            "lc": (2 * keys + values) * config["linear_conv_kernel_dim"],
            None: None,
        }
        shapes = [(("model.embed_tokens.weight", 1, NONE, config["vocab_size"], sizes["h"]), None)]
        for layer, is_linear in enumerate(config["linear_layers"]):
            has = {
                "all",
                "linear" if is_linear else "attention",
                "experts" if config["n_experts"] else "mlp",
                "pre-norm" if is_linear or config["architecture"] in (OLMO1, OLMOE) else "post-norm",
            }
            begin = f"model.layers.{layer}."
            for part, role, name, rows, columns in LAYER_TENSORS:
                if part in has:
                    shapes.append(((begin + name, role, layer, sizes[rows], sizes[columns]), None))
            for expert in range(config["n_experts"]):
                for role, name, rows, columns in EXPERT_TENSORS:
                    name = f"{begin}mlp.experts.{expert}.{name}"
                    shapes.append(((name, role, layer, sizes[rows], sizes[columns]), expert))
        shapes.append((("model.norm.weight", 13, NONE, sizes["h"], None), None))
        if not config["tie_word_embeddings"]:
            shapes.append((("lm_head.weight", 14, NONE, config["vocab_size"], sizes["h"]), None))
        # The norms of OLMo-1 have no weights, and all its vectors are norms.
        if config["architecture"] == OLMO1:
            shapes = [shape for shape in shapes if shape[0][4] is not None]
        return [shape for shape, _ in shapes], [expert for _, expert in shapes]

    def _read_index(self, index):
        expect("index", len(index), self.index_bytes)
        check_digest("index", index, 0, self.index_digest)
        end = self.n_tensors * TENSOR.size
        self.records = list(TENSOR.iter_unpack(index[:end]))
        self.sections = {}
        previous = 0
        for kind, flags, offset, size, digest, reserved in SECTION.iter_unpack(index[end:]):
            if kind <= previous or flags & ~SECTION_REQUIRED or any(reserved) or (kind == BF12_SECTION and not flags):
                raise FormatError(f"section {kind}: kind out of order, unknown flags or reserved fields")
            if kind not in SECTION_NAMES and flags & SECTION_REQUIRED:
                raise FormatError(f"section {kind}: required, and this reader does not know it")
            if size > SECTION_LIMITS.get(kind, 16 << 20):
                raise FormatError(f"section {kind}: {size} bytes are too many")
            self.sections[kind] = (offset, size, digest)
            previous = kind

    def _add_drafts(self):
        """Adds the drafts to the shapes: the records after those of the model name matrices of it, in their order, each
        at most once, and each in another encoding than that of the matrix."""
        matrices = iter(list(enumerate(self.shapes)))
        for record in self.records[self.n_model_tensors :]:
            for position, shape in matrices:
                name, role, layer, rows, columns = shape
                expert = self.experts[position]
                if has_choice(shape) and (*record[:2], record[14]) == (DRAFT_ROLE | role, layer, expert or 0):
                    break
            else:
                raise FormatError(f"drafts: role {record[0]} in layer {record[1]} is not the next draft of a matrix")
            self.shapes.append((f"draft.{name}", DRAFT_ROLE | role, layer, rows, columns))
            self.experts.append(expert)
            if (record[2], record[4]) == (self.records[position][2], self.records[position][4]):
                raise FormatError(f"draft.{name}: has the encoding of its matrix")

    def _check_layout(self):
        """Computes where everything is, and compares it with the index."""
        self._add_drafts()
        sizes, self.table_bytes = [], []
        for shape, record in zip(self.shapes, self.records):
            name, _, _, rows, columns = shape
            dtype, encoding, n_raw = record[2], *record[4:6]
            if dtype not in (DTYPE_NAMES if has_choice(shape) else (F32,)):
                raise FormatError(f"{name}: element type {dtype} is not possible")
            if encoding not in ENCODINGS[dtype]:
                raise FormatError(f"{name}: encoding {encoding} is not possible")
            levels = np.frombuffer(record[13], np.int8).astype(int)
            if np.any(np.diff(levels) <= 0) or levels[0] < -127 if dtype == INT4 else np.any(levels):
                raise FormatError(f"{name}: levels {levels} are not possible")
            is_bf12, is_quantized = encoding == BF12, dtype in ELEMENT_BYTES
            step = BLOCK_COLUMNS if is_quantized else STEP_COLUMNS[dtype]
            panels, steps = -(-rows // PANEL_ROWS), -(-(columns or 0) // step)
            if n_raw > (panels * steps // STEPS_PER_RAW_STEP if is_bf12 else 0):
                raise FormatError(f"{name}: {n_raw} raw steps are too many")
            if columns is None:
                sizes.append(4 * rows)
            elif is_quantized:
                sizes.append(panels * (factor_bytes(encoding) + steps * (SCALE_BYTES[encoding] + ELEMENT_BYTES[dtype])))
            elif is_bf12:
                sizes.append(panels * steps * CODED_STEP_BYTES + n_raw * (RAW_STEP_BYTES - CODED_STEP_BYTES))
            else:
                sizes.append(align(rows, PANEL_ROWS) * align(columns, step) * WIDTHS[dtype])
            self.table_bytes.append(N_CODES + 4 * (panels + n_raw) if is_bf12 else 0)
        # The drafts were counted when the header was read.
        is_quantized = any(record[2] in ELEMENT_BYTES for record in self.records)
        features = (FEATURE_BF12 if any(self.table_bytes) else 0) | (FEATURE_QUANTIZED if is_quantized else 0)
        features |= FEATURE_EXPERTS if self.config["n_experts"] else 0
        features |= FEATURE_LINEAR if any(self.config["linear_layers"]) else 0
        expect("features", self.features & ~FEATURE_DRAFTS, features)
        _, tables, _ = self.sections.get(BF12_SECTION, (0, None, 0))
        expect("section BF12: length", tables, sum(self.table_bytes) or None)

        cursor = HEADER_BYTES + self.index_bytes
        for kind, (offset, section_bytes, _) in self.sections.items():
            cursor = align(cursor, SECTION_ALIGNMENT)
            expect(f"section {kind}: offset", offset, cursor)
            cursor += section_bytes
        total = sum(align(size, TENSOR_ALIGNMENT) for size in sizes)
        large = total >= LARGE_DATA_BYTES
        group_alignment = 64 << 10 if large else 256
        cursor = align(cursor, 2 << 20 if large else 4096)
        expect("data offset", self.data_offset, cursor)
        group = None
        for position, (name, role, layer, rows, columns) in enumerate(self.shapes):
            its_group = (position >= self.n_model_tensors, layer, self.experts[position])
            cursor = align(cursor, TENSOR_ALIGNMENT if its_group == group else group_alignment)
            group = its_group
            vector = columns is None
            record = self.records[position]
            expected = (
                role, layer, record[2], VECTOR if vector else PANELS64, *record[4:6], rows, 1 if vector else columns,
                cursor, sizes[position], self.experts[position] or 0,
            )
            expect(f"{name}: record", (*record[:10], record[14]), expected)
            magnitude, rounded, reserved = record[11], record[12], record[15]
            is_possible = magnitude == 0 if record[2] in ELEMENT_BYTES else magnitude < 0x7F800000
            if not is_possible or rounded > 1 or any(reserved):
                raise FormatError(f"{name}: smallest magnitude, rounded or reserved fields are not possible")
            cursor += sizes[position]
        cursor = align(cursor, group_alignment)
        if cursor > MAX_FILE_BYTES:
            raise FormatError("the configuration describes no possible file")
        expect("file length", self.file_bytes, cursor)
        expect("data length", self.data_bytes, cursor - self.data_offset)

    def _read_tables(self):
        """The tables of bf12 tensors: self.tables[position] is (exponents, raw), where raw[panel, step] is true for raw
        steps.
        """
        data, at = self.section(BF12_SECTION), 0
        self.tables = []
        for (name, _, _, rows, columns), record, size in zip(self.shapes, self.records, self.table_bytes):
            if size == 0:
                self.tables.append(None)
                continue
            exponents = np.frombuffer(data, np.uint8, N_CODES, at)
            panels = -(-rows // PANEL_ROWS)
            numbers = np.frombuffer(data, "<u4", (size - N_CODES) // 4, at + N_CODES).astype(np.int64)
            counts, steps = numbers[:panels], numbers[panels:]
            raw = np.zeros((panels, -(-columns // 2)), dtype=bool)
            of_panel = np.repeat(np.arange(panels), counts) if counts.sum() == record[5] else None
            if of_panel is None or np.any(np.diff(exponents.astype(int)) <= 0) or np.any(steps >= raw.shape[1]):
                raise FormatError(f"{name}: exponents or raw steps of its table are not possible")
            # Panel and step as one number: strictly ascending when the steps of each panel are.
            if np.any(np.diff(of_panel * raw.shape[1] + steps) <= 0):
                raise FormatError(f"{name}: raw steps are out of order")
            raw[of_panel, steps] = True
            self.tables.append((exponents, raw))
            at += size

    def _decode(self, data, exponents, raw):
        """The bf16 numbers of a bf12 matrix, in the order of plain panels."""
        raw = raw.reshape(-1)
        sizes = np.where(raw, RAW_STEP_BYTES, CODED_STEP_BYTES)
        offsets = np.cumsum(sizes) - sizes
        numbers = np.empty((len(raw), PANEL_ROWS, 2), dtype="<u2")
        # Rows of an index array: one for each step.
        numbers[raw] = data[offsets[raw, None] + np.arange(RAW_STEP_BYTES)].view("<u2").reshape(-1, PANEL_ROWS, 2)
        # A million numbers at a time.
        for some in np.array_split(np.flatnonzero(~raw), len(raw) // 8192 + 1):
            steps = data[offsets[some, None] + np.arange(CODED_STEP_BYTES)]
            signs = steps[:, : 2 * PANEL_ROWS].reshape(-1, PANEL_ROWS, 2).astype("<u2")
            entries = np.ascontiguousarray(steps[:, 2 * PANEL_ROWS :]).view("<u2").reshape(-1, 1, 16, 2)
            codes = (entries >> np.array([0, 4, 8, 12], dtype="<u2").reshape(1, 4, 1, 1)) & 15
            exponent = exponents.astype("<u2")[codes].reshape(-1, PANEL_ROWS, 2)
            numbers[some] = (signs & 0x80) << 8 | exponent << 7 | signs & 0x7F
        return numbers

    def tensor(self, position):
        """The array of the tensor with this position in the index: f32, in its shape in `shapes`."""
        name, _, _, rows, columns = self.shapes[position]
        check_digest(name, self._data(position), position, self.records[position][10])
        if columns is None:
            return self._data(position).view("<f4").astype(np.float32)
        return self._rows(position, 0, rows)

    def matrix(self, name):
        """A whole matrix, [rows, columns] f32."""
        return self.tensor(self._matrix_position(name))

    def rows(self, name, start, stop):
        """Rows start to stop of a matrix, [stop - start, columns] f32. Reads only the panels of these rows, and
        checks no digest, as it covers all panels. A range that the matrix does not have is an IndexError."""
        position = self._matrix_position(name)
        rows = self.shapes[position][3]
        if not 0 <= start <= stop <= rows:
            raise IndexError(f"{name}: rows {start} to {stop}, it has {rows}")
        return self._rows(position, start, stop)

    def panels(self, name):
        """The panels of a plain matrix in the file, as a read-only numpy.memmap. Nothing is read before it is used, and
        no digest is checked.

        f32     [panels, columns, 64] float32: row r, column c is at [r // 64, c, r % 64]
        bf16    [panels, (columns + 1) // 2, 64, 2] uint16: it is at [r // 64, c // 2, r % 64, c % 2]

        Elements beyond the last row and column are zero. A matrix of another encoding has no such view: that is a
        ValueError.
        """
        position = self._matrix_position(name)
        if self.records[position][4] != PLAIN:
            raise ValueError(f"{name}: is {self.encoding(position)}; rows() and matrix() decode it")
        return self._panels(position)

    def encoding(self, position):
        """How the elements of a tensor are stored, by name."""
        dtype, encoding = self.records[position][2], self.records[position][4]
        if dtype in ELEMENT_BYTES:
            return DTYPE_NAMES[dtype] + {F16_SCALES: "-f16", ROW_SCALES_32: "", ROW_SCALES_16: "-16"}[encoding]
        return "bf12" if encoding == BF12 else DTYPE_NAMES[dtype]

    def _matrix_position(self, name):
        position = self.positions[name]
        if self.shapes[position][4] is None:
            raise ValueError(f"{name}: is a vector; tensor(positions[name]) gives it")
        return position

    def _data(self, position):
        """The bytes of a tensor, a view of the file."""
        offset, size = self.records[position][8:10]
        return self.bytes[offset : offset + size]

    def _panels(self, position):
        """A plain matrix as panels() gives it."""
        columns = self.shapes[position][4]
        if self.records[position][2] == F32:
            return self._data(position).view("<f4").reshape(-1, columns, PANEL_ROWS)
        return self._data(position).view("<u2").reshape(-1, align(columns, 2) // 2, PANEL_ROWS, 2)

    def _decoded_panels(self, position, first, end):
        """Some panels of a bf12 matrix, decoded to plain panels."""
        exponents, raw = self.tables[position]

        def begin(panel):
            n_raw = int(np.count_nonzero(raw[:panel]))
            return panel * raw.shape[1] * CODED_STEP_BYTES + n_raw * (RAW_STEP_BYTES - CODED_STEP_BYTES)

        data = self._data(position)[begin(first) : begin(end)]
        return self._decode(data, exponents, raw[first:end]).reshape(end - first, -1, PANEL_ROWS, 2)

    def _quantized_rows(self, position, first, end):
        """The rows of some panels of a quantized matrix, f32; columns that fill the last block included."""
        dtype, encoding, levels = self.records[position][2], self.records[position][4], self.records[position][13]
        panel_bytes = self.records[position][9] // -(-self.shapes[position][3] // PANEL_ROWS)
        data = self._data(position).reshape(-1, panel_bytes)[first:end]
        factors = np.ascontiguousarray(data[:, : factor_bytes(encoding)]).view("<f4")
        blocks = data[:, factor_bytes(encoding) :].reshape(end - first, -1, SCALE_BYTES[encoding] + ELEMENT_BYTES[dtype])
        scales, elements = np.split(blocks, [SCALE_BYTES[encoding]], axis=2)
        scales = np.ascontiguousarray(scales)
        # [panel, block, half or 1, row]
        if encoding == F16_SCALES:
            scales = scales.view("<f2").astype(np.float32)[:, :, None, :]
        else:
            scales = scales.view(np.int8).astype(np.float32).reshape(*scales.shape[:2], -1, PANEL_ROWS)
        scales = np.repeat(scales, BLOCK_COLUMNS // scales.shape[2], axis=2)
        if dtype == INT8:
            # [panel, block, quad, row, column of the quad]
            integers = elements.reshape(*elements.shape[:2], 8, PANEL_ROWS, 4).astype(np.int16) - ELEMENT_OFFSET
        else:
            octets = elements.reshape(*elements.shape[:2], 4, 1, PANEL_ROWS, 4)
            integers = np.frombuffer(levels, np.int8)[np.concatenate([octets & 15, octets >> 4], axis=3)]
            integers = integers.reshape(*elements.shape[:2], 8, PANEL_ROWS, 4)
        # [panel, block, column of the block, row]
        integers = integers.transpose(0, 1, 2, 4, 3).reshape(*elements.shape[:2], BLOCK_COLUMNS, PANEL_ROWS)
        numbers = integers.astype(np.float32) * scales
        if factors.size:
            numbers = numbers * factors[:, None, None, :]
        return numbers.transpose(0, 3, 1, 2).reshape((end - first) * PANEL_ROWS, -1)

    def _rows(self, position, start, stop):
        """Rows of a matrix that has them, f32."""
        columns, encoding = self.shapes[position][4], self.records[position][4]
        rows = np.empty((stop - start, columns), dtype=np.float32)
        end = -(-stop // PANEL_ROWS)
        for first in range(start // PANEL_ROWS, end, PANELS_AT_A_TIME):
            last = min(first + PANELS_AT_A_TIME, end)
            if self.records[position][2] in ELEMENT_BYTES:
                decoded = self._quantized_rows(position, first, last)
            elif encoding == BF12:
                decoded = widened(self._decoded_panels(position, first, last))
            elif self.records[position][2] == BF16:
                decoded = widened(self._panels(position)[first:last])
            else:
                decoded = self._panels(position)[first:last].transpose(0, 2, 1).reshape(-1, columns)
            top = first * PANEL_ROWS
            low, high = max(start, top), min(stop, top + len(decoded))
            rows[low - start : high - start] = decoded[low - top : high - top, :columns]
        return rows

    def section(self, kind):
        """The bytes of a section, or None."""
        if kind not in self.sections:
            return None
        offset, size, digest = self.sections[kind]
        data = self.bytes[offset : offset + size].tobytes()
        check_digest(f"section {kind}", data, kind, digest)
        return data

    def vocabulary(self):
        """The bytes of every token, or None. An id without an entry is empty."""
        data = self.section(2)
        if data is None:
            return None
        if len(data) < 16:
            raise FormatError("vocabulary: no room for its head")
        n_tokens, reserved, text_bytes = struct.unpack_from("<IIQ", data)
        expect("vocabulary: reserved field", reserved, 0)
        if n_tokens > self.config["vocab_size"] + MAX_TOKENS_BEYOND:
            raise FormatError("vocabulary: too many tokens beyond the rows")
        text_at = 16 + 4 * (n_tokens + 1)
        expect("vocabulary: text length", text_bytes, len(data) - text_at)
        offsets = struct.unpack_from(f"<{n_tokens + 1}I", data, 16)
        if offsets[0] != 0 or offsets[-1] != text_bytes or list(offsets) != sorted(offsets):
            raise FormatError("vocabulary: offsets are not those of its text")
        return [data[text_at + a : text_at + b] for a, b in zip(offsets, offsets[1:])]

    def sources(self):
        """Where each tensor of the model came from, [(element type, header of its .npy file, digest)], or None."""
        data = self.section(1)
        if data is None:
            return None
        of_model = self.shapes[: self.n_model_tensors]
        at = SOURCE.size * len(of_model)
        if len(data) < at:
            raise FormatError("sources: no room for the entries")
        sources = []
        for (name, _, _, rows, columns), (dtype, size, digest) in zip(of_model, SOURCE.iter_unpack(data[:at])):
            header = data[at : at + size]
            if dtype not in SOURCE_TYPES or len(header) != size:
                raise FormatError(f"sources: {name}: element type, or no room for its header")
            if header and npy_header(header) != (dtype, [rows] if columns is None else [rows, columns]):
                raise FormatError(f"sources: {name}: the header is that of other numbers")
            sources.append((SOURCE_TYPES[dtype], header, digest))
            at += size
        expect("sources: length", at, len(data))
        return sources

    def provenance(self):
        """{key: value} of how the file was made, empty without such a section. The values of a key that comes several
        times are in one text."""
        text = utf8("provenance", self.section(4) or b"")
        lines = text.removesuffix("\n").split("\n") if text else []
        found = {}
        for key, _, value in (line.removesuffix("\r").partition("=") for line in lines):
            found[key] = f"{found[key]}, {value}" if key in found else value
        return found

    def tokenizer(self):
        """How text becomes ids, a dict, or None. Of a tokenizer that the packer did not know it has `why`, and of one
        of another kind only the number of the kind."""
        data = self.section(6)
        if data is None:
            return None
        tokens = self.vocabulary()
        if tokens is None:
            raise FormatError("tokenizer: there is no vocabulary")
        if len(data) < TOKENIZER.size:
            raise FormatError("tokenizer: no room for its head")
        kind, pre_tokenizer, normalizer, n_merges, n_added, prefix_space, reserved = TOKENIZER.unpack_from(data)
        if kind == 0:
            expect("tokenizer: head", data[4 : TOKENIZER.size], bytes(TOKENIZER.size - 4))
            return {"kind": "unknown", "why": utf8("tokenizer", data[TOKENIZER.size :])}
        if kind != 1:
            return {"kind": kind}
        if pre_tokenizer not in PRE_TOKENIZERS or normalizer > 1 or prefix_space > 1 or any(reserved):
            raise FormatError("tokenizer: a code or a reserved field")
        expect("tokenizer: length", TOKENIZER.size + 4 * 256 + 12 * n_merges + 8 * n_added, len(data))
        numbers = struct.unpack_from(f"<{256 + 3 * n_merges + 2 * n_added}I", data, TOKENIZER.size)

        def text(id):
            if id >= len(tokens) or not tokens[id]:
                raise FormatError(f"tokenizer: the vocabulary does not have id {id}")
            return tokens[id]

        for byte, id in enumerate(numbers[:256]):
            if id == NONE and byte in NOT_IN_UTF8:
                continue
            if text(id) != bytes([byte]):
                raise FormatError(f"tokenizer: id {id} for the byte {byte:02x}")
        end = 256 + 3 * n_merges
        merges = list(zip(numbers[256:end:3], numbers[257:end:3], numbers[258:end:3]))
        if len({merge[:2] for merge in merges}) != n_merges:
            raise FormatError("tokenizer: two merges of one pair")
        for left, right, id in merges:
            if text(left) + text(right) != text(id):
                raise FormatError(f"tokenizer: the merge of {left} and {right} makes other bytes")
        if sum(len(tokens[merge[2]]) for merge in merges) > MAX_MERGED_BYTES:
            raise FormatError("tokenizer: merges of too many bytes")
        added = list(zip(numbers[end::2], numbers[end + 1 :: 2]))
        if any(flags > 7 for _, flags in added):
            raise FormatError("tokenizer: unknown flags of an added token")
        for id, _ in added:
            utf8("tokenizer: an added token", text(id))
        if n_added > MAX_ADDED or sum(len(tokens[id]) for id, _ in added) > MAX_ADDED_BYTES:
            raise FormatError("tokenizer: too many added tokens")
        return {
            "kind": "byte pairs", "pre_tokenizer": PRE_TOKENIZERS[pre_tokenizer], "nfc": normalizer == 1,
            "prefix_space": prefix_space == 1, "bytes": list(numbers[:256]), "merges": merges, "added": added,
        }

    def chat(self):
        """How conversations become text, a dict, or None. Of a template that could not be used it has only `why`."""
        data = self.section(7)
        if data is None:
            return None
        if len(data) < CHAT.size:
            raise FormatError("chat: no room for its head")
        kind, flags, n_reserved, why_bytes, think_end_bytes, reserved = CHAT.unpack_from(data)
        at = CHAT.size

        def text(size):
            nonlocal at
            if size > len(data) - at:
                raise FormatError("chat: no room for its texts")
            at += size
            return utf8("chat", data[at - size : at])

        if kind == 0:
            expect("chat: head", (flags, n_reserved, think_end_bytes, reserved), (0, 0, 0, 0))
            why = text(why_bytes)
            expect("chat: length", at, len(data))
            return {"kind": "unusable", "why": why}
        styles = [flag for flag in (WITHOUT_SYSTEM, WITH_SYSTEM) if flags & flag]
        if kind != 1 or flags > 15 or not styles or why_bytes or reserved:
            raise FormatError("chat: kind, flags or reserved fields")
        end = at + CHAT_STYLE.size * len(styles) + 4 * n_reserved
        if end > len(data):
            raise FormatError("chat: no room for its styles and lengths")
        heads = [CHAT_STYLE.unpack_from(data, at + CHAT_STYLE.size * i) for i in range(len(styles))]
        lengths = struct.unpack_from(f"<{n_reserved}I", data, end - 4 * n_reserved)
        at = end
        chat = {
            "kind": "pieces", "alone": None, "with_system": None, "think_end": text(think_end_bytes),
            "takes_blank": bool(flags & TAKES_BLANK), "has_dates": bool(flags & HAS_DATES),
        }
        for flag, head in zip(styles, heads):
            rules, sizes = head[:12], head[12:26]
            texts = [text(size) for size in sizes]
            for some in texts:
                formats = some.split("\0")[1::2]
                is_open = some.count("\0") % 2 == 1
                if is_open or (formats and not chat["has_dates"]) or not all(map(is_date, formats)):
                    raise FormatError("chat: an invalid date format")
            for rule in rules:
                cut, strip_cut, strip = rule >> 8, rule >> 4 & 15, rule & 15
                possible = cut <= 2 and strip_cut <= (6 if cut else 0) and strip <= 6
                if not possible or (cut and not chat["think_end"]):
                    raise FormatError(f"chat: a rule {rule:#x}")
            style = {"texts": texts, "rules": list(rules), "one_turn": text(head[26])}
            chat["alone" if flag == WITHOUT_SYSTEM else "with_system"] = style
        chat["reserved"] = [text(size) for size in lengths]
        expect("chat: length", at, len(data))
        if "" in chat["reserved"]:
            raise FormatError("chat: an empty reserved text")
        return chat

    def check(self):
        """Looks at all sections, of which opening the file has read none but BF12: digests, and the rules of those
        that version 1.0 defines. A file of which this and opening find nothing wrong is accepted."""
        for kind in self.sections:
            self.section(kind)
        self.sources(), self.vocabulary(), self.provenance(), self.tokenizer(), self.chat(), self.files()
        self.sampling(), self.gguf(), self.spelling()

    def files(self):
        """{name: bytes} of the small files of the folder that was packed, empty when none were kept."""
        data = self.section(8)
        if data is None:
            return {}
        n_files, reserved = struct.unpack_from("<2I", data) if len(data) >= 8 else (0, 1)
        if reserved or not 1 <= n_files <= len(FILE_NAMES) or len(data) < 8 + 8 * n_files:
            raise FormatError("files: number of files or reserved field")
        records = list(struct.iter_unpack("<2I", data[8 : 8 + 8 * n_files]))
        codes = [code for code, _ in records]
        if codes != sorted(set(codes)) or not 1 <= codes[0] <= codes[-1] <= len(FILE_NAMES):
            raise FormatError("files: codes of names")
        files, at = {}, 8 + 8 * n_files
        for code, size in records:
            files[FILE_NAMES[code - 1]] = data[at : at + size]
            at += size
        expect("files: length", at, len(data))
        return files

    def gguf(self):
        """Of the GGUF file that was packed: its length, everything before the data of its tensors, and its
        GgufHeader; or None."""
        data = self.section(10)
        if data is None:
            return None
        if len(data) < 8:
            raise FormatError("gguf: no room for its head")
        file_bytes = int.from_bytes(data[:8], "little")
        if file_bytes > MAX_FILE_BYTES:
            raise FormatError("gguf: the length of the file")
        start = data[8:]
        header = GgufHeader(start, file_bytes)
        expect("gguf: length", header.begin, len(start))
        sources = self.sources()
        if sources is None:
            raise FormatError("gguf: there is no section SOURCES")
        for (name, role, layer, rows, columns), source in zip(self.shapes, sources):
            if layer != NONE and role not in GGUF_LAYER:
                raise FormatError(f"gguf: no GGUF file that is packed has {name}")
            in_file = GGUF_MODEL[role] if layer == NONE else f"blk.{layer}.{GGUF_LAYER[role]}.weight"
            kind, shape = header.tensors.get(in_file, (None, None))
            if shape != ([rows] if columns is None else [rows, columns]):
                raise FormatError(f"gguf: {in_file} is missing or has another shape")
            if (GGUF_SOURCES.get(kind), b"") != source[:2]:
                raise FormatError(f"gguf: {in_file} has a type that is not that of its source")
        return file_bytes, start, header

    def spelling(self):
        """The tensors of the folder that were not those of the model, [(name, shape, header of its .npy file, parts)].
        Each part is (position of a tensor of the model, its first element, number of elements). Empty when all were
        those of the model."""
        data = self.section(11)
        if data is None:
            return []
        n_tensors, reserved = SPELLING_HEAD.unpack_from(data) if len(data) >= SPELLING_HEAD.size else (0, 0)
        parts_at = SPELLING_HEAD.size + SPELLING.size * n_tensors
        if n_tensors == 0 or reserved or len(data) < parts_at:
            raise FormatError("spelling: number of tensors, reserved field, or no room for the entries")
        records = list(SPELLING.iter_unpack(data[SPELLING_HEAD.size : parts_at]))
        at = parts_at + SPELLING_PART.size * sum(record[3] for record in records)
        if len(data) < at:
            raise FormatError("spelling: no room for the parts")
        all_parts = SPELLING_PART.iter_unpack(data[parts_at:at])

        def take(size):
            nonlocal at
            if size > len(data) - at:
                raise FormatError("spelling: no room for the names and headers")
            at += size
            return data[at - size : at]

        names = [take(record[0]) for record in records]
        if not all(map(SPELLED_NAME.fullmatch, names)):
            raise FormatError("spelling: a name that no tensor has")
        entries = []
        for name, (_, header_bytes, rank, n_parts, *sizes) in zip(names, records):
            shape, parts = sizes[:rank], [next(all_parts) for _ in range(n_parts)]
            if not 1 <= rank <= 3 or 0 in shape or any(sizes[rank:]):
                raise FormatError(f"spelling: {name.decode()}: a shape that is not possible")
            if any(reserved or n == 0 for _, reserved, _, n in parts):
                raise FormatError(f"spelling: {name.decode()}: a part without elements, or its reserved field")
            parts = [(tensor, first, n) for tensor, _, first, n in parts]
            entries.append((name.decode(), shape, take(header_bytes), parts))
        expect("spelling: length", at, len(data))
        self._check_spelling(entries)
        return entries

    def _check_spelling(self, entries):
        """Compares the entries with the tensors: each that is named is there once and whole."""
        sources, of_tensor = self.sources() or [], {}
        for name, shape, header, parts in entries:
            n_elements = 1
            for size in shape:
                n_elements *= size
            expect(f"spelling: {name}: elements", n_elements, sum(n for _, _, n in parts))
            if any(tensor >= len(sources) for tensor, _, _ in parts):
                raise FormatError(f"spelling: {name}: a part of no tensor of the model, or without its source")
            types = {sources[tensor][0] for tensor, _, _ in parts}
            if len(types) != 1:
                raise FormatError(f"spelling: {name}: parts of several types")
            if header:
                dtype, of_header = npy_header(header, "spelling")
                if ({SOURCE_TYPES[dtype]}, of_header) != (types, shape):
                    raise FormatError(f"spelling: {name}: the header is that of other numbers")
            for tensor, first, n in parts:
                of_tensor.setdefault(tensor, []).append((first, n))
        for tensor, parts in of_tensor.items():
            name, _, _, rows, columns = self.shapes[tensor]
            end = 0
            for first, n in sorted(parts):
                expect(f"spelling: {name}: first element of a part", first, end)
                end += n
            expect(f"spelling: {name}: elements", end, rows * (columns or 1))
            if sources[tensor][1]:
                raise FormatError(f"spelling: {name}: has a header in SOURCES too")
        own = [self.shapes[position][0] for position in range(self.n_model_tensors) if position not in of_tensor]
        names = own + [name for name, *_ in entries]
        if len(set(names)) != len(names):
            raise FormatError("spelling: a name twice")

    def sampling(self):
        """How the author recommends to choose tokens, a dict, or None."""
        data = self.section(9)
        if data is None:
            return None
        expect("sampling: length", len(data), SAMPLING.size)
        temperature, top_p, min_p, penalty, top_k, reserved = SAMPLING.unpack(data)
        zero = bytes(8)
        greedy = data[:8] == zero
        possible = (
            (greedy or 0 < temperature <= 1e6)
            and (data[8:16] == zero or 0 < top_p <= 1)
            and (data[16:24] == zero or 0 < min_p <= 1)
            and 1e-3 <= penalty <= 1e3
            and top_k <= 1 << 24
            and not (greedy and (top_p != 1 or min_p or top_k))
        )
        if not possible or reserved:
            raise FormatError("sampling: values that choose no token")
        return {
            "temperature": temperature, "top_p": top_p, "min_p": min_p, "repetition_penalty": penalty, "top_k": top_k,
        }


class GgufHeader:
    """The header of a GGUF file of `file_bytes` bytes, which `data` begins with: `tensors` are {name: (type, shape)},
    and `begin` is where their data begin."""

    def __init__(self, data, file_bytes):
        self.data, self.at, self.file_bytes = data, 0, file_bytes
        expect("gguf: magic", self._take(4), b"GGUF")
        expect("gguf: version", self._number("<I"), 3)
        n_tensors, n_keys = self._number("<Q"), self._number("<Q")
        if n_tensors > GGUF_TENSORS or n_keys > GGUF_KEYS:
            raise FormatError("gguf: too many tensors or keys")
        alignment, keys = 32, set()
        for _ in range(n_keys):
            key = self._name()
            if key in keys:
                raise FormatError("gguf: a key twice")
            keys.add(key)
            kind = self._number("<I")
            value = self._value(kind)
            if key == GGUF_ALIGNMENT:
                if kind not in GGUF_NUMBERS or isinstance(value, float) or value not in GGUF_ALIGNMENTS:
                    raise FormatError("gguf: alignment")
                alignment = value
        infos = [self._tensor() for _ in range(n_tensors)]
        self.begin = align(self.at, alignment)
        self.tensors, end = {}, 0
        for offset, size, name, kind, shape in sorted(infos):
            if name in self.tensors or offset != align(end, alignment) or self.begin + offset + size > file_bytes:
                raise FormatError("gguf: a tensor twice, or data that are not behind those before them")
            end = offset + size
            self.tensors[name] = (kind, shape)
        if self.tensors and file_bytes > align(self.begin + end, alignment):
            raise FormatError("gguf: bytes after the last tensor")

    def _take(self, size):
        if self.at + size > min(len(self.data), self.file_bytes, GGUF_HEADER_BYTES):
            raise FormatError("gguf: a header that does not end with the section, or is too long")
        self.at += size
        return self.data[self.at - size : self.at]

    def _number(self, code):
        return struct.unpack(code, self._take(struct.calcsize(code)))[0]

    def _text(self, most):
        size = self._number("<Q")
        if size > most:
            raise FormatError("gguf: a text or a name that is too long")
        return self._take(size)

    def _name(self):
        name = utf8("gguf", self._text(GGUF_NAME_BYTES))
        if not name:
            raise FormatError("gguf: an empty name")
        return name

    def _value(self, kind):
        if kind in GGUF_NUMBERS:
            return self._number(GGUF_NUMBERS[kind])
        if kind == GGUF_BOOL:
            value = self._number("<B")
            if value > 1:
                raise FormatError("gguf: a truth value")
            return None
        if kind == GGUF_TEXT:
            return self._text(GGUF_TEXT_BYTES) and None
        if kind != GGUF_LIST:
            raise FormatError("gguf: the type of a value")
        kind, length = self._number("<I"), self._number("<Q")
        if kind in GGUF_NUMBERS:
            self._take(struct.calcsize(GGUF_NUMBERS[kind]) * length)
        elif kind in (GGUF_BOOL, GGUF_TEXT):
            for _ in range(length):
                self._value(kind)
        else:
            raise FormatError("gguf: the type of the items of a list")
        return None

    def _tensor(self):
        name, rank = self._name(), self._number("<I")
        if not 1 <= rank <= 4:
            raise FormatError("gguf: dimensions of a tensor")
        sizes = [self._number("<Q") for _ in range(rank)]
        kind, offset = self._number("<I"), self._number("<Q")
        elements, size = GGUF_BLOCKS.get(kind, (0, 0))
        n_elements = 1
        for dimension in sizes:
            n_elements *= dimension
        if not elements or sizes[0] % elements or not 0 < n_elements < 1 << 64:
            raise FormatError("gguf: type or shape of a tensor")
        return offset, n_elements // elements * size, name, kind, sizes[::-1]


def utf8(place, data):
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(f"{place}: text that is not UTF-8") from None


def one_line(text):
    """Text of a file or a path for a line: display controls are escaped, so that it stays one line."""
    return text.translate(ESCAPES)


def is_date(text):
    """Whether a text is the format of a date in a chat format."""
    data = text.encode("utf-8")
    return len(data) <= MAX_DATE_BYTES and DATE.fullmatch(data) is not None


def npy_header(data, place="sources"):
    """(element type, shape) of everything before the numbers of an .npy file, as format-spec.md defines it."""
    begin = {b"\x01\x00": 10, b"\x02\x00": 12, b"\x03\x00": 12}.get(data[6:8])
    if data[:6] != b"\x93NUMPY" or begin is None or len(data) < begin:
        raise FormatError(f"{place}: a header that does not begin like one")
    text, size = data[begin:], int.from_bytes(data[8:begin], "little")
    if size != len(text) or not 1 <= size <= 10_000 or not re.fullmatch(rb"[ -~]*\n", text):
        raise FormatError(f"{place}: length or characters of a header")
    # One space between its words.
    word = r"'[^']*'|\"[^\"]*\"|True|False|[0-9]+|[{}(),:]"
    text = text[:-1].decode("ascii")
    # Word by word: an expression for all of them would try each way to cut a number.
    words, at = [], 0
    while found := re.compile(rf" *({word})").match(text, at):
        words.append(found[1])
        at = found.end()
    if text[at:].strip(" "):
        words = []
    pairs = [
        rf"(?:'{key}'|\"{key}\") : {value}" for key, value in (
            ("descr", r"['\"](<f4|<f2|<V2|\|V2|<u2)['\"]"), ("fortran_order", "(True|False)"),
            ("shape", r"\( ([0-9]+ ,|[0-9]+(?: , [0-9]+)+(?: ,)?) \)"),
        )
    ]
    found = [re.findall(pair, " ".join(words)) for pair in pairs]
    some = "(?:" + "|".join(pairs) + ")"
    if [len(values) for values in found] != [1, 1, 1] or not re.fullmatch(
        rf"{{ {some} , {some} , {some}(?: ,)? }}", " ".join(words)
    ):
        raise FormatError(f"{place}: the dictionary of a header")
    (descr,), (order,), (shape,) = found
    sizes = re.findall("[0-9]+", shape)
    if any(len(size) > 20 or str(int(size)) != size for size in sizes) or (order == "True" and len(sizes) > 1):
        raise FormatError(f"{place}: shape or order of a header")
    return SOURCE_OF_DESCR[descr], [int(size) for size in sizes]


def read(path):
    """{name: f32 array} of every tensor in the file."""
    model = Model(path)
    return {shape[0]: model.tensor(position) for position, shape in enumerate(model.shapes)}


def matrices_name(model):
    """The element type of the matrices of the model, of those that can have several, or "mixed"."""
    matrices = zip(model.shapes[: model.n_model_tensors], model.records)
    types = {DTYPE_NAMES[record[2]] for shape, record in matrices if has_choice(shape)}
    return types.pop() if len(types) == 1 else "mixed"


def layer_kinds(config):
    """"full", "sliding" or "linear" for each layer."""
    kinds = zip(config["sliding_layers"], config["linear_layers"])
    return ["linear" if is_linear else "sliding" if slides else "full" for slides, is_linear in kinds]


def listing(model):
    """The lines that describe a file."""
    yield f"format 1.{model.version_minor}, {model.file_bytes} bytes, matrices in {matrices_name(model)}"
    for key, value in model.config.items():
        if key not in ("sliding_layers", "linear_layers"):
            yield f"  {key} {value}"
    yield f"  layer_types {''.join(kind[0].upper() for kind in layer_kinds(model.config))}"
    for position, ((name, _, _, rows, columns), record) in enumerate(zip(model.shapes, model.records)):
        shape = f"[{rows}]" if columns is None else f"[{rows}, {columns}]"
        raw = f", {record[5]} raw steps" if record[4] == BF12 else ""
        encoding = "" if record[4] == PLAIN else f", {model.encoding(position)}{raw}"
        yield f"  {name} {shape} {DTYPE_NAMES[record[2]]} at {record[8]}, {record[9]} bytes{encoding}"
    for kind, (offset, size, _) in model.sections.items():
        yield f"  section {SECTION_NAMES.get(kind, kind)} at {offset}, {size} bytes"
    vocabulary = model.vocabulary()
    if vocabulary is not None:
        yield f"  vocabulary of {len(vocabulary)} tokens"
    for name, data in model.files().items():
        yield f"  file {name}, {len(data)} bytes"
    for name, shape, _, parts in model.spelling():
        positions = sorted({tensor for tensor, _, _ in parts})
        of = f"{len(positions)} tensors" if len(positions) > 1 else model.shapes[positions[0]][0]
        yield f"  in the folder {name} {shape} of {of}"
    gguf = model.gguf()
    if gguf is not None:
        yield f"  GGUF file of {gguf[0]} bytes, {len(gguf[2].tensors)} tensors"
    for key, value in (model.sampling() or {}).items():
        yield f"  sampling {key} {value}"
    for key, value in model.provenance().items():
        yield f"  {one_line(key)}={one_line(value)}"


def judged(path):
    """What is in a file, under the keys of `olmo-pack inspect --json`, and a digest of all numbers."""
    model = Model(path)
    model.check()
    config, unknown = model.config, (None, b"", None)
    sources = model.sources() or [unknown] * model.n_model_tensors
    sources += [unknown] * (len(model.shapes) - model.n_model_tensors)
    none = lambda id: None if id == NONE else id
    yarn = {
        "rope_type": "yarn", "factor": config["yarn_factor"],
        "original_max_position_embeddings": config["yarn_original_max_position_embeddings"],
        "beta_fast": config["yarn_beta_fast"], "beta_slow": config["yarn_beta_slow"],
        "attention_factor": config["yarn_attention_factor"], "truncate": bool(config["yarn_truncate"]),
    }
    same = (
        "hidden_size", "head_dim", "intermediate_size", "vocab_size", "max_position_embeddings", "rms_norm_eps",
        "sliding_window",
    )
    # Those that not every model has.
    experts, linear, rotates = config["n_experts"], any(config["linear_layers"]), config["rope_type"] != ROPE_NONE
    optional = {
        "num_experts": experts or None,
        "num_experts_per_tok": config["n_experts_per_tok"] or None,
        "norm_topk_prob": bool(config["norm_topk_prob"]) if experts else None,
        "linear_allow_neg_eigval": bool(config["linear_allow_neg_eigval"]) if linear else None,
        "clip_qkv": config["clip_qkv"] or None,
    }
    for key in ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim", "conv_kernel_dim"):
        optional[f"linear_{key}"] = config[f"linear_{key}"] or None
    for key in ("rope_theta", "rope_theta_sliding"):
        optional[key] = config[key] if rotates else None
    tokenizer, chat, sampling = model.tokenizer(), model.chat(), model.sampling()
    if tokenizer is not None and tokenizer["kind"] == "byte pairs":
        lists = {f"n_{name}": len(tokenizer[name]) for name in ("merges", "added")}
        tokenizer = {key: tokenizer[key] for key in ("kind", "pre_tokenizer", "nfc")} | lists
    if chat is not None and chat["kind"] == "pieces":
        styles = [chat["alone"], chat["with_system"]]
        chat = {
            "kind": "pieces", "takes_system": styles[1] is not None, "needs_system": styles[0] is None,
            "takes_turns": any(style is not None and not style["one_turn"] for style in styles),
            "drops_thinking": bool(chat["think_end"]), "has_dates": chat["has_dates"], "reserved": chat["reserved"],
        }
    if sampling is not None:
        sampling = {"do_sample": sampling["temperature"] > 0, **sampling, "top_k": sampling["top_k"] or None}
    numbers = xxhash.xxh3_64()
    tensors = []
    for position, (shape, record, source) in enumerate(zip(model.shapes, model.records, sources)):
        name, _, _, rows, columns = shape
        vector = columns is None
        numbers.update(model._data(position).tobytes() if vector else model._rows(position, 0, rows).tobytes())
        tensors.append({
            "name": name, "shape": [rows] if vector else [rows, columns], "dtype": DTYPE_NAMES[record[2]],
            "draft": position >= model.n_model_tensors, "layout": "vector" if vector else "panels64",
            "encoding": "plain" if record[4] == PLAIN else model.encoding(position), "n_raw_steps": record[5],
            "levels": np.frombuffer(record[13], np.int8).tolist() if record[2] == INT4 else None, "offset": record[8], "bytes": record[9], "digest": f"{record[10]:016x}",
            "min_magnitude": struct.unpack("<f", struct.pack("<I", record[11]))[0], "rounded": bool(record[12]),
            "source_dtype": source[0], "source_digest": None if source[2] is None else f"{source[2]:016x}",
        })
    vocabulary = model.vocabulary()
    return {
        "format": f"{VERSION_MAJOR}.{model.version_minor}", "file_bytes": model.file_bytes,
        "data_offset": model.data_offset, "matrices": matrices_name(model),
        "n_tokens": None if vocabulary is None else len(vocabulary), "tokenizer": tokenizer, "chat": chat,
        "sampling": sampling, "files": [{"name": name, "bytes": len(data)} for name, data in model.files().items()],
        "config": {
            "model_type": ARCHITECTURES[config["architecture"]], "num_hidden_layers": config["n_layers"],
            "num_attention_heads": config["n_heads"], "num_key_value_heads": config["n_kv_heads"],
            **{key: config[key] for key in same}, **optional,
            "rope_scaling": yarn if config["rope_type"] == ROPE_YARN else None,
            "layer_types": [f"{kind}_attention" for kind in layer_kinds(config)],
            "tie_word_embeddings": bool(config["tie_word_embeddings"]), "eos_token_id": config["eos_token_ids"],
            "bos_token_id": none(config["bos_token_id"]), "pad_token_id": none(config["pad_token_id"]),
        },
        "tensors": tensors,
        "sections": [
            {"kind": kind, "offset": offset, "bytes": size, "digest": f"{digest:016x}"}
            for kind, (offset, size, digest) in model.sections.items()
        ],
        "provenance": model.provenance(), "numbers": f"{numbers.intdigest():016x}",
    }


def reason(error):
    """An error in words, without the path."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def judge():
    """Answers each path on standard input with a line."""
    if xxhash is None:
        sys.exit("read_olmo.py: --judge needs the Python module xxhash")
    for line in sys.stdin.buffer:
        path = os.fsdecode(line.removesuffix(b"\n"))
        try:
            if "\0" in path:
                raise FormatError("no path has a zero byte")
            answer = judged(path)
        except (FormatError, OSError, MemoryError) as error:
            answer = {"refused": reason(error)}
        # JSON in ASCII has only this display control.
        print(json.dumps(answer).replace("\x7f", "\\u007f"), flush=True)


def export(model, folder):
    """Writes every tensor as an f32 .npy file, whole or not at all. What has its name is replaced, a link too: what
    that leads to is not written to."""
    os.makedirs(folder, exist_ok=True)
    for position, shape in enumerate(model.shapes):
        replace(os.path.join(folder, f"{shape[0]}.npy"), model.tensor(position))


def replace(path, array):
    """Writes an .npy file under a name that nothing has, and gives it its own then."""
    temporary = f"{path}.{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb") as file:
            try:
                np.save(file, array)
                file.close()
                os.replace(temporary, path)
            except BaseException:
                os.unlink(temporary)
                raise
    except OSError as error:
        raise OSError(error.errno, reason(error), path) from None


def main():
    parser = argparse.ArgumentParser(description="Reads an .olmo file.")
    parser.add_argument("model", nargs="?", help="the .olmo file")
    parser.add_argument("--export", metavar="DIR", help="write every tensor as an f32 .npy file")
    parser.add_argument("--judge", action="store_true", help="judge each path on standard input")
    arguments = parser.parse_args()
    if arguments.model is None and not arguments.judge:
        parser.error("a model is needed")
    # A locale may have fewer characters than the file.
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        judge() if arguments.judge else show(arguments.model, arguments.export)
        sys.stdout.flush()
    except BrokenPipeError:
        # A closed pipe is not an error.
        discard_output()
    except (FormatError, OSError, MemoryError) as error:
        discard_output()
        place = getattr(error, "filename", None) or arguments.model or "--judge"
        sys.exit(one_line(f"read_olmo.py: {place}: {reason(error)}"))


def show(path, folder):
    """Lists a model, or writes its tensors to a folder."""
    model = Model(path)
    model.check()
    if folder:
        export(model, folder)
        print(f"{one_line(folder)}: {len(model.shapes)} tensors")
    else:
        print("\n".join(listing(model)))
    if xxhash is None:
        print("digests not checked: the Python module xxhash is not installed", file=sys.stderr)


def discard_output():
    """Python must not try once more, at the end, to write what could not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())



if __name__ == "__main__":
    main()
