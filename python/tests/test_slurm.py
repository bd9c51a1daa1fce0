"""scripts/slurm/score.sbatch and scripts/join_scores.py."""

import gzip
import json
import os
import re
import subprocess
import sys
import zlib
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
            found["digest"] = "00"
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
        (lambda paths: edit(paths[0], lambda lines: lines[1:]), "line 1 of"),
        (lambda paths: edit(paths[2], lambda lines: [*lines, lines[0]]), "is of no input or double"),
        (lambda paths: edit(paths[0], lambda lines: [lines[0], *lines]), "is of no input or double"),
        (lambda paths: edit(paths[0], lambda lines: [lines[2], *lines, lines[1]]), "which is double"),
        (
            lambda paths: edit(paths[0], lambda lines: [*lines[:-1], lines[-1][:9]]),
            "is unfinished: run the shard again",
        ),
        (lambda paths: edit(paths[0], lambda lines: ["x\n", *lines]), "is not JSON"),
        (lambda paths: edit(paths[0], lambda lines: ["{}\n", *lines]), "is not a score"),
        (lambda paths: edit(paths[0], lambda lines: ['{"file":"a","scored":"1","sum_nll":1}\n']), "is not a score"),
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


def fault(file: Path, line: int | None = None) -> str:
    """The line of a file of JSON lines that could not be read."""
    return json.dumps({"file": str(file)} | ({} if line is None else {"line": line}) | {"error": "cannot open"}) + "\n"


@pytest.mark.parametrize("line", [None, 2])
def test_a_file_that_one_shard_could_not_read_is_its_fault(
    line: int | None, tmp_path: Path, corpus: list[Path]
) -> None:
    paths = shards(tmp_path / "scores", corpus, 3)
    whole = paths[0].read_text().splitlines(keepends=True)
    # Its items of the first file, except those before the fault.
    edit(paths[0], lambda lines: [*lines[: (line or 1) - 1], fault(corpus[0], line), lines[2]])
    number = line or 1
    ended = join(tmp_path / "all.jsonl", tmp_path / "scores", 3, corpus)
    assert ended.returncode == 2 and ended.stderr == (
        f"join_scores.py: {corpus[0]} could not be read by shard 0: remove line {number} from {paths[0]} and run the "
        "shard again\n"
    )
    # What the shard does then: the items are added at its end.
    edit(paths[0], lambda lines: [text for text in lines if "digest" in text])
    edit(paths[0], lambda lines: lines + [text for text in whole if text not in lines])
    assert join(tmp_path / "all.jsonl", tmp_path / "scores", 3, corpus).returncode == 1
    lines = (tmp_path / "all.jsonl").read_text().splitlines()
    assert [json.loads(line).get("sum_nll") for line in lines] == [0.0, 1.0, 2.0, None, 4.0, 5.0, 6.0]


def test_a_fault_of_a_shard_without_an_item_of_the_file_is_reported(tmp_path: Path, corpus: list[Path]) -> None:
    paths = shards(tmp_path / "scores", corpus, 5)
    # The last file has the items 2 and 3.
    edit(paths[0], lambda lines: [*lines, fault(corpus[2])])
    ended = join(tmp_path / "all.jsonl", tmp_path / "scores", 5, corpus)
    assert ended.returncode == 2 and f"{corpus[2]} could not be read by shard 0: remove line 2" in ended.stderr


def test_a_file_that_cannot_be_read_has_one_error_line(tmp_path: Path, corpus: list[Path]) -> None:
    paths = shards(tmp_path / "scores", corpus, 3)
    missing, empty = tmp_path / "missing.jsonl", tmp_path / "empty.jsonl.gz"
    empty.touch()
    for path in paths:
        edit(path, lambda lines: [*lines, fault(missing), fault(empty)])
    ended = join(tmp_path / "all.jsonl", tmp_path / "scores", 3, [*corpus, missing, empty])
    assert ended.returncode == 1 and "9 items, 3 with an error" in ended.stderr
    assert (tmp_path / "all.jsonl").read_text().splitlines(keepends=True)[7:] == [fault(missing), fault(empty)]
    # One of the shards could read it.
    (tmp_path / "all.jsonl").unlink()
    edit(paths[1], lambda lines: [line for line in lines if str(missing) not in line])
    ended = join(tmp_path / "all.jsonl", tmp_path / "scores", 3, [*corpus, missing, empty])
    assert ended.returncode == 2 and "missing.jsonl cannot be read: " in ended.stderr and ended.stderr.count("\n") == 1


@pytest.mark.parametrize("n_items", [0, 3, 5])
def test_a_damaged_file_has_the_lines_before_its_fault(n_items: int, tmp_path: Path) -> None:
    """The program may end more or fewer lines before the damage than zlib in Python."""
    file = tmp_path / "a.jsonl.gz"
    whole = gzip.compress(b"".join(b'{"text": "%d"}\n' % index for index in range(4000)))
    file.write_bytes(whole[:200] + bytes(1000) + whole[1200:])
    with pytest.raises((zlib.error, EOFError, OSError)):
        gzip.decompress(file.read_bytes())
    folder = tmp_path / "scores"
    folder.mkdir()
    items = [{"file": str(file), "line": line, "digest": "00", "scored": 1, "sum_nll": 1.0} for line in range(1, 6)]
    lines = [json.dumps(item) + "\n" for item in items[:n_items]]
    end = fault(file, n_items + 1)
    for index in range(2):
        (folder / f"scores.{index}.jsonl").write_text("".join(lines[index::2]) + end)
    ended = join(tmp_path / "all.jsonl", folder, 2, [file])
    assert ended.returncode == 1 and ended.stderr.startswith(f"{n_items + 1} items, 1 with an error")
    assert (tmp_path / "all.jsonl").read_text() == "".join(lines) + end
    # Without the faults, the damage is that of the file here.
    (tmp_path / "all.jsonl").unlink()
    (folder / "scores.1.jsonl").write_text("".join(lines[1::2]))
    ended = join(tmp_path / "all.jsonl", folder, 2, [file])
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1, ended.stderr
    assert f"{file} cannot be read: " in ended.stderr or "is missing" in ended.stderr


def test_paths_are_one_file_as_for_the_program(tmp_path: Path, corpus: list[Path]) -> None:
    shards(tmp_path / "scores", corpus, 3)
    again = [f"{corpus[0].parent}//./{corpus[0].name}", f"{corpus[1]}/", f"{corpus[2].parent}/./{corpus[2].name}"]
    ended = join(tmp_path / "all.jsonl", tmp_path / "scores", 3, [*corpus, *again])
    assert ended.returncode == 1 and "7 items" in ended.stderr, ended.stderr


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


def test_the_batch_script_guards_empty_arrays() -> None:
    """Bash before 4.4, which this machine may lack, takes an empty array for an unset variable."""
    arrays = re.findall(r"(\$\{\w+\[@\]\+)?\"\$\{\w+\[@\]\}\"", BATCH.read_text())
    assert len(arrays) == 2 and all(arrays)


def test_the_batch_script_has_no_findings_of_shellcheck() -> None:
    ended = subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), "--shell=bash", BATCH], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout
