"""Scoring with a real Ray on this machine: two workers, Parquet in and out."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ |= {"RAY_DEDUP_LOGS": "0", "RAY_USAGE_STATS_ENABLED": "0"}

import cases
import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest
import ray
import ray.data

import olmo_infer
from olmo_infer.ray import COLUMNS, Scorer, score

SPEECH = (cases.ROOT / "demo/speech.txt").read_text()
N_FILES, N_ROWS = 8, 96


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(cases.packed(cases.demo(tmp_path_factory.mktemp("model") / "demo")))


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    # The workers do not have this folder on their path.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(num_cpus=3, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parquet files of texts of many lengths. Row 40 has none."""
    folder = tmp_path_factory.mktemp("corpus")
    texts = [SPEECH[7 * row : 7 * row + 1 + 5 * row] for row in range(N_ROWS)]
    texts[40] = None
    for index in range(N_FILES):
        rows = range(index, N_ROWS, N_FILES)
        table = pa.table({"id": list(rows), "text": pa.array([texts[row] for row in rows], pa.string())})
        pa.parquet.write_table(table, folder / f"{index}.parquet")
    return folder


def rows_of(folder: Path) -> dict[int, dict]:
    """The rows of Parquet files by their ids, of which none is double."""
    rows = pa.dataset.dataset(folder, format="parquet").to_table().to_pylist()
    by_id = {row["id"]: row for row in rows}
    assert len(by_id) == len(rows)
    return by_id


