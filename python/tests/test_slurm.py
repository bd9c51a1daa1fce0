"""scripts/slurm/score.sbatch and scripts/join_scores.py."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import cases
import pytest

BATCH = cases.ROOT / "scripts/slurm/score.sbatch"
JOIN = cases.ROOT / "scripts/join_scores.py"

# Prints its arguments, in place of a program.
ECHO = "#!/bin/sh\nprintf '%s\\n' \"$@\"\n"


def batch(arguments: list[str | Path], task: int | None, **environment: str) -> subprocess.CompletedProcess:
    """What a task of the array does."""
    environment = {**os.environ, "SLURM_CPUS_PER_TASK": "2", **environment}
    environment.pop("SLURM_ARRAY_TASK_ID", None)
    if task is not None:
        environment["SLURM_ARRAY_TASK_ID"] = str(task)
    return subprocess.run(["bash", BATCH, *arguments], capture_output=True, text=True, env=environment)


def join(output: Path, folder: Path, n_shards: int, inputs: list[Path]) -> subprocess.CompletedProcess:
    command = [sys.executable, JOIN, output, folder, "--shards", str(n_shards), "--inputs", *inputs]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def corpus(tmp_path: Path) -> list[Path]:
    """Three files with eight items, one of them with an error."""
    lines = [
        '\ufeff{"text": "Four score"}',
        "",
        '{"text": "and seven"}',
        " \t",
        '{"text": "years ago"}',
        '{"texts": 1}',
    ]
    texts = ["our fathers", "brought forth"]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "b.txt").write_text("on this continent", encoding="utf-8")
    with gzip.open(tmp_path / "c.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    return [tmp_path / "a.jsonl", tmp_path / "b.txt", tmp_path / "c.jsonl.gz"]


def shards(folder: Path, corpus: list[Path], n: int) -> list[Path]:
    """Shards as the program writes them, with made-up sums."""
    a, b, c = (str(path) for path in corpus)
    items = [(a, 1), (a, 3), (a, 5), (a, 6), (b, None), (c, 1), (c, 2)]
    # That of the file plus that in the file.
    numbers = [0, 1, 2, 3, 1, 2, 3]
    folder.mkdir()
    paths = [folder / f"scores.{index}.jsonl" for index in range(n)]
    for index, path in enumerate(paths):
        lines = []
        for number, (file, line) in enumerate(items):
            if numbers[number] % n != index:
                continue
            found = {"file": file} | ({} if line is None else {"line": line})
            found |= {"error": "no text"} if line == 6 else {"tokens": 3, "scored": 3, "sum_nll": float(number)}
            lines.append(json.dumps(found) + "\n")
        path.write_text("".join(lines))
    return paths


def test_a_task_scores_its_shard(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(ECHO)
    program.chmod(0o755)
    options = {"OLMO_INFER": str(program), "OLMO_SCORE_OPTIONS": "--context 64 --per-token"}
    ended = batch(["4", "model.olmo", tmp_path / "out", "a b.txt", "c.jsonl"], 3, **options)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        *("score", "model.olmo", "a b.txt", "c.jsonl", "--shard", "3/4"),
        *("--output", str(tmp_path / "out/scores.3.jsonl"), "--threads", "2", "--context", "64", "--per-token"),
    ]
    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize(
    ("arguments", "task", "text"),
    [
        (["4", "model.olmo", "out"], 0, "expected: N_SHARDS MODEL FOLDER FILES..."),
        (["0", "model.olmo", "out", "a"], 0, "0 is not a number of shards"),
        (["4x", "model.olmo", "out", "a"], 0, "4x is not a number of shards"),
        (["4", "model.olmo", "out", "a"], 4, "task 4 of the array has no shard"),
        (["4", "model.olmo", "out", "a"], None, "submit with sbatch --array=0-3"),
    ],
)
def test_a_task_without_a_shard_fails(arguments: list[str], task: int | None, text: str, tmp_path: Path) -> None:
    ended = batch(arguments, task, OLMO_INFER="false")
    assert ended.returncode != 0 and text in ended.stderr


def test_the_exit_status_of_a_task_is_the_programs(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexit 7\n")
    program.chmod(0o755)
    assert batch(["1", "model.olmo", tmp_path / "out", "a"], 0, OLMO_INFER=str(program)).returncode == 7


def test_shards_are_joined_in_the_order_of_the_items(tmp_path: Path, corpus: list[Path]) -> None:
    paths = shards(tmp_path / "scores", corpus, 3)
    ended = join(tmp_path / "all.jsonl", tmp_path / "scores", 3, [*corpus, corpus[0]])
    assert ended.returncode == 1 and "7 items, 1 with an error, 18 tokens scored, 1" in ended.stderr
    lines = (tmp_path / "all.jsonl").read_text().splitlines()
    assert [json.loads(line).get("sum_nll") for line in lines] == [0.0, 1.0, 2.0, None, 4.0, 5.0, 6.0]
    assert sorted(lines) == sorted(line for path in paths for line in path.read_text().splitlines())


def edit(path: Path, change) -> None:
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda paths: edit(paths[1], lambda lines: lines[:-1]), "is missing"),
        (lambda paths: edit(paths[0], lambda lines: lines[1:]), "expected line 1 of"),
        (lambda paths: edit(paths[2], lambda lines: [*lines, lines[0]]), "is of no input"),
        (lambda paths: edit(paths[0], lambda lines: [lines[0], *lines]), "expected line 6 of"),
        (
            lambda paths: edit(paths[0], lambda lines: [*lines[:-1], lines[-1][:9]]),
            "is unfinished: run the shard again",
        ),
        (lambda paths: edit(paths[0], lambda lines: ["x\n", *lines]), "is not JSON"),
        (lambda paths: edit(paths[0], lambda lines: ["{}\n", *lines]), "is not a score"),
        (lambda paths: paths[1].unlink(), "is missing: run its shard"),
        (lambda paths: paths[1].rename(paths[1].with_name("scores.3.jsonl")), "is missing: run its shard"),
        (lambda paths: paths[1].with_name("scores.3.jsonl").touch(), "is not one of 3 shards"),
    ],
)
def test_a_lost_or_doubled_item_fails(damage, text: str, tmp_path: Path, corpus: list[Path]) -> None:
    damage(shards(tmp_path / "scores", corpus, 3))
    ended = join(tmp_path / "all.jsonl", tmp_path / "scores", 3, corpus)
    assert ended.returncode == 2 and text in ended.stderr and ended.stderr.count("\n") == 1
    assert not (tmp_path / "all.jsonl").exists() and not list(tmp_path.glob(".*"))


def test_an_input_that_was_not_scored_fails(tmp_path: Path, corpus: list[Path]) -> None:
    shards(tmp_path / "scores", corpus, 3)
    (tmp_path / "d.txt").touch()
    for inputs, text in [([*corpus, tmp_path / "d.txt"], "d.txt is missing"), (corpus[:2], "is of no input")]:
        ended = join(tmp_path / "all.jsonl", tmp_path / "scores", 3, inputs)
        assert ended.returncode == 2 and text in ended.stderr
    assert join(corpus[1], tmp_path / "scores", 3, corpus).returncode == 2
    assert corpus[1].read_text() == "on this continent"


def test_the_program_and_the_scripts_agree(tmp_path: Path, corpus: list[Path]) -> None:
    """The real program: two shards, one of them stopped in a line and continued, have the lines of one run."""
    model = cases.packed(cases.demo(tmp_path / "demo"))
    program = str(cases.program("olmo-infer"))
    whole = subprocess.run([program, "score", model, *corpus], capture_output=True, text=True)
    assert whole.returncode == 1, whole.stderr
    for task in (0, 1):
        assert batch(["2", model, tmp_path / "scores", *corpus], task, OLMO_INFER=program).returncode in (0, 1)
    stopped = tmp_path / "scores/scores.0.jsonl"
    stopped.write_text(stopped.read_text()[:-20])
    assert join(tmp_path / "all.jsonl", tmp_path / "scores", 2, corpus).returncode == 2
    assert batch(["2", model, tmp_path / "scores", *corpus], 0, OLMO_INFER=program).returncode in (0, 1)
    assert join(tmp_path / "all.jsonl", tmp_path / "scores", 2, corpus).returncode == 1
    assert (tmp_path / "all.jsonl").read_text() == whole.stdout


def test_the_batch_script_has_no_findings_of_shellcheck() -> None:
    ended = subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), "--shell=bash", BATCH], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout
