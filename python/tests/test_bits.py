"""The results are the bits of the programs."""

import json

import numpy as np
import pytest
from conftest import infer

import olmo_infer

SAMPLING = dict(temperature=1.5, repetition_penalty=1.1, seed=3)
FLAGS = ["--temperature", "1.5", "--repetition-penalty", "1.1", "--seed", "3"]


def same(a, b) -> bool:
    """The same bits: NaN and signs of zero count."""
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def tokens_of(case) -> np.ndarray:
    return np.fromfile(case / "tokens.bin", dtype="<u4")


@pytest.mark.parametrize("flags, options", [([], {}), (["--kv", "bf16"], {"kv": "bf16"})])
def test_logits_are_those_of_the_program(case, tmp_path, flags, options):
    folder, path, model = case
    ids = tokens_of(folder)
    npy = tmp_path / "l.npy"
    infer(path, folder / "tokens.bin", "--logits", npy, "--steps", len(ids), *flags)
    expected = np.load(npy)
    assert same(model.logits(ids, **options), expected)
    assert same(model.logits(ids.tolist(), chunk=7, **options), expected)
    assert same(model.logits(ids, last=True, **options), expected[-1])
    session = model.session(len(ids), **options)
    assert same(session.prefill(ids[:9]), expected[8])
    assert same(session.decode(int(ids[9])), expected[9])


def test_hidden_states_are_those_of_the_program_and_of_transformers(case, tmp_path):
    folder, path, model = case
    ids = tokens_of(folder)
    npy = tmp_path / "h.npy"
    layers = list(range(model.n_layers + 1))
    found = model.hidden(ids, layers)
    golden = np.load(folder / "hidden.npy")
    session = model.session(len(ids))
    session.prefill(ids)
    for layer in layers:
        infer(path, folder / "tokens.bin", "--hidden", npy, "--layer", layer, "--steps", len(ids))
        assert same(found[layer], np.load(npy))
        assert same(model.hidden(ids, layer, chunk=5), found[layer])
        assert same(session.hidden(layer), found[layer])
        np.testing.assert_allclose(found[layer][-3:], golden[layer], atol=2e-4)


def test_scores_are_those_of_the_program(case, tmp_path):
    folder, path, model = case
    ids = tokens_of(folder)
    parts = [ids, ids[:20], ids[:2], ids[5:25], ids[:1]]
    files = []
    for number, part in enumerate(parts):
        files.append(tmp_path / f"{number}.bin")
        part.tofile(files[-1])
    lines = [json.loads(line) for line in infer("score", path, *files, "--per-token").stdout.splitlines()]
    scores = model.score(parts)
    assert [len(score) for score in scores] == [len(part) - 1 for part in parts]
    for line, score in zip(lines, scores, strict=True):
        assert score.error is None
        # The program prints the digits of a f32.
        assert same(score.nll.astype(np.float32), np.array(line["nll"], dtype=np.float32))
        if len(score):
            assert score.sum_nll / len(score) == line["mean_nll"]
    expected = json.loads((folder / "expected.json").read_text())["mean_nll"]
    assert scores[0].nll.mean() == pytest.approx(expected, abs=1e-5)
    # Alone, in another order, together with others, in other passes: the same bits.
    for at_once, chunk in [(1, 512), (3, 7), (64, 64)]:
        again = model.score(parts[::-1] + parts, at_once=at_once, chunk=chunk)
        for a, b in zip(again, scores[::-1] + scores, strict=True):
            assert same(a.nll, b.nll) and same(a.is_greedy, b.is_greedy)
            assert (a.sum_nll, a.all_greedy) == (b.sum_nll, b.all_greedy)


def test_score_begins_at_the_first_token_that_is_asked_for(demo):
    ids = demo.tokenize("Four score and seven years ago")
    whole, end, tail = demo.score([ids, (ids, 20), (ids.tolist(), len(ids))])
    assert same(end.nll, whole.nll[19:]) and same(end.is_greedy, whole.is_greedy[19:])
    assert end.sum_nll == sum(end.nll.tolist()) and whole.all_greedy
    assert (len(tail), tail.sum_nll, tail.all_greedy, tail.nll.shape) == (0, 0.0, True, (0,))
    logits = demo.logits(ids).astype(np.float64)
    nll = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    nll = nll[:-1] - logits[np.arange(len(ids) - 1), ids[1:]]
    np.testing.assert_allclose(whole.nll, nll, atol=1e-6)
    wrong = np.array([*ids[:-1], (ids[-1] + 1) % 256])
    [score] = demo.score([wrong])
    assert score.is_greedy.tolist() == [True] * (len(ids) - 2) + [False] and not score.all_greedy


