"""The model `olmo` of lm-evaluation-harness, run by the real harness on the tasks in tasks/.

expected/lm_eval.json has what the harness's own model `hf` answers, request for request:
scripts/make_lm_eval_goldens.py made it.
"""

import json
import logging
import os
import random
import subprocess
import sys

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

import cases
import lm_eval
import pytest
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

import olmo_infer
import olmo_infer.lm_eval
from olmo_infer.lm_eval import OlmoLM

# Of sums of log-likelihoods, and of their ratio. The logits are f32 on both sides, summed in another order. A byte that
# the demo model does not expect has up to 20 nats: there the last bit of an activation is many of a logit.
TOLERANCE, RELATIVE = 1e-4, 1e-5


@pytest.fixture(scope="session")
def expected() -> dict:
    return json.loads((cases.EXPECTED / "lm_eval.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The model file of each case."""
    folder = tmp_path_factory.mktemp("models")
    return {
        make.__name__: str(cases.packed(make(folder / make.__name__)))
        for make in (cases.demo, cases.words, cases.golden)
    }


@pytest.fixture(scope="session")
def tasks() -> TaskManager:
    return TaskManager(include_path=str(cases.TASKS), include_defaults=False)


@pytest.fixture
def demo(models: dict[str, str]) -> OlmoLM:
    return OlmoLM(path=models["demo"])


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the harness's logger gets. It hands nothing on once a command of the harness has run."""
    monkeypatch.setattr(logging.getLogger("lm_eval"), "propagate", True)
    caplog.set_level(logging.INFO, logger="lm_eval")
    return caplog


def asked(kind: str, *arguments: tuple) -> list[Instance]:
    return [Instance(kind, {}, of_request, index) for index, of_request in enumerate(arguments)]


def close(found: float, wanted: float) -> bool:
    return abs(found - wanted) <= TOLERANCE + RELATIVE * abs(wanted)


@pytest.mark.parametrize("run", cases.RUNS)
def test_tasks_have_the_values_of_hf(run: str, expected: dict, models: dict[str, str], tasks: TaskManager) -> None:
    make, arguments, names, is_chat = cases.RUNS[run]
    found = lm_eval.simple_evaluate(
        model="olmo",
        model_args={"path": models[make.__name__], "threads": 2, **arguments},
        tasks=names,
        task_manager=tasks,
        apply_chat_template=is_chat,
        bootstrap_iters=0,
    )
    wanted = expected["runs"][run]
    requests = cases.requests_of(found["samples"])
    assert [(request["task"], request["asked"]) for request in requests] == [
        (request["task"], request["asked"]) for request in wanted["requests"]
    ]
    for request, other in zip(requests, wanted["requests"], strict=True):
        answer, wanted_answer = request["answer"], other["answer"]
        if isinstance(wanted_answer, str):
            assert answer == wanted_answer, request
        elif isinstance(wanted_answer, list):
            assert close(answer[0], wanted_answer[0]) and answer[1] == wanted_answer[1], (request, wanted_answer)
        else:
            assert close(answer, wanted_answer), (request, wanted_answer)
    metrics = cases.metrics_of(found["results"])
    assert metrics.keys() == wanted["metrics"].keys()
    for task, of_task in wanted["metrics"].items():
        assert metrics[task] == pytest.approx(of_task, rel=1e-5), task
    assert found["config"]["model_sha"]


@pytest.mark.parametrize("length", cases.GOLDEN_LENGTHS)
def test_a_golden_case_has_the_values_of_hf(length: int | None, expected: dict, models: dict[str, str]) -> None:
    model = OlmoLM(path=models["golden"], max_length=length)
    found = model._loglikelihood_tokens(cases.golden_requests())
    for answer, wanted in zip(found, expected["golden"][str(length)], strict=True):
        assert close(answer[0], wanted[0]) and answer[1] == wanted[1], (answer, wanted)


def test_answers_do_not_depend_on_order_threads_and_passes(models: dict[str, str], tasks: TaskManager) -> None:
    documents = [json.loads(line) for line in (cases.TASKS / "choice.jsonl").read_text(encoding="utf-8").splitlines()]
    pairs = [(document["text"], " " + choice) for document in documents for choice in document["choices"]]
    requests = asked("loglikelihood", *pairs)
    answers = OlmoLM(path=models["demo"], threads=1, at_once=1).loglikelihood(requests, disable_tqdm=True)
    order = list(range(len(requests)))
    random.Random(7).shuffle(order)
    others = OlmoLM(path=models["demo"], threads=2).loglikelihood(
        [requests[index] for index in order], disable_tqdm=True
    )
    assert [answers[index] for index in order] == others


def test_the_command_registers_the_model(models: dict[str, str], tmp_path) -> None:
    command = [
        sys.executable,
        "-m",
        "olmo_infer.lm_eval",
        "--model",
        "olmo",
        "--model_args",
        f"path={models['demo']},threads=1",
    ]
    command += ["--tasks", "olmo_speech", "--include_path", str(cases.TASKS), "--output_path", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "|olmo_speech|" in ended.stdout
    [results] = tmp_path.rglob("results*.json")
    assert json.loads(results.read_text())["results"]["olmo_speech"]["acc_norm,none"] == 1.0


def test_what_the_command_refuses_is_one_line(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, text in [
        ({"path": "a.olmo", "peft": "x"}, "olmo_infer.lm_eval: error: the model olmo has no argument peft"),
        ({"path": f"{tmp_path}/missing.olmo"}, f"olmo_infer.lm_eval: error: {tmp_path}/missing.olmo: cannot open"),
    ]:
        # The harness's command takes half a minute to list its own tasks.
        monkeypatch.setattr("lm_eval.__main__.cli_evaluate", lambda arguments=arguments: OlmoLM(**arguments))
        with pytest.raises(SystemExit, match=text) as ended:
            olmo_infer.lm_eval.main()
        assert "\n" not in ended.value.code


def test_a_cut_context_is_logged(models: dict[str, str], log: pytest.LogCaptureFixture) -> None:
    model = OlmoLM(path=models["demo"], max_length=20)
    model.loglikelihood(asked("loglikelihood", ("a" * 30, "bc"), ("a", "b")), disable_tqdm=True)
    model.generate_until(asked("generate_until", ("a" * 30, {"max_gen_toks": 5})), disable_tqdm=True)
    [scored, generated] = [record.getMessage() for record in log.records]
    assert scored.startswith("1 of 2 contexts") and "by 11 tokens at most" in scored
    assert generated.startswith("1 of 1 contexts") and "by 15 tokens at most" in generated


def test_generation_is_sampled_by_seed_and_request(models: dict[str, str]) -> None:
    options = {"do_sample": True, "temperature": 1.5, "max_gen_toks": 30, "until": []}
    requests = asked("generate_until", ("The ferry", options), ("The ferry", options))
    first, other = OlmoLM(path=models["demo"]).generate_until(requests, disable_tqdm=True)
    assert first != other
    assert OlmoLM(path=models["demo"]).generate_until(requests, disable_tqdm=True) == [first, other]
    assert OlmoLM(path=models["demo"], seed=1).generate_until(requests, disable_tqdm=True)[0] == other


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "needs one model file"),
        ({"path": "a.olmo", "pretrained": "b.olmo"}, "needs one model file"),
        ({"path": "a.olmo", "device": "cuda:1"}, "device=cuda:1: the model olmo runs on the CPU"),
        ({"path": "a.olmo", "dtype": "float16"}, "dtype=float16: the weights have the type"),
        ({"path": "a.olmo", "revision": "main", "peft": "x"}, "has no argument peft, revision"),
        ({"path": "a.olmo", "think_end_token": 7}, "think_end_token=7 is not a text"),
    ],
)
def test_arguments_of_other_models_are_refused(arguments: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text) as refused:
        OlmoLM(**arguments)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"max_length": 0}, "max_length=0 is not a number from 1 to 2048"),
        ({"max_length": 4096}, "max_length=4096 is not a number from 1 to 2048"),
        ({"prefix_token_id": 256}, "prefix_token_id=256 is not an id below 256"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments: dict, text: str, models: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=text):
        OlmoLM(path=models["demo"], **arguments)


