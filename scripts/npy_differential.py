#!/usr/bin/env python3
"""Compares olmo-pack's reader of .npy files with numpy's on made-up files, good ones and spoiled ones.

    npy_differential.py JUDGE [--files N] [--seed S]

JUDGE is the program npy-judge of this repository (tests/programs/npy_judge.rs). Needs numpy.

A file that both read must give the same shape and the same numbers. One that only we refuse must break one of our
rules, found from the file and not from our message; they are listed in `rule`. One that only numpy refuses is an
error. Prints how often each happened; status 1 if there was any difference without a rule.
"""

import argparse
import ast
import io
import random
import re
import resource
import struct
import subprocess
import sys
import warnings
from collections import Counter

import numpy as np

BATCH = 1000
ACCEPTED = ["<f4", "<f2", "<V2", "|V2", "<u2"]
OTHER_TYPES = [
    "<f8", ">f4", ">f2", "=f4", "f4", "|f4", "float32", "<i4", "<u4", "|u1", "|b1", "<c8", "<U2", "|S3", "|O", "O",
    "<i8", "<M8[s]", "<V4", "V2", ">V2", "=V2", ">u2", "u2", "<f4 ", "", "<f16", "<V0", "e", "bfloat16", "<f4,<f4",
]
ODD_TYPES = ["[('a', '<f4')]", "('<f4', (2,))", "b'<f4'", "u'<f4'", "r'<f4'", "'<' 'f4'", "('<f4')"]
SIZES = [1, 2, 3, 4, 5, 7, 16]
NUMBERS = [
    "True", "False", "None", "1L", "3L", "0x3", "0b11", "0o3", "1_0", "-1", "+3", "1e0", "3.0", "03", "00", "'3'",
    "b'3'", "3j", "(3)", "(3,)", "3 if 1 else 3", "9223372036854775807", "9223372036854775808", "18446744073709551615",
    "18446744073709551616", "4611686018427387904", "1" + "0" * 400, "__import__('os')",
]
SNIPPETS = [
    " ", "  ", "\t", "\n", "\r", "\f", "\v", "\0", "#", "\\", "'", '"', ",", ",,", ":", "(", ")", "[", "]", "{", "}",
    "L", "_", "-", "+", ".", "0", "1", "9", "b", "u", "r", "f", "é", "\xa0", "\u2003", "\ufeff", "True", "'shape': (1,), ",
    "''", "()", "*2", "if", "\\x3c", "'<' ", "#\n", "((((", "[[[[", "{{{{", "\x1b",
]


def quoted(rng, text):
    quote = rng.choice("''''''''''\"")
    return quote + text + quote


def header_text(rng):
    """The dictionary of a header, mostly as numpy writes it, and the number of bytes of data that it asks for."""
    descr = rng.choice(ACCEPTED) if rng.random() < 0.9 else rng.choice(OTHER_TYPES)
    rank = rng.choice([0, 1, 1, 1, 2, 2, 2, 3, 4])
    if rng.random() < 0.005:
        rank = rng.choice([31, 32, 33, 64, 65])
    shape = [1 if rank > 4 else rng.choice(SIZES) for _ in range(rank)]
    if shape and rng.random() < 0.03:
        shape[rng.randrange(rank)] = 0
    width = int(re.sub(r"\D", "", descr.split("[")[0][:4]) or 4)
    n_bytes = width
    for size in shape:
        n_bytes *= size
    sizes = [str(size) for size in shape]
    if sizes and rng.random() < 0.06:
        sizes[rng.randrange(rank)] = rng.choice(NUMBERS)
    dims = "(" + ", ".join(sizes) + ("," if rank == 1 and rng.random() < 0.98 else "") + ")"
    if rng.random() < 0.01:
        dims = rng.choice(["3", "[3]", "(3)", "()", "None", "(,)", "{3}", "'3'"])
    order = "True" if rng.random() < 0.08 else "False"
    if rng.random() < 0.01:
        order = rng.choice(["0", "1", "None", "'False'", "(False)", "not True", "false"])
    items = [("descr", quoted(rng, descr)), ("fortran_order", order), ("shape", dims)]
    if rng.random() < 0.01:
        items[0] = ("descr", rng.choice(ODD_TYPES))
    if rng.random() < 0.15:
        rng.shuffle(items)
    if rng.random() < 0.02:
        items.append(rng.choice(items))
    if rng.random() < 0.02:
        items.pop(rng.randrange(len(items)))
    if rng.random() < 0.01:
        items.append((rng.choice(["more", "Shape", "descr "]), "1"))
    space = rng.choice([" ", " ", " ", " ", "", "  "])
    text = "{" + ", ".join(quoted(rng, key) + ":" + space + value for key, value in items)
    return text + rng.choice([", }", ", }", ", }", "}", ",}"]), n_bytes


