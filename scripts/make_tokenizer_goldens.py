#!/usr/bin/env python3
"""Make the cases of folders with a tokenizer: tests/tokenizers/*.json and unicode.txt.

Written with Python 3.11, transformers 5.24.0 and tokenizers 0.23.3 (no torch needed):

    python3 -m venv /tmp/venv-tokenizers
    /tmp/venv-tokenizers/bin/pip install transformers==5.24.0 tokenizers==0.23.3
    /tmp/venv-tokenizers/bin/python scripts/make_tokenizer_goldens.py

What it writes:

    folders.json    small folders, each a change of small-dolma2 or small-gpt2, with the ids that
                    AutoTokenizer.from_pretrained gives for some texts
    patterns.json   spellings of the patterns of words that split all of texts.jsonl alike, and some that do not
    unicode.txt     for each 4096 code points: CRC-32 of their normalization form C in several contexts, and of their
                    classes

`expect` in folders.json is what olmo-pack must do: `same` ids; `refused`: the tokenizer takes no text, for the reason in
`says`; `warned`: ids may differ, and a warning has `says`. A text with a token beyond the rows of the embedding has no ids
there: it is refused at run time.
"""

import contextlib
import copy
import io
import itertools
import json
import logging
import os
import tempfile
import zlib
from pathlib import Path

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
from tokenizers import Regex, normalizers, pre_tokenizers  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