def test_a_missing_file_is_an_error_of_the_package(tmp_path) -> None:
    with pytest.raises(olmo_infer.FileError):
        OlmoLM(path=str(tmp_path / "missing.olmo"))


def test_a_batch_size_is_accepted_and_logged(models: dict[str, str], log: pytest.LogCaptureFixture) -> None:
    OlmoLM(path=models["demo"], batch_size=1)
    assert not log.records
    OlmoLM(path=models["demo"], batch_size="auto", device="cuda:0")
    assert [record.getMessage() for record in log.records] == [
        "the model olmo runs on the CPU",
        "batch_size is not used: a pass takes what fits, and no result depends on it",
    ]


@pytest.mark.parametrize(
    ("kind", "request_", "text"),
    [
        ("loglikelihood", ("a", ""), "request 0 has an empty continuation"),
        ("loglikelihood", ("  ", "b"), "context of request 0 has spaces only"),
        ("loglikelihood", ("a", "b" * 21), "continuation of request 0 has 21 tokens, more than max_length, 20"),
        ("generate_until", ("a", {"max_gen_toks": 20}), "max_gen_toks=20 is not a number from 1 to 19"),
        ("generate_until", ("a", {"max_gen_toks": 5, "num_beams": 4}), "has no num_beams for generation"),
        ("generate_until", ("", {"max_gen_toks": 5}), "request 0 has no context"),
    ],
)
def test_requests_without_an_answer_are_refused(kind: str, request_: tuple, text: str, models: dict[str, str]) -> None:
    model = OlmoLM(path=models["demo"], max_length=20)
    with pytest.raises(ValueError, match=text):
        getattr(model, kind)(asked(kind, request_), disable_tqdm=True)