def spoiled_text(rng, text):
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        at = rng.randrange(len(text) + 1)
        change = rng.randrange(5)
        if change == 0:
            text = text[:at] + rng.choice(SNIPPETS) + text[at:]
        elif change == 1:
            text = text[:at] + text[at + 1:]
        elif change == 2:
            text = text[:at] + chr(rng.randrange(256)) + text[at + 1:]
        elif change == 3:
            text = text[:at] + chr(rng.randrange(32, 127)) + text[at + 1:]
        else:
            end = min(len(text), at + rng.randrange(12))
            text = text[:end] + text[at:]
    return text


def preamble(rng, text):
    """Magic, version, length and the header around its dictionary."""
    version = rng.choice([1, 1, 1, 2, 3])
    encoded = text.encode("utf-8" if version == 3 else "latin1", "replace")
    prefix = 10 if version == 1 else 12
    end = b"\n" if rng.random() < 0.98 else rng.choice([b"", b" ", b"\n\n", b"\r\n", b"\0"])
    padding = b" " * (-(prefix + len(encoded) + len(end)) % 64) if rng.random() < 0.9 else b""
    header = encoded + padding + end
    if rng.random() < 0.002:
        header = encoded + b" " * rng.choice([9_000, 9_900, 10_000, 20_000]) + end
    length = struct.pack("<H" if version == 1 else "<I", min(len(header), 0xFFFF))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header


def spoiled_bytes(rng, data):
    change = rng.randrange(7)
    at = rng.randrange(len(data) + 1)
    if change == 0:
        return data[:at]
    if change == 1:
        return data[: max(0, len(data) - rng.randrange(1, 5))]
    if change == 2:
        return data + rng.randbytes(rng.choice([1, 2, 3, 4, 64]))
    if change == 3:
        at = rng.randrange(min(12, len(data)))
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1:]
    if change == 4:
        at = rng.randrange(len(data))
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1:]
    if change == 5:
        return data[:at] + rng.randbytes(1) + data[at:]
    return data[:at] + data[at + 1:]


def made_up(rng):
    """A file; about half of them are good."""
    text, n_bytes = header_text(rng)
    kind = rng.random()
    if kind < 0.3:
        text = spoiled_text(rng, text)
    data = preamble(rng, text) + rng.randbytes(n_bytes)
    if 0.3 <= kind < 0.45:
        data = spoiled_bytes(rng, data)
    return data


def read_by_numpy(data):
    """The array and the number of bytes read, or why it is refused."""
    file = io.BytesIO(data)
    try:
        return np.lib.format.read_array(file, allow_pickle=False), file.tell()
    except Exception as error:  # every exception of numpy is a refusal
        return None, repr(error)


def plain(text):
    """Whether a header is spelled as numpy spells it, give or take spaces and the order of the keys."""
    number = r" *(0|[1-9][0-9]*) *"
    shape = rf" *\(({number},)*({number})? *\) *"
    item = rf" *('descr'|\"descr\") *: *('[^'\"\\]*'|\"[^'\"\\]*\") *| *('shape'|\"shape\") *:{shape}"
    item += r"| *('fortran_order'|\"fortran_order\") *: *(True|False) *"
    return re.fullmatch(rf" *\{{({item})(,({item}))*(, *)?\}} *\n", text) is not None


def rule_of_spelling(text):
    """Which rule the spelling of a header breaks that numpy reads."""
    if re.search(r"[0-9][lL]", text):
        return "L after a number"
    tree = ast.parse(text.lstrip(" "), mode="eval").body
    if not isinstance(tree, ast.Dict):
        return None
    values = {key.value: value for key, value in zip(tree.keys, tree.values)}
    if len(values) < len(tree.keys):
        return "a key twice"
    sizes = [ast.get_source_segment(text.lstrip(" "), size) for size in values["shape"].elts]
    for size in sizes:
        if size in ("True", "False"):
            return "True as a dimension"
        if re.match(r"0[xXoObB]", size):
            return "a dimension that is not decimal"
        if "_" in size:
            return "separators between digits"
        if size[0] in "+-~":
            return "a sign before a dimension"
        if re.fullmatch("00+", size):
            return "zeros before a dimension"
    if "#" in text:
        return "a comment"
    if not isinstance(values["descr"], ast.Constant):
        return "an element type that is not accepted"
    nodes = tree.keys + [values["descr"]]
    if any(ast.get_source_segment(text.lstrip(" "), node)[1:-1] != node.value for node in nodes):
        return "text spelled with prefixes, escapes or in parts"
    if text.count("(") > 1:
        return "parentheses around a value"
    return None


