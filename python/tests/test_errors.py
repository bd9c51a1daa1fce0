"""Exceptions: their classes, their texts, and what they leave."""

import pickle
import shutil

import numpy as np
import pytest
from conftest import REPOSITORY, pack

import olmo_infer
from olmo_infer import errors


def test_every_exception_is_an_error_of_the_package_and_can_be_pickled():
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    assert len(classes) >= 13
    for kind in classes:
        assert issubclass(kind, olmo_infer.Error) and getattr(olmo_infer, kind.__name__) is kind
        error = pickle.loads(pickle.dumps(kind("what, where")))
        assert (type(error), str(error)) == (kind, "what, where")


def test_files_that_are_no_models(demo_path, tmp_path):
    none = tmp_path / "none.olmo"
    with pytest.raises(olmo_infer.FileError) as error:
        olmo_infer.Model(none)
    assert str(error.value) == f"{none}: cannot open: No such file or directory"
    assert isinstance(error.value, OSError)
    text = tmp_path / "text.olmo"
    text.write_text("text")
    with pytest.raises(olmo_infer.FileError, match="not an .olmo file"):
        olmo_infer.Model(text)
    cut = tmp_path / "cut.olmo"
    cut.write_bytes(demo_path.read_bytes()[:100_000])
    with pytest.raises(olmo_infer.DamagedError, match="truncated"):
        olmo_infer.Model(cut)
    with pytest.raises(ValueError, match='load is "fast", expected "auto", "mmap" or "read"'):
        olmo_infer.Model(demo_path, load="fast")


def test_changed_model_yields_no_results(demo_path, tmp_path):
    path = tmp_path / "m.olmo"
    path.write_bytes(demo_path.read_bytes())
    model = olmo_infer.Model(path, load="mmap")
    session = model.session(20)
    session.prefill([1])
    generation = model.generate([1, 2])
    assert model.logits([1]).shape == (1, 256)
    with path.open("r+b") as file:
        file.seek(0)
        file.write(b"O")
    for call in [
        lambda: model.logits([1]),
        lambda: model.score([[1, 2]]),
        lambda: model.hidden([1], 0),
        lambda: session.decode(1),
        lambda: session.save(tmp_path / "s"),
        lambda: next(generation),
        lambda: model.generate([1, 2]),
        model.check_unchanged,
    ]:
        with pytest.raises(olmo_infer.ChangedError, match="changed while it was in use"):
            call()
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "ids, kind, text",
    [
        ([], olmo_infer.TokenError, "no tokens to evaluate"),
        ([256], olmo_infer.TokenError, "token 256, the vocabulary has ids 0 to 255"),
        ([-1], olmo_infer.TokenError, "-1 is not a token id"),
        ([2**32], olmo_infer.TokenError, "4294967296 is not a token id"),
        (np.array([2**63], dtype=np.uint64), olmo_infer.TokenError, "is not a token id"),
        ([2**64], TypeError, "not integers"),
        ([1.0], TypeError, "not integers"),
        ([True], TypeError, "not integers"),
        (["a"], TypeError, "not integers"),
        ([[1]], TypeError, "not a sequence"),
        (np.zeros((1, 2), dtype=np.uint32), TypeError, "not a sequence"),
        (5, TypeError, "not a sequence"),
        (None, TypeError, "token ids are"),
        ("text", TypeError, "token ids are a text"),
        ([1] * 2049, olmo_infer.ContextError, "2049 positions requested, expected at most 2048"),
    ],
)
def test_ids_that_are_none(demo, ids, kind, text):
    with pytest.raises(kind, match=text):
        demo.logits(ids)
    with pytest.raises(kind, match=text):
        demo.hidden(ids, 0)
    with pytest.raises(kind, match=r"^item 1: "):
        # One token more: the last one is not evaluated.
        demo.score([[1, 2], ids + [1] if isinstance(ids, list) and len(ids) > 2000 else ids])


def test_arrays_of_all_integers_are_ids(demo):
    expected = demo.logits([70, 111, 117])
    for kind in ("u1", "i2", "u4", "i8", "u8", ">i4"):
        assert (demo.logits(np.array([70, 111, 117], dtype=kind)) == expected).all()
    assert (demo.logits(np.array([70, 0, 111, 0, 117], dtype=np.uint32)[::2]) == expected).all()
    assert (demo.logits((70, 111, 117)) == expected).all()
    [score] = demo.score([(70, 111)])
    assert len(score) == 1