def test_a_thought_is_not_part_of_the_answer(models: dict[str, str]) -> None:
    model = OlmoLM(path=models["demo"], think_end_token="brought")
    [answer] = model.generate_until(
        asked("generate_until", ("Four score and seven", {"until": [","], "max_gen_toks": 60})), disable_tqdm=True
    )
    assert answer == "forth on this continent"


def test_the_beginning_of_an_answer_follows_the_prompt(models: dict[str, str]) -> None:
    model = OlmoLM(path=models["words"])
    history = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "The"}]
    assert model.apply_chat_template(history, add_generation_prompt=False) == (
        "<|im_start|>user\nWhich?<|im_end|>\n<|im_start|>assistant\nThe"
    )
    assert model.chat_template(True) == "<|im_start|>user\n{{ content }}<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(ValueError, match="not the beginning of an answer"):
        model.apply_chat_template(history[:1], add_generation_prompt=False)
    with pytest.raises(ValueError, match="no chat template 'tool_use'"):
        model.chat_template("tool_use")


def test_the_tokenizer_is_named_by_what_it_does(models: dict[str, str]) -> None:
    names = [OlmoLM(path=models[name]).tokenizer_name for name in ("demo", "words", "words")]
    assert names[0] != names[1] == names[2]


def test_the_text_without_context_follows_the_prefix_token(models: dict[str, str]) -> None:
    assert OlmoLM(path=models["words"]).prefix_token_id == 701
    assert OlmoLM(path=models["demo"]).prefix_token_id == 0
    request = asked("loglikelihood", ("", "seven"))
    [default] = OlmoLM(path=models["demo"]).loglikelihood(request, disable_tqdm=True)
    [other] = OlmoLM(path=models["demo"], prefix_token_id=32).loglikelihood(request, disable_tqdm=True)
    assert default != other
    assert other == OlmoLM(path=models["demo"])._loglikelihood_tokens([(None, [32], list(b"seven"))])[0]


class Hook:
    """The harness's cache."""

    def __init__(self) -> None:
        self.found: list[tuple] = []

    def add_partial(self, kind: str, request: tuple, answer: object) -> None:
        self.found.append((kind, request, answer))