logging.disable(logging.WARNING)
FOLDER = Path(__file__).parent.parent / "tests" / "tokenizers"
TEXTS = [
    "Hello world 12345 don't\n\nhello",
    "a <|im_start|> b<|endoftext|>c",
    "2023 1234 .org (s) );\n x",
    " lead  and   more <|pad|> [PAD] <pad> <x> <y> <z><|padding|>",
    "e\u0301<|im_end|>e\u0301te\u0301 \u00e9te <|end A\u08d3\u0301",
    "UPPER lower ſ'S \U0001f600\n \n",
]
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {},
}
WITH_BOS = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [5], "tokens": ["<|endoftext|>"]}},
}
ROBERTA = {"type": "RobertaProcessing", "sep": ["<|endoftext|>", 5], "cls": ["<|im_end|>", 6], "trim_offsets": True, "add_prefix_space": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
NO_REGEX = {**BYTES, "use_regex": False}
DOLMA2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def sequence(key, *parts):
    return {"type": "Sequence", key: list(parts)}


def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


def added(text, special=False, normalized=None, **more):
    normalized = not special if normalized is None else normalized
    return {"content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": normalized, "special": special, **more}


def base(name):
    return json.loads((FOLDER / name / "tokenizer.json").read_text(encoding="utf-8"))


def cases():
    """The cases, see `case` for their keys."""
    found = []

    def case(name, changes=(), files=None, expect="same", says=None, of="small-dolma2", model="olmo2", rows=100_000):
        found.append(
            {"name": name, "base": of, "model_type": model, "rows": rows, "changes": list(changes), "files": files or {}, "expect": expect, "says": says}
        )

    def part(name, key, value, expect="same", says=None, **more):
        case(f"{key}: {name}", [[[key], value]], expect=expect, says=says, **more)

    def config(name, values, expect="same", says=None, **more):
        case(f"tokenizer_config: {name}", files={"tokenizer_config.json": values}, expect=expect, says=says, **more)

    case("as it is")
    case("as it is, of OLMo-1", of="small-gpt2", model="olmo", files={"tokenizer_config.json": {"pad_token": None}})
    case("without a configuration, of OLMo-1", of="small-gpt2", model="olmo", says='"<|padding|>"')
    # Parts that do nothing.
    post = "post_processor"
    part("of save_pretrained", post, TEMPLATE)
    part("of save_pretrained, OLMo-1", post, TEMPLATE, of="small-gpt2")
    for trim, space, regex in itertools.product([False, True], repeat=3):
        part(f"ByteLevel {trim} {space} {regex}", post, {"type": "ByteLevel", "trim_offsets": trim, "add_prefix_space": space, "use_regex": regex})
    part("empty sequence", post, sequence("processors"))
    part("sequence of nothings", post, sequence("processors", BYTES, sequence("processors", TEMPLATE)))
    part("adds a token", post, WITH_BOS, "refused", 'its post-processor adds "<|endoftext|>" to every text')
    part("adds a token in a sequence", post, sequence("processors", BYTES, WITH_BOS), "refused", 'adds "<|endoftext|>" to every text')
    part("adds two tokens", post, ROBERTA, "refused", 'its post-processor adds "<|im_end|>" and "<|endoftext|>" to every text')
    part("adds tokens as BERT", post, {k: v for k, v in ROBERTA.items() if k in ("sep", "cls")} | {"type": "BertProcessing"}, "refused", 'adds "<|im_end|>" and "<|endoftext|>"')
    for of in ("small-dolma2", "small-gpt2"):
        nfc = {"type": "NFC"}
        strip = {"type": "Strip", "strip_left": False, "strip_right": False}
        key = "normalizer"
        part(f"empty sequence, {of}", key, sequence("normalizers"), of=of)
        part(f"sequence of one, {of}", key, sequence("normalizers", nfc), of=of)
        part(f"nested sequence, {of}", key, sequence("normalizers", sequence("normalizers"), sequence("normalizers", nfc, nfc)), of=of)
        part(f"strips nothing, {of}", key, sequence("normalizers", strip, nfc), of=of)
        part(f"strips, {of}", key, {**strip, "strip_left": True}, "refused", "its normalizer is Strip", of=of)
        part(f"lower case, {of}", key, sequence("normalizers", nfc, {"type": "Lowercase"}), "refused", "its normalizer is Lowercase", of=of)
        part(f"NFKC, {of}", key, {"type": "NFKC"}, "refused", "its normalizer is NFKC", of=of)
    key = "pre_tokenizer"
    part("isolated", key, sequence("pretokenizers", split(DOLMA2), NO_REGEX))
    part("isolated and inverted", key, sequence("pretokenizers", split(DOLMA2, invert=True), NO_REGEX))
    part("removed and inverted", key, sequence("pretokenizers", split(DOLMA2, "Removed", True), NO_REGEX))
    part("nested", key, sequence("pretokenizers", sequence("pretokenizers", split(DOLMA2)), sequence("pretokenizers", NO_REGEX)))
    part("trims no offsets", key, sequence("pretokenizers", split(DOLMA2), {**NO_REGEX, "trim_offsets": False}))
    part("removed", key, sequence("pretokenizers", split(DOLMA2, "Removed"), NO_REGEX), "refused", "splits in an unknown way")
    part("a space before every word", key, sequence("pretokenizers", split(DOLMA2), {**NO_REGEX, "add_prefix_space": True}), "refused", "puts a space before every word")
    part("split twice", key, sequence("pretokenizers", split(DOLMA2), BYTES), "refused", "unknown sequence")
    part("bytes twice", key, sequence("pretokenizers", BYTES, NO_REGEX), "refused", "unknown sequence")
    part("of single digits", key, sequence("pretokenizers", {"type": "Digits", "individual_digits": True}, BYTES), "refused", "unknown sequence")
    part("another", key, {"type": "Whitespace"}, "refused", "its pre-tokenizer is Whitespace")
    part("possessive repetition", key, sequence("pretokenizers", split(DOLMA2.replace("{1,3}", "{1,3}+")), NO_REGEX), "refused", "unknown pattern")
    part("none", key, None, "refused", "it has no pre-tokenizer")
    gpt2 = dict(of="small-gpt2")
    part("sequence of one", key, sequence("pretokenizers", BYTES), **gpt2)
    part("trims no offsets, GPT-2", key, {**BYTES, "trim_offsets": False}, **gpt2)
    part("split of GPT-2", key, sequence("pretokenizers", split(GPT2), NO_REGEX), **gpt2)
    part("split of GPT-2 twice", key, sequence("pretokenizers", split(GPT2), BYTES), **gpt2)
    part("a space before a text", key, {**BYTES, "add_prefix_space": True}, **gpt2)
    part("a space before a text, in a sequence", key, sequence("pretokenizers", {**BYTES, "add_prefix_space": True}), **gpt2)
    # A split that the vocabulary was not made with.
    part("of GPT-2 for dolma2", key, BYTES, says="made with the split of dolma2")
    part("of dolma2 for GPT-2", key, sequence("pretokenizers", split(DOLMA2), NO_REGEX), says="made with the split of GPT-2", **gpt2)
    # Options of the model.
    for option, value in [("unk_token", "<|endoftext|>"), ("unk_token", "nothing"), ("fuse_unk", True), ("byte_fallback", True), ("dropout", 0.0), ("continuing_subword_prefix", ""), ("end_of_word_suffix", ""), ("ignore_merges", True)]:
        case(f"model.{option} {value!r}", [[["model", option], value]])
    case("model.end_of_word_suffix", [[["model", "end_of_word_suffix"], "</w>"]], expect="refused", says="end_of_word_suffix")
    case("model.dropout 1", [[["model", "dropout"], 1.0]], expect="refused", says="dropout")
    merges = base("small-dolma2")["model"]["merges"]
    lost = [pair for pair in merges if "".join(pair) != "ld"]
    assert len(lost) < len(merges) and "ld" in base("small-dolma2")["model"]["vocab"]
    case("ignore_merges with a token that no merge makes", [[["model", "merges"], lost], [["model", "ignore_merges"], True]], expect="refused", says="ignore_merges")
    # Settings that no caller uses.
    part("of five tokens", "truncation", {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0})
    part("to eight tokens", "padding", {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "!"})
    # Added tokens.
    tokens = base("small-dolma2")["added_tokens"]
    last = max(token["id"] for token in tokens)
    more = [{"id": last + 5, **added("<x>")}, {"id": last + 9, **added("<y>", True)}]
    case("added tokens after a gap", [[["added_tokens"], tokens + more]], says=f'has the added token "<x>" with id {last + 5}')
    case("added tokens in another order", [[["added_tokens"], tokens[::-1]]], says="has the added token")
    case("an added token that takes spaces", [[["added_tokens"], tokens + [{"id": last + 1, **added("<x>", lstrip=True)}]]], expect="refused", says="strips adjacent")
    case("a token of the model that is added", [[["added_tokens"], tokens + [{"id": base("small-dolma2")["model"]["vocab"]["ll"], **added("ll")}]]])
    # Tokens beyond the rows.
    pad = [[["added_tokens"], tokens + [{"id": last + 1, **added("<pad>", True)}]]]
    case("a pad token beyond the rows", pad, rows=last + 1, files={"tokenizer_config.json": {"pad_token": "<pad>"}}, says="beyond the")
    case("tokens of the model beyond the rows", rows=690, says="beyond the 690 rows")
    # tokenizer_config.json.
    ids = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    config("names", ids)
    config("split_special_tokens", {**ids, "split_special_tokens": True}, says="split_special_tokens")
    config("split_special_tokens, OLMo-1", {**ids, "split_special_tokens": True}, says="split_special_tokens", **gpt2)
    config("add_bos_token", {**ids, "add_bos_token": True, "add_eos_token": True}, says="add_bos_token")
    config("add_prefix_space", {**ids, "add_prefix_space": True}, says="add_prefix_space")
    config("do_lower_case", {**ids, "do_lower_case": True}, says="do_lower_case")
    config("clean_up_tokenization_spaces", {**ids, "clean_up_tokenization_spaces": True})
    config("a name that tokenizer.json lacks", {**ids, "pad_token": "<pad>"}, says='names the token "<pad>"')
    config("names that tokenizer.json lacks", {"eos_token": "<x>", "bos_token": "<y>", "pad_token": "[PAD]", "z_token": "<z>"}, says="and 3 more")
    config("a name that is a token of the model", {**ids, "pad_token": "ll"}, says='names the token "ll"')
    config("a defined name", {**ids, "pad_token": {"__type": "AddedToken", **added("e\u0301t", True, normalized=True)}}, says="names the token")
    for key in ("extra_special_tokens", "additional_special_tokens"):
        config(key, {**ids, key: ["<x>", "<|im_start|>", {"__type": "AddedToken", **added("<y>", True)}]}, says='names the token "<x>" and 1 more')
    config("both lists", {"extra_special_tokens": ["<x>"], "additional_special_tokens": ["<y>"]}, says='names the token "<x>"')
    config("an empty list and one", {"extra_special_tokens": [], "additional_special_tokens": ["<y>"]}, says='names the token "<y>"')
    config("extra_special_tokens with names", {**ids, "extra_special_tokens": {"x_token": "<x>", "other": "<y>"}}, says="names the token")
    decoder = {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in tokens}
    config("added_tokens_decoder", {**ids, "added_tokens_decoder": decoder})
    config("added_tokens_decoder with more", {**ids, "added_tokens_decoder": {**decoder, str(last + 1): added("<x>"), str(last + 20): added("<y>", True)}}, says="names the token")
    config("added_tokens_decoder with fewer", {**ids, "added_tokens_decoder": dict(list(decoder.items())[:3])})
    special = {key: {**value, "special": not value["special"]} for key, value in decoder.items()}
    config("added_tokens_decoder with other special flags", {**ids, "added_tokens_decoder": special})
    config("added_tokens_decoder with other special flags, split", {**ids, "added_tokens_decoder": special, "split_special_tokens": True}, says="split_special_tokens")
    config("added_tokens_decoder that normalizes", {"added_tokens_decoder": {key: {**value, "normalized": True} for key, value in decoder.items()}}, **gpt2)
    config("added_tokens_decoder that takes spaces", {"added_tokens_decoder": {key: {**value, "rstrip": True} for key, value in decoder.items()}}, "refused", "strips adjacent")
    # Other tokenizer files.
    case("special_tokens_map", files={"special_tokens_map.json": {"eos_token": "<x>", "pad_token": {"content": "<y>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}}}, says="names the token")
    case("special_tokens_map goes before", files={"tokenizer_config.json": {"eos_token": "<x>"}, "special_tokens_map.json": {"eos_token": "<y>"}}, says='names the token "<y>"')
    case("special_tokens_map with added_tokens_decoder", files={"tokenizer_config.json": {"added_tokens_decoder": decoder}, "special_tokens_map.json": {"eos_token": "<y>"}})
    case("special_tokens_map with a list", files={"special_tokens_map.json": {"additional_special_tokens": ["<x>"]}}, says="names the token")
    case("special_tokens_map with another list", files={"tokenizer_config.json": {"extra_special_tokens": ["<y>"]}, "special_tokens_map.json": {"additional_special_tokens": ["<x>"]}}, says="names the token")
    case("two lists of additional tokens", files={"tokenizer_config.json": {"additional_special_tokens": ["<y>"]}, "special_tokens_map.json": {"additional_special_tokens": ["<x>"]}}, says="names the token")
    case("special_tokens_map with extra tokens", files={"tokenizer_config.json": {"extra_special_tokens": ["<x>"]}, "special_tokens_map.json": {"extra_special_tokens": ["<y>", "<x>"]}}, says="names the token")
    case("added_tokens.json", files={"added_tokens.json": {"<x>": last + 1, "<y>": last + 3}}, says="names the token")
    case("added_tokens.json with known tokens", files={"added_tokens.json": {token["content"]: token["id"] for token in tokens}})
    case("added_tokens.json with special tokens", files={"added_tokens.json": {"<x>": last + 1}, "special_tokens_map.json": {"eos_token": "<x>"}}, says="names the token")
    # OLMo-1: transformers builds its tokenizer from the tokens alone.
    names = {"bos_token": None, "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "tokenizer_class": "GPTNeoXTokenizer"}
    old = dict(of="small-gpt2", model="olmo")
    config("of OLMo-1", names, **old)
    config("of OLMo-1, add_prefix_space", {**names, "add_prefix_space": True}, **old)
    config("of OLMo-1, split_special_tokens", {**names, "split_special_tokens": True}, says="split_special_tokens", **old)
    config("of OLMo-1, fast", {**names, "tokenizer_class": "GPTNeoXTokenizerFast", "add_prefix_space": True}, **old)
    config("of OLMo-1, another class", {**names, "tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": True}, says="add_prefix_space", **old)
    config("of OLMo-1, names of the class", {"eos_token": "<x>", "tokenizer_class": "GPT2Tokenizer"}, says="names the token", expect="warned", **old)
    config("of OLMo-1, a new token", {**names, "pad_token": "[PAD]"}, says="names the token", **old)
    case("OLMo-1 without NFC", [[["normalizer"], None]], files={"tokenizer_config.json": names}, expect="warned", says="transformers 5 builds the tokenizer of OLMo-1", **old)
    case("OLMo-1 that adds a token", [[[post], WITH_BOS]], files={"tokenizer_config.json": names}, expect="refused", says="adds", **old)
    return found


def changed(case):
    document = copy.deepcopy(base(case["base"]))
    for path, value in case["changes"]:
        place = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
    return document


def oracle(case):
    """The ids of the texts, None for one with ids beyond the rows; None when transformers cannot read the folder."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "tokenizer.json").write_text(json.dumps(changed(case)), encoding="utf-8")
        (folder / "config.json").write_text(json.dumps({"model_type": case["model_type"]}), encoding="utf-8")
        for name, content in case["files"].items():
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
        with contextlib.redirect_stderr(io.StringIO()):
            try:
                tokenizer = AutoTokenizer.from_pretrained(folder)
                ids = [tokenizer(text)["input_ids"] for text in TEXTS]
            except BaseException as error:  # noqa: BLE001: the crate may panic
                print(f"{case['name']}: transformers: {type(error).__name__}: {str(error)[:100]}")
                return None
    return [line if max(line, default=0) < case["rows"] else None for line in ids]


def make_folders():
    found = cases()
    assert len({case["name"] for case in found}) == len(found)
    for case in found:
        case["ids"] = oracle(case)
    with open(FOLDER / "folders.json", "w", encoding="utf-8") as file:
        lines = ",\n".join(json.dumps(case, ensure_ascii=True) for case in found)
        file.write(f'{{"texts": {json.dumps(TEXTS)},\n"cases": [\n{lines}\n]}}\n')
    print(len(found), "folders")


# Spellings of each alternative.
SPELLINGS = {
    "dolma2": [
        ["(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'(?i:[sdmt]|ll|ve|re)", "(?i:'(?:[sdmt]|ll|ve|re))"],
        [rf"[^\r\n\p{{L}}\p{{N}}]{a}\p{{L}}{b}" for a, b in [("?", "+"), ("?+", "+"), ("?", "++"), ("?+", "++")]],
        [r"\p{N}{1,3}"],
        [rf" ?[^\s\p{{L}}\p{{N}}]{a}[\r\n]{b}" for a, b in [("+", "*"), ("++", "*"), ("+", "*+"), ("++", "*+")]],
        [r"\s*[\r\n]+", r"\s*[\r\n]"],
        [r"\s+(?!\S)"],
        [r"\s+", r"\s"],
    ],
    "gpt2": [
        ["'s|'t|'re|'ve|'m|'ll|'d", "'(?:[sdmt]|ll|ve|re)"],
        [r" ?\p{L}+", r" ?\p{L}++"],
        [r" ?\p{N}+", r" ?\p{N}++"],
        [r" ?[^\s\p{L}\p{N}]+", r" ?[^\s\p{L}\p{N}]++"],
        [r"\s+(?!\S)", r"\s++$|\s+(?!\S)"],
        [r"\s+", r"\s"],
    ],
}
# Patterns that look alike.
OTHERS = {
    "dolma2": [
        DOLMA2.replace("{1,3}", "{1,3}+"),
        DOLMA2.replace("{1,3}", "+"),
        DOLMA2.replace("(?i:", "(?:"),
        DOLMA2.replace(r"\s*[\r\n]+", r"\s++$|\s*[\r\n]+"),
        DOLMA2.replace(r"\s*[\r\n]+", r"\s+[\r\n]+"),
        DOLMA2.replace(r"|\s+(?!\S)", ""),
        DOLMA2.replace(r"[\r\n]*", ""),
        DOLMA2.replace(r"\p{L}+", r"[\p{L}\p{M}]+"),
        GPT2,
    ],
    "gpt2": [
        GPT2.replace("'s|", "(?i:'s)|"),
        GPT2.replace(r" ?\p{N}+", r" ?\p{N}{1,3}"),
        GPT2.replace(r" ?\p{N}+", r"\p{N}+"),
        GPT2.replace(r"|\s+(?!\S)", ""),
        GPT2.replace(r" ?\p{L}+", r" *\p{L}+"),
        DOLMA2,
    ],
}


def words(pattern, texts):
    part = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return [part.pre_tokenize_str(text) for text in texts]


def make_patterns():
    lines = (FOLDER / "texts.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    texts = [json.loads(line) for line in lines] + ["a \n \n", "  \n  ", " \r\n\t", "1234567", "'ſ 'S 'Ll 'lL'RE'", "x\u0301'sx"]
    for name, alternatives in SPELLINGS.items():
        expected = words("|".join(spellings[0] for spellings in alternatives), texts)
        for choice in itertools.product(*alternatives):
            assert words("|".join(choice), texts) == expected, choice
        for pattern in OTHERS[name]:
            assert words(pattern, texts) != expected, pattern
    with open(FOLDER / "patterns.json", "w", encoding="utf-8") as file:
        json.dump({"spellings": SPELLINGS, "others": OTHERS}, file, indent=1)
        file.write("\n")


def make_unicode():
    nfc = normalizers.NFC()
    classes = [pre_tokenizers.Split(Regex(name), behavior="removed") for name in (r"\p{L}", r"\p{N}", r"\s")]
    with open(FOLDER / "unicode.txt", "w", encoding="ascii") as file:
        for begin in range(0, 0x110000, 4096):
            points = [chr(c) for c in range(begin, begin + 4096) if not 0xD800 <= c < 0xE000]
            contexts = (c + x for c in points for x in ("", "\u0301", "\u0301\u0327"))
            contexts = itertools.chain(contexts, (x + c + y for c in points for x in ("A", "A\u0301", "\u1100", "\uac00", "\u0327", "q\u0307") for y in ("", "\u0301")))
            form = nfc.normalize_str("\n".join(contexts)).encode()
            bits = bytes(sum((not part.pre_tokenize_str(c)) << bit for bit, part in enumerate(classes)) for c in points)
            file.write(f"{begin:06x} {zlib.crc32(form):08x} {zlib.crc32(bits):08x}\n")


if __name__ == "__main__":
    make_folders()
    make_patterns()
    make_unicode()
