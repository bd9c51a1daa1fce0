"""Sessions: forks, cuts and files."""

import threading

import numpy as np
import pytest
from test_bits import same

import olmo_infer

SPEECH = "Four score and seven years ago our fathers brought forth"


def test_session_reports_what_it_has(demo):
    session = demo.session(30)
    assert (len(session), session.position, session.positions, session.logits) == (0, 0, 30, None)
    assert session.model is demo
    logits = session.prefill(demo.tokenize("Four"))
    assert same(session.logits, logits)
    assert (len(session), session.tokens.tolist()) == (4, list(b"Four"))
    assert repr(session) == "Session(4 of 30 positions)"
    session.truncate(2)
    assert (session.logits, session.tokens.tolist()) == (None, list(b"Fo"))
    assert same(session.prefill(list(b"ur")), logits)
    assert demo.session().positions == 2048


def test_forks_and_files_continue_with_the_same_bits(demo, demo_path, tmp_path):
    ids = demo.tokenize(SPEECH)
    stem = demo.session(100)
    stem.prefill(ids[:40])
    path = tmp_path / "s.session"
    stem.save(path)
    others = [stem.fork(), demo.load_session(path), olmo_infer.Model(demo_path).load_session(str(path))]
    expected = [demo.logits(ids[:n], last=True) for n in range(40, len(ids) + 1)]
    for session in [*others, stem]:
        assert same(session.logits, expected[0])
        for n, id in enumerate(ids[40:], 1):
            assert same(session.decode(id), expected[n])
    assert not list(tmp_path.glob(".*"))


def test_forks_run_in_threads(demo):
    ids = demo.tokenize(SPEECH)
    stem = demo.session(200)
    stem.prefill(ids)
    texts = {}

    def run(number, fork):
        texts[number] = "".join(fork.generate(max_tokens=50, temperature=3.0, seed=number))

    threads = [threading.Thread(target=run, args=(n, stem.fork())) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, text in texts.items():
        assert text == "".join(demo.generate(SPEECH, max_tokens=50, temperature=3.0, seed=number))
    assert len(set(texts.values())) == 4 and len(stem) == len(ids)


def test_generation_of_a_changed_session_is_refused(demo):
    session = demo.session(50)
    session.prefill(list(b"Four"))
    generation = session.generate(max_tokens=10)
    next(generation)
    session.decode(32)
    with pytest.raises(olmo_infer.NotRun, match="the sequence was changed by another call"):
        next(generation)
    assert list(generation) == []


def test_generation_ends_at_the_last_position(demo):
    session = demo.session(6)
    session.prefill(list(b"Four"))
    generation = session.generate(as_ids=True)
    assert (len(list(generation)), generation.end, len(session)) == (2, "length", 6)
    with pytest.raises(olmo_infer.ContextError, match="0 of 6 positions are left"):
        session.decode(1)


def test_damaged_files_are_refused(demo, chat, tmp_path):
    session = demo.session(20)
    session.prefill([1, 2, 3])
    path = tmp_path / "s"
    session.save(path)
    good = path.read_bytes()
    for bad in [b"", good[:-1], good + b"x", good[:200] + b"\0" + good[201:], b"text"]:
        path.write_bytes(bad)
        with pytest.raises(olmo_infer.SavedSessionError) as error:
            demo.load_session(path)
        assert str(error.value).startswith(f"{path}: ")
    path.write_bytes(good)
    assert same(demo.load_session(path).logits, session.logits)
    # The same weights with a chat template.
    assert same(chat.load_session(path).logits, session.logits)
    with pytest.raises(olmo_infer.FileError, match="the model"):
        session.save(demo.path)
    with pytest.raises(olmo_infer.FileError):
        demo.load_session(tmp_path / "none")
