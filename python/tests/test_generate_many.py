"""`Model.generate_many` writes what `Model.generate` writes."""

import cases
import pytest

import olmo_infer

PROMPTS = [
    "Four score and seven",
    "The ferry",
    "a",
    "Now we are engaged in a great civil war, testing",
    "T" * 40,
    "the e",
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, olmo_infer.Model]:
    folder = tmp_path_factory.mktemp("models")
    made = {make.__name__: cases.packed(make(folder / make.__name__)) for make in (cases.demo, cases.words)}
    return {name: olmo_infer.Model(path) for name, path in made.items()}


@pytest.mark.parametrize("name", ["demo", "words"])
@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 30},
        {"max_tokens": 1},
        {"max_tokens": 0},
        {"max_tokens": 150, "stop": ["a", "earth."]},
        {"max_tokens": 25, "temperature": 0.9, "top_k": 20, "repetition_penalty": 1.1, "seed": 5},
    ],
)
@pytest.mark.parametrize("at_once", [None, 1, 4])
def test_texts_are_those_of_single_prompts(
    name: str, options: dict, at_once: int | None, models: dict[str, olmo_infer.Model]
) -> None:
    model = models[name]
    seeds = [{"seed": options["seed"] + index} if "seed" in options else {} for index in range(len(PROMPTS))]
    singles = ["".join(model.generate(text, **{**options, **seed})) for text, seed in zip(PROMPTS, seeds, strict=True)]
    assert model.generate_many(PROMPTS, at_once=at_once, **options) == singles


def test_generation_ends_at_the_last_position(models: dict[str, olmo_infer.Model]) -> None:
    model = models["words"]
    most = model.max_positions
    prompts = [[5] * n for n in (most - 3, most - 1, most)]
    singles = ["".join(model.generate(prompt, max_tokens=10)) for prompt in prompts]
    assert model.generate_many(prompts, max_tokens=10) == singles


def test_an_end_of_text_is_not_part_of_it(models: dict[str, olmo_infer.Model]) -> None:
    speech = (cases.ROOT / "demo/speech.txt").read_text()
    [text] = models["demo"].generate_many([speech[:-9]], max_tokens=50)
    assert text == speech[-9:]


def test_progress_counts_tokens_and_texts(models: dict[str, olmo_infer.Model]) -> None:
    calls = []
    models["demo"].generate_many(PROMPTS, max_tokens=7, progress=lambda *call: calls.append(call))
    assert [n_done for _, n_done in calls] == list(range(1, len(PROMPTS) + 1))
    assert all(n_tokens <= 7 for n_tokens, _ in calls) and (7, 1) in calls


def test_bad_prompts_are_named(models: dict[str, olmo_infer.Model]) -> None:
    model = models["words"]
    assert model.generate_many([]) == []
    with pytest.raises(olmo_infer.TokenError, match="prompt 1: "):
        model.generate_many(["a", []])
    with pytest.raises(olmo_infer.ContextError, match="prompt 1: "):
        model.generate_many(["a", [1] * (model.max_positions + 1)])
    with pytest.raises(olmo_infer.TokenError):
        model.generate_many([[model.vocab_size]])
    with pytest.raises(olmo_infer.TextError):
        model.generate_many(["a"], stop="")


def test_a_special_token_stops(models: dict[str, olmo_infer.Model]) -> None:
    model = models["words"]

    def sampled(seed: int) -> tuple[dict, list[int], list[int]]:
        options = {"max_tokens": 40, "temperature": 3.0, "seed": seed}
        ids = list(model.generate("The ferry", as_ids=True, **options))
        return options, ids, [id for id in ids if id in model.special_ids]

    # The first seed whose text has a special token.
    options, ids, [special, *_] = next(found for found in map(sampled, range(100)) if found[2])
    stop = {model.detokenize([special])}
    before = list(ids[: ids.index(special)])
    generation = model.generate("The ferry", stop=list(stop), **options)
    assert "".join(generation) == model.detokenize(before) and generation.end == "stop"
    assert model.generate_many(["The ferry"], stop=list(stop), **options) == [model.detokenize(before)]