def test_generated_text_is_that_of_the_program(demo, demo_path):
    prompt = "Four score and"
    for flags, options in [([], {}), (FLAGS, SAMPLING), (["--stop", "nation"], {"stop": "nation"})]:
        expected = infer(demo_path, "--prompt", prompt, "--max-tokens", 200, *flags).stdout.decode()
        generation = demo.generate(prompt, max_tokens=200, **options)
        assert "".join(generation) == expected
        assert generation.end == ("stop" if "stop" in options else "length")
        assert generation.seed == options.get("seed")
        ids = list(demo.generate(demo.tokenize(prompt), max_tokens=200, as_ids=True, **options))
        assert ids == generation.ids.tolist()
        assert same(generation.ids, np.array(ids, dtype=np.uint32))
    whole = demo.generate(prompt, max_tokens=5000)
    speech = "".join(whole)
    assert infer(demo_path, "--prompt", prompt, "--max-tokens", 2000).stdout.decode() == speech
    assert (whole.end, speech.endswith("earth.\n")) == ("eos", True)


def test_generated_ids_are_those_of_the_reference(case):
    folder, path, model = case
    expected = json.loads((folder / "expected.json").read_text())["greedy"]
    assert list(model.generate(tokens_of(folder), max_tokens=len(expected), as_ids=True)) == expected


def test_session_generates_what_the_model_does(demo):
    prompt = demo.tokenize("Four score and")
    expected = list(demo.generate(prompt, max_tokens=60, as_ids=True, **SAMPLING))
    session = demo.session(200)
    session.prefill(prompt)
    generation = session.generate(max_tokens=60, as_ids=True, **SAMPLING)
    assert [next(generation) for _ in range(60)] == expected
    assert session.tokens.tolist() == [*prompt, *expected]
    assert list(generation) == [] and generation.end == "length"


def test_answers_are_those_of_the_program(chat, chat_path, tmp_path):
    messages = [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "Four"},
        {"role": "assistant", "content": "score"},
        {"role": "user", "content": "and"},
    ]
    text = "[system]a[user]Four[assistant]score[user]and[now][assistant]"
    assert chat.render_chat_template(messages) == text
    assert same(chat.apply_chat_template(messages), chat.tokenize(text))
    (tmp_path / "m.json").write_text(json.dumps(messages))
    for flags, options in [
        (["--temperature", "0"], {"temperature": 0}),
        (["--seed", "5"], {"seed": 5}),
        (FLAGS, SAMPLING),
    ]:
        words = [chat_path, "--messages", tmp_path / "m.json", "--max-tokens", "40"]
        generation = chat.chat(messages, max_tokens=40, **options)
        assert "".join(generation) == infer(*words, *flags).stdout.decode()
    assert chat.recommended_sampling == dict(
        temperature=0.5, top_k=50, top_p=0.9, min_p=0.0, repetition_penalty=1.0
    )


def test_threads_change_no_bit(demo, demo_path):
    ids = demo.tokenize("Four score and seven years ago our fathers")
    for threads in (1, 3):
        for load in ("mmap", "read"):
            model = olmo_infer.Model(demo_path, threads=threads, load=load)
            assert same(model.logits(ids), demo.logits(ids))


def test_pieces_of_text_are_whole_characters(demo):
    # The ids of the demo are bytes.
    text = "é€😀"
    ids = demo.tokenize(text)
    assert ids.tolist() == list(text.encode()) and ids.dtype == np.uint32
    assert demo.detokenize(ids) == text
    assert demo.detokenize(ids[:1]) == "\ufffd"
    session = demo.session(400)
    session.prefill(ids)
    pieces = list(session.generate(max_tokens=300, temperature=3.0, seed=1))
    assert all(pieces) and "\ufffd" in "".join(pieces)
    generated = bytes(session.tokens[len(ids) :].tolist())
    assert "".join(pieces) == generated.decode(errors="replace")