def rule(data, array, consumed):
    """Which of our rules a file breaks that numpy reads; None for no rule."""
    prefix = 10 if data[6] == 1 else 12
    length = struct.unpack_from("<H" if data[6] == 1 else "<I", data, 8)[0]
    header = data[prefix : prefix + length]
    text = header.decode("utf-8" if data[6] == 3 else "latin1")
    if any(byte < 32 or byte > 126 for byte in header[:-1]):
        return "bytes other than printable ASCII"
    if header[-1:] != b"\n":
        return "no newline at the end of the header"
    if not plain(text):
        return rule_of_spelling(text)
    if len(re.findall(r"['\"] *:", text)) != 3:
        return "a key twice"
    if not any(f"'{descr}'" in text or f'"{descr}"' in text for descr in ACCEPTED):
        return "an element type that is not accepted"
    if array.ndim == 0:
        return "no dimension"
    if array.size == 0:
        return "a dimension of 0"
    if array.ndim > 32:
        return "more than 32 dimensions"
    if array.ndim > 1 and re.search(r"fortran_order. *: *True", text):
        return "Fortran order of more than a vector"
    if consumed < len(data):
        return "bytes behind the data"
    return None


def as_f32(array):
    """The numbers as f32, 16-bit words being bf16."""
    if array.dtype in (np.dtype("V2"), np.dtype("<u2")):
        words = np.ascontiguousarray(array).view("<u2").astype("<u4") << 16
        return words.view("<f4")
    return array.astype("<f4")


def same(array, answer):
    """None if the answer of olmo-pack holds this array, else what differs."""
    shape, _, numbers = answer.partition(b"\n")
    if shape.decode() != str(list(array.shape)):
        return f"shape {shape.decode()}"
    expected = as_f32(array)
    if expected.tobytes() == numbers:
        return None
    if expected.nbytes != len(numbers):
        return f"{len(numbers)} bytes of numbers"
    # A conversion may quiet a NaN: that it is one must do.
    ours = np.frombuffer(numbers, "<u4").reshape(array.shape)
    alike = (expected.view("<u4") == ours) | (np.isnan(expected) & np.isnan(ours.view("<f4")))
    return None if array.dtype == np.dtype("<f2") and alike.all() else "numbers"


def difference(data, accepted, answer, counts):
    """Counts what happened with a file; returns what is wrong."""
    array, consumed = read_by_numpy(data)
    if array is None:
        counts["refused by both" if not accepted else "ERROR: read by us alone"] += 1
        return f"numpy refuses: {consumed}" if accepted else None
    if accepted:
        wrong = same(array, answer)
        counts["read by both, and the same" if wrong is None else "ERROR: read differently"] += 1
        return wrong
    broken = rule(data, array, consumed)
    counts[f"refused by us: {broken}" if broken else "ERROR: refused by us without a rule"] += 1
    return None if broken else f"we refuse: {answer.decode()}"


def judged(judge, files):
    """The answers of olmo-pack's reader about files."""
    judge.stdin.write(struct.pack("<I", len(files)) + b"".join(struct.pack("<I", len(data)) + data for data in files))
    judge.stdin.flush()
    for data in files:
        accepted, length = struct.unpack("<II", judge.stdout.read(8))
        yield data, bool(accepted), judge.stdout.read(length)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("judge", help="the program npy-judge")
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    # numpy allocates what a header claims.
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    warnings.simplefilter("ignore")
    rng = random.Random(args.seed)
    judge = subprocess.Popen([args.judge], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    counts, wrong = Counter(), 0
    for begin in range(0, args.files, BATCH):
        files = [made_up(rng) for _ in range(min(BATCH, args.files - begin))]
        for data, accepted, answer in judged(judge, files):
            what = difference(data, accepted, answer, counts)
            if what is not None:
                wrong += 1
                if wrong <= 20:
                    print(f"{what}\n    {data[:400]!r}", file=sys.stderr)
    judge.stdin.close()
    judge.wait()
    print(f"{args.files} files, numpy {np.__version__}, seed {args.seed}: {wrong} differences")
    for what, count in counts.most_common():
        print(f"{count:9} {what}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
