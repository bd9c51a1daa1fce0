#!/usr/bin/env python3
"""Make the tokenizer cases, texts with their ids: tests/tokenizers/.

Written with Python 3.11 and tokenizers 0.23.3 (the crate's own binding):

    python3 -m venv /tmp/venv-tokenizers
    /tmp/venv-tokenizers/bin/pip install tokenizers==0.23.3
    /tmp/venv-tokenizers/bin/python scripts/make_tokenizer_cases.py [--dolma2 vocab.txt]

The folder afterwards contains:

    texts.jsonl                    texts of every kind, one JSON string a line
    small-dolma2/tokenizer.json    a small tokenizer of this project that splits as dolma2 does
    small-gpt2/tokenizer.json      one that splits as GPT-2 does, with normalization form C, as OLMo-1 has it
    small-*/ids.txt                for the first 4,000 texts the ids that `tokenizers` gives, a line of numbers each
    dolma2-ids.txt                 for all texts those of the vocabulary of OLMo-2 and Olmo-3, which is not here

The vocabulary of dolma2 is an export of `id<TAB>token` lines. It has no merges, but there a token's id is its rank:
the merge that makes a token is the one of the two pieces that are left when all merges before it are carried out on its
bytes.
"""

import argparse
import json
import random
import re
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

DOLMA2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
N_TEXTS = 12_000
# Texts of which the ids of the small tokenizers are kept.
N_SMALL = 4_000

# What texts are mixed from.
WORDS = """the of and to in is that for it as was with be by on not he his but at are this have from or had an they which
one you were all her she there would their we him been has when who will no more if out so said what up its about than into
them can only other time new some could these two may first then do any like my now over such our man me even most made
after also did many off before must well back through years where much your way down should because long each just state
people those too mr how little good world make very year still see own work men day get here between both being under three
never know same last another while us might great old go come since against right came take used himself few house use during
without again place around however home small found mrs thought went say part once general high upon school every
Four score and seven years ago our fathers brought forth upon this continent a new nation conceived in Liberty dedicated
proposition created equal Hello World I'm don't we've they'll she'd it's CAN'T WON'T I'LL You'Re o'clock 'tis rock'n'roll
naïve café résumé Zürich Ångström smörgåsbord São façade e\u0301te\u0301 a\u030angstro\u0308m""".split()
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", "\u00a0", "\u3000", "\u2003", "\u200b", "\x0b", "\x0c", "\x85", "\u2028", "     ", "\r"]
SIGNS = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") + ["...", "--", "==", "->", "::", "//", "***", "?!", "…", "—", "“", "”", "‘", "’", "«", "»", "§", "€", "£", "©", "™", "°", "±", "×", "→", "∑", "∞", "≠", "½", "²"]
NUMBERS = ["0", "1", "7", "10", "42", "123", "1234", "12345", "123456", "3.14159", "1,000,000", "1e-6", "0x1F", "٣٤٥", "१२३", "Ⅻ", "½", "²³", "①", "２０２５"]
SCRIPTS = [
    "生活的真谛是", "こんにちは世界", "안녕하세요", "Привет, мир", "Γειά σου", "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "สวัสดีชาวโลก",
    "Xin chào thế giới", "Olá mundo", "ሰላም ልዑል", "გამარჯობა", "Բարեւ աշխարհ", "ᚠᛇᚻ᛫ᛒᛦᚦ", "𝕳𝖊𝖑𝖑𝖔", "𐍈𐌰𐍄", "ⴰⵣⵓⵍ", "ꦲꦭꦺꦴ", "ſtraße", "ǅungla", "ﬁne ﬂow",
]
EMOJI = ["😀", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "❤️", "☃", "🧑🏿‍🚀", "⌨️"]
CODE = [
    "fn main() {\n    println!(\"{}\", x);\n}\n", "for i in range(10):\n\tprint(i)\n", "if (a<b && c>=d) { return a->b[0]; }", "#include <stdio.h>\r\n",
    "SELECT * FROM t WHERE id = 'x''y';", "https://example.org/a?b=c&d=%20e#f", "user@example.org", "C:\\Users\\x\\file.txt", "<div class=\"a\">&nbsp;</div>",
    "{\"key\": [1, 2.5, null, true]}", "$\\frac{a}{b} \\leq \\sum_{i=0}^n x_i$", "git commit -m \"fix: don't\"", "\\n\\t\\\\", "'s 's'S 'LL'd'", "x'sy 'ſ 'K",
]
LONG = ["a" * 300, " " * 200, "\n" * 50, "ab" * 150, "1" * 100, "!" * 120, "é" * 80, " \n" * 60, "\t \t" * 40, "aA" * 90, "的" * 70]
COMBINING = ["a\u0301", "\u0301", "e\u0323\u0302", "\u1100\u1161\u11a8", "\u212b", "\u2126", "\ufb2c", "\u0344", "q\u0307\u0323", "\uac01"]