def test_items_that_are_none(demo):
    for item, text in [
        (([1, 2], 0), "item 0: the first scored token is 0, expected at least 1"),
        (([1, 2], -1), "item 0: the first scored token is -1"),
        (([1, 2], "a"), "item 0: the first scored token is a"),
        (([], 1), "item 0: no tokens"),
    ]:
        with pytest.raises((olmo_infer.TokenError, TypeError), match=text):
            demo.score([item])
    assert demo.score([]) == []
    assert len(demo.score(iter([[1, 2]]))) == 1


def test_arguments_that_are_none(demo, chat):
    for options, kind, text in [
        (dict(temperature=-1), olmo_infer.SamplingError, "temperature is -1"),
        (dict(temperature=float("nan")), olmo_infer.SamplingError, "temperature is NaN"),
        (dict(top_k=0), olmo_infer.SamplingError, "top_k is 0"),
        (dict(top_p=1.5), olmo_infer.SamplingError, "top_p is 1.5"),
        (dict(stop=""), olmo_infer.TextError, "a stop text is empty"),
        (dict(stop=["a", ""]), olmo_infer.TextError, "a stop text is empty"),
        (dict(kv="f16"), ValueError, 'kv is "f16"'),
        (dict(activations="f16"), ValueError, 'activations is "f16"'),
        (dict(chunk=0), olmo_infer.ContextError, "a chunk of one"),
        (dict(max_tokens=-1), OverflowError, "negative"),
    ]:
        with pytest.raises(kind, match=text):
            demo.generate("a", **options)
    with pytest.raises(olmo_infer.TokenError):
        demo.generate("")
    with pytest.raises(olmo_infer.ContextError, match="the prompt: 2049 positions"):
        demo.generate("a" * 2049)
    with pytest.raises(ValueError, match="layer 4, the model has layers 0 to 3"):
        demo.hidden([1], 4)
    with pytest.raises(olmo_infer.TextError, match="has no chat template"):
        demo.chat([{"role": "user", "content": "a"}])
    for messages, kind in [
        ([], olmo_infer.MessagesError),
        ([{"role": "assistant", "content": "a"}], olmo_infer.MessagesError),
        ([{"role": "tool", "content": "a"}], olmo_infer.MessagesError),
        ([{"role": "user"}], KeyError),
        ([{"role": "user", "content": 1}], TypeError),
        ([{"role": "user", "content": "a", "name": "b"}], TypeError),
        (["a"], TypeError),
    ]:
        with pytest.raises(kind):
            chat.chat(messages)
    with pytest.raises(olmo_infer.TextError, match="has no text for the id 999"):
        demo.detokenize([999])
    assert list(demo.generate("a", max_tokens=0)) == []


def test_item_that_is_not_finite_has_an_error_of_its_own(folder):
    weights = folder / "not-finite"
    shutil.copytree(REPOSITORY / "tests" / "golden" / "olmo2-gqa-odd" / "weights", weights)
    path = weights / "model.embed_tokens.weight.npy"
    embedding = np.load(path)
    embedding[5] = np.inf
    np.save(path, embedding)
    model = olmo_infer.Model(pack(weights, folder / "not-finite.olmo", "--allow-nonfinite"))
    good, bad, last = model.score([[1, 2, 3], [1, 5, 3], [1, 2, 5]])
    assert good.error is None and np.isfinite(good.nll).all() and len(last) == 2
    assert isinstance(bad.error, olmo_infer.NotFiniteError)
    assert str(bad.error).startswith("item 1: logit of token ")
    for read in [lambda: bad.nll, lambda: bad.is_greedy, lambda: bad.sum_nll, lambda: bad.all_greedy, lambda: len(bad)]:
        with pytest.raises(olmo_infer.NotFiniteError):
            read()
    assert "NotFiniteError" in repr(bad) and "sum_nll" in repr(good)
    for call in [lambda: model.logits([1, 5]), lambda: model.hidden([1, 5], 0), lambda: model.generate([5], as_ids=True)]:
        with pytest.raises(olmo_infer.NotFiniteError):
            call()
    session = model.session(10)
    with pytest.raises(olmo_infer.NotFiniteError):
        session.prefill([1, 5])
    session.truncate(1)
    assert np.isfinite(session.decode(2)).all()