class Mortal(Scorer):
    """A scorer of which the first process that has a third batch is killed in it. Notes the processes that have scored
    a batch."""

    def __init__(self, path: str, notes: str, **options) -> None:
        super().__init__(path, **options)
        self.notes, self.n_batches = Path(notes), 0

    def __call__(self, batch: pa.Table) -> pa.Table:
        self.n_batches += 1
        if self.n_batches == 3:
            with contextlib.suppress(FileExistsError):
                (self.notes / "killed").open("x").write(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
        scored = super().__call__(batch)
        (self.notes / f"{os.getpid()}.scored").touch()
        return scored


class Measured(Scorer):
    """A scorer that knows how much of the model file its process has in memory."""

    def shares(self) -> tuple[int, int]:
        """Rss and Pss of the mappings of the file, in bytes. Pss divides each page by the processes that share it."""
        total, is_file = {"Rss": 0, "Pss": 0}, False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                is_file = line.endswith(str(self.model.path))
            elif is_file and (found := re.match(r"(Rss|Pss): +([0-9]+) kB", line)):
                total[found[1]] += int(found[2]) * 1024
        return total["Rss"], total["Pss"]


@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_loses_and_doubles_nothing(model: str, corpus: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    # Ray reads small files as one block, which would be work for one worker.
    scored = (
        ray.data.read_parquet(str(corpus))
        .repartition(N_FILES)
        .map_batches(
            Mortal,
            fn_constructor_args=(model, str(notes)),
            batch_format="pyarrow",
            batch_size=4,
            concurrency=2,
            num_cpus=1,
        )
    )
    scored.write_parquet(str(tmp_path / "scores"))
    killed = int((notes / "killed").read_text())
    workers = {int(path.stem) for path in notes.glob("*.scored")}
    # The process that was killed, the one that replaced it, and the other one.
    assert killed in workers and len(workers) == 3
    found = rows_of(tmp_path / "scores")
    assert found.keys() == set(range(N_ROWS))
    # One process and one batch.
    whole = Scorer(model, threads=2)(pa.dataset.dataset(corpus, format="parquet").to_table())
    assert found == {row["id"]: row for row in whole.to_pylist()}
    assert found[40] == {
        "id": 40,
        "text": None,
        **dict.fromkeys(COLUMNS),
        "error": "the row has null, expected a text or token ids",
    }
    assert all(row["error"] is None and row["sum_nll"] > 0 for row in found.values() if row["id"] != 40)


@pytest.mark.usefixtures("cluster")
def test_workers_of_a_machine_share_the_pages_of_the_file(model: str) -> None:
    workers = [ray.remote(num_cpus=1)(Measured).remote(model) for _ in range(2)]
    ray.get([worker.rows.remote([SPEECH]) for worker in workers])
    shares = ray.get([worker.shares.remote() for worker in workers])
    size = os.path.getsize(model)
    assert all(rss > 0.9 * size for rss, _ in shares), (shares, size)
    assert sum(pss for _, pss in shares) < 1.1 * size, (shares, size)
    for worker in workers:
        ray.kill(worker)


@pytest.mark.usefixtures("cluster")
def test_ids_are_scored_and_a_dataset_has_the_columns(model: str, tmp_path: Path) -> None:
    ids = [list(SPEECH[:40].encode()), [70], [], [300, 1], None, [1, 2]]
    pa.parquet.write_table(pa.table({"id": list(range(6)), "ids": ids}), tmp_path / "ids.parquet")
    score(ray.data.read_parquet(str(tmp_path / "ids.parquet")), model, column="ids", batch_size=2).write_parquet(
        str(tmp_path / "scores")
    )
    found = rows_of(tmp_path / "scores")
    assert found[0]["sum_nll"] == olmo_infer.Model(model).score([ids[0]])[0].sum_nll
    assert [found[row]["n_tokens"] for row in range(6)] == [39, 0, None, None, None, 1]
    assert [found[row]["error"] for row in (2, 3, 4)] == [
        "the row has an empty list, expected a text or token ids",
        "token 0 is 300, the vocabulary has ids 0 to 255",
        "the row has null, expected a text or token ids",
    ]
    assert found[1] == {"id": 1, "ids": [70], **dict.fromkeys(COLUMNS), "sum_nll": 0.0, "n_tokens": 0}


def test_windows_are_those_of_the_harness(model: str) -> None:
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    opened = olmo_infer.Model(model)
    for length in (1, 63, 64, 65, 128, 129, 700):
        [row] = Scorer(model, max_length=64).rows([SPEECH[:length]])
        tokens = list(SPEECH[:length].encode())
        pairs = map(make_disjoint_window, get_rolling_token_windows(tokens, 0, 64, 1))
        scores = opened.score([(context + continuation, len(context)) for context, continuation in pairs])
        assert row == {
            "n_bytes": length,
            "n_words": len(re.split(r"\s+", SPEECH[:length])),
            "n_tokens": length,
            "sum_nll": pytest.approx(sum(score.sum_nll for score in scores), rel=1e-13),
        }


@pytest.mark.parametrize("options", [{}, {"max_length": 64}, {"max_length": 50, "stride": 7}])
def test_numbers_are_the_bits_of_the_program(options: dict, model: str, tmp_path: Path) -> None:
    values = [SPEECH, SPEECH[:51], "", "Ein Bär\u2028  trank – 3 Tassen.\n", list(SPEECH[:300].encode()), [7]]
    lines = [{"text": value} if isinstance(value, str) else {"tokens": value} for value in values]
    (tmp_path / "values.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = {"max_length": "--context", "stride": "--stride"}
    command = [cases.program("olmo-infer"), "score", model, tmp_path / "values.jsonl"]
    command += [text for name, value in options.items() for text in (flags[name], str(value))]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    for row, of_program in zip(Scorer(model, **options).rows(values), found, strict=True):
        assert row["sum_nll"] == of_program["sum_nll"] and row["n_tokens"] == of_program["scored"]
        if "n_bytes" in row:
            assert (row["n_bytes"], row["n_words"]) == (of_program["bytes"], of_program["words"])


def test_a_stride_gives_predictions_more_context(model: str) -> None:
    far, near = (Scorer(model, max_length=64, stride=stride).rows([SPEECH])[0] for stride in (64, 16))
    assert far["n_tokens"] == near["n_tokens"] and far["sum_nll"] != near["sum_nll"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_length": 0}, "max_length=0 is not a number from 1 to 2048"),
        ({"max_length": 2049}, "max_length=2049 is not"),
        ({"max_length": 64, "stride": 65}, "stride=65 is not a number from 1 to 64"),
        ({"stride": 0}, "stride=0 is not a number from 1 to 2048"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict, text: str, model: str) -> None:
    with pytest.raises(ValueError, match=text):
        Scorer(model, **options)


def test_batches_that_cannot_be_scored_are_refused(model: str) -> None:
    scorer = Scorer(model)
    with pytest.raises(TypeError, match="give map_batches batch_format='pyarrow'"):
        scorer({"text": ["a"]})
    with pytest.raises(ValueError, match="no column 'text': it has body"):
        scorer(pa.table({"body": ["a"]}))
    with pytest.raises(ValueError, match="has a column 'error' already"):
        scorer(pa.table({"text": ["a"], "error": ["b"]}))


@pytest.mark.usefixtures("cluster")
def test_arrays_are_ids(model: str) -> None:
    ids = np.frombuffer(SPEECH[:80].encode(), np.uint8).reshape(2, 40)
    for kind in ("u1", "i8"):
        found = score(ray.data.from_numpy(ids.astype(kind)), model, column="data").to_pandas()
        assert list(found["sum_nll"]) == [of_row["sum_nll"] for of_row in Scorer(model).rows(ids.tolist())]
        assert list(found["n_tokens"]) == [39, 39]


def test_arrays_that_are_no_ids_have_an_error(model: str) -> None:
    rows = Scorer(model).rows([np.array([], np.int64), np.array([1.0]), ids := np.array([[1, 2]]), np.array(1), ids[0]])
    errors = [row.get("error", "") for row in rows]
    assert [error.split(",")[0].removeprefix("the row has ") for error in errors] == [
        *("an empty list", "a list", "a ndarray", "a ndarray", ""),
    ]


def test_rows_of_another_type_have_an_error(model: str) -> None:
    rows = Scorer(model).rows([1.5, "a", {"text": "a"}, [1.0], [True]])
    assert [row.get("error") is None for row in rows] == [False, True, False, False, False]
    assert rows[0]["error"] == "the row has a float, expected a text or token ids"