def texts(added):
    """N_TEXTS texts of every kind, the same in every run."""
    draw = random.Random(20251126)
    ranges = [(0x20, 0x7E), (0xA1, 0x2AF), (0x300, 0x36F), (0x370, 0x5FF), (0x900, 0xD7F), (0x1E00, 0x2BFF), (0x3000, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFFFD), (0x10000, 0x1FAFF), (0x0, 0x1F)]

    def character():
        low, high = draw.choice(ranges)
        return chr(draw.randint(low, high))

    def piece():
        kind = draw.random()
        if kind < 0.45:
            word = draw.choice(WORDS)
            return draw.choice([word, word.upper(), word.capitalize(), word + "s"])
        if kind < 0.55:
            return draw.choice(SIGNS)
        if kind < 0.63:
            return draw.choice(NUMBERS)
        if kind < 0.71:
            return draw.choice(SCRIPTS)
        if kind < 0.75:
            return draw.choice(EMOJI)
        if kind < 0.81:
            return draw.choice(CODE)
        if kind < 0.84:
            return draw.choice(COMBINING)
        if kind < 0.88:
            return draw.choice(added)
        if kind < 0.885:
            return draw.choice(LONG)
        return "".join(character() for _ in range(draw.randint(1, 6)))

    def text():
        parts = []
        for _ in range(draw.randint(1, 9)):
            parts.append(piece())
            if draw.random() < 0.7:
                parts.append(draw.choice(SPACES) if draw.random() < 0.4 else " ")
        return "".join(parts)

    fixed = ["", " ", "  ", "\n", "This is a test", "Hi  Hello", "Hi   Hello", " Hello", "Four score and seven", "a|||IP_ADDRESS|||b"]
    fixed += SPACES + SIGNS + NUMBERS + SCRIPTS + EMOJI + CODE + LONG + COMBINING + added
    found = dict.fromkeys(fixed)
    while len(found) < N_TEXTS:
        found[text()] = None
    return list(found)


# The added tokens of dolma2: name, special.
DOLMA2_ADDED = [
    ("<|extra_id_0|>", False), ("<|endoftext|>", True), ("<|fim_prefix|>", True), ("<|fim_middle|>", True), ("<|fim_suffix|>", True),
    ("|||PHONE_NUMBER|||", False), ("|||EMAIL_ADDRESS|||", False), ("|||IP_ADDRESS|||", False), ("<|im_start|>", True), ("<|im_end|>", True),
] + [(f"<|extra_id_{i}|>", False) for i in range(1, 11)] + [("<|endofprompt|>", True), ("<|pad|>", True)]


def dolma2_pre_tokenizer():
    split = pre_tokenizers.Split(Regex(DOLMA2), behavior="removed", invert=True)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def trained(pre_tokenizer, normalizer, corpus, added):
    """A tokenizer of some hundred tokens, the added ones behind."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens(added)
    return tokenizer


def dolma2(path):
    """The tokenizer of OLMo-2 and Olmo-3, from its vocabulary."""
    escapes = {"\\": "\\", "n": "\n", "r": "\r", "t": "\t"}
    lines = [line for line in Path(path).read_text(encoding="utf-8").split("\n") if line]
    tokens = [re.sub(r"\\(.)", lambda match: escapes[match[1]], line.split("\t", 1)[1]) for line in lines]
    n_ranks = len(tokens) - len(DOLMA2_ADDED)
    ranks = {token: rank for rank, token in enumerate(tokens[:n_ranks])}
    merges = []
    for token, rank in ranks.items():
        pieces = list(token)
        if len(pieces) == 1:
            continue
        while len(pieces) > 2:
            pairs = [(ranks.get(a + b, rank), i) for i, (a, b) in enumerate(zip(pieces, pieces[1:]))]
            lowest, i = min(pairs)
            assert lowest < rank, token
            pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
        merges.append(tuple(pieces))
    tokenizer = Tokenizer(models.BPE(vocab=ranks, merges=merges))
    tokenizer.pre_tokenizer = dolma2_pre_tokenizer()
    tokenizer.add_tokens([AddedToken(name, normalized=False, special=special) for name, special in DOLMA2_ADDED])
    assert tokenizer.get_vocab_size() == len(tokens) and tokenizer.token_to_id("<|pad|>") == 100277
    return tokenizer


def write_ids(path, tokenizer, strings):
    with open(path, "w", encoding="ascii") as file:
        for string in strings:
            file.write(" ".join(map(str, tokenizer.encode(string, add_special_tokens=False).ids)) + "\n")


def main():
    parser = argparse.ArgumentParser(description="Make the tokenizer cases, texts with their ids.")
    parser.add_argument("--dolma2", metavar="VOCAB", help="the vocabulary of dolma2, lines of id<TAB>token")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent.parent / "tests" / "tokenizers")
    arguments = parser.parse_args()
    strings = texts([name for name, _ in DOLMA2_ADDED])
    arguments.output.mkdir(exist_ok=True)
    with open(arguments.output / "texts.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(string, ensure_ascii=False) + "\n" for string in strings)
    corpus = strings[:2000]
    # Some of each are found in normalized text, as the white space of OLMo-1 is; some begin as others do.
    added = [AddedToken(name, normalized=False, special=special) for name, special in DOLMA2_ADDED[:12]]
    added += [AddedToken("e\u0301", normalized=False), AddedToken("\u00e9te", normalized=True)]
    added += [AddedToken(" " * n, normalized=True) for n in (2, 3, 5)] + [AddedToken("<|end", normalized=False)]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    for name, tokenizer in (
        ("small-dolma2", trained(dolma2_pre_tokenizer(), None, corpus, added[:12])),
        ("small-gpt2", trained(byte_level, normalizers.NFC(), corpus, added)),
    ):
        folder = arguments.output / name
        folder.mkdir(exist_ok=True)
        tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        write_ids(folder / "ids.txt", tokenizer, strings[:N_SMALL])
    if arguments.dolma2:
        write_ids(arguments.output / "dolma2-ids.txt", dolma2(arguments.dolma2), strings)


if __name__ == "__main__":
    main()