def test_slices_reach_the_cache_before_the_next_one(models: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(f"{'ab'[index % 2]} score", f" and {index}") for index in range(7)]
    texts = [("Four score and seven",), ("years ago our fathers",), ("brought",)]
    model = OlmoLM(path=models["demo"], max_length=64)
    whole = model.loglikelihood(asked("loglikelihood", *pairs), disable_tqdm=True)
    model.max_length = 8
    rolling = model.loglikelihood_rolling(asked("loglikelihood_rolling", *texts), disable_tqdm=True)
    monkeypatch.setattr(olmo_infer.lm_eval, "SLICE", 3)
    calls, real = [], model.model

    class Stopping:
        """A model that is stopped in its third call."""

        def __getattr__(self, name: str):
            return getattr(real, name)

        def score(self, items, **options):
            calls.append(items)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return real.score(items, **options)

    for kind, requests, answers, n_cached, model.max_length in [
        ("loglikelihood", pairs, whole, 6, 64),
        # Of 3, 3 and 1 windows.
        ("loglikelihood_rolling", texts, rolling, 2, 8),
    ]:
        hook = Hook()
        model.set_cache_hook(hook)
        assert getattr(model, kind)(asked(kind, *requests), disable_tqdm=True) == answers
        assert sorted(hook.found) == sorted(zip([kind] * len(requests), requests, answers, strict=True))
        hook.found.clear()
        calls.clear()
        model.model = Stopping()
        with pytest.raises(KeyboardInterrupt):
            getattr(model, kind)(asked(kind, *requests), disable_tqdm=True)
        model.model = real
        assert len(hook.found) == n_cached
        # What begins alike is together.
        if kind == "loglikelihood":
            assert [{chr(item[0][0]) for item in items} for items in calls] == [{"a"}, {"a", "b"}, {"b"}]


def test_an_answer_that_is_not_finite_costs_no_other(models: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(olmo_infer.lm_eval, "SLICE", 2)
    model, hook = OlmoLM(path=models["demo"]), Hook()
    model.set_cache_hook(hook)
    real = model.model

    class Failing:
        """A score without finite logits after "b"."""

        error = olmo_infer.NotFiniteError("item 1: logit of token 5 is NaN")

    class Half:
        def __getattr__(self, name: str):
            return getattr(real, name)

        def score(self, items, **options):
            scores = real.score(items, **options)
            return [Failing if item[0][0] == ord("b") else score for item, score in zip(items, scores, strict=True)]

    model.model = Half()
    for kind, requests in [
        ("loglikelihood", [("c", "x"), ("b", "x"), ("a", "x"), ("b", "y"), ("a", "y")]),
        ("loglikelihood_rolling", [("xyz",), ("zz",)]),
    ]:
        hook.found.clear()
        if kind == "loglikelihood":
            text = "^request 1: logit of token 5 is NaN; 2 requests have no answer$"
            with pytest.raises(olmo_infer.NotFiniteError, match=text):
                model.loglikelihood(asked(kind, *requests), disable_tqdm=True)
            assert sorted(request[0] for _, request, _ in hook.found) == ["a", "a", "c"]
        else:
            model._prefix_token_id = ord("b")
            with pytest.raises(olmo_infer.NotFiniteError, match="^request 0: "):
                model.loglikelihood_rolling(asked(kind, *requests), disable_tqdm=True)
            assert not hook.found


def test_answers_are_cached_by_the_harness(models: dict[str, str], tasks: TaskManager, tmp_path) -> None:
    def run() -> dict:
        return lm_eval.simple_evaluate(
            model="olmo",
            model_args={"path": models["demo"]},
            tasks=["olmo_speech", "olmo_perplexity", "olmo_continue"],
            task_manager=tasks,
            use_cache=str(tmp_path / "cache"),
            bootstrap_iters=0,
        )

    first = run()
    assert cases.requests_of(run()["samples"]) == cases.requests_of(first["samples"])
