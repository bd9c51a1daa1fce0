"""scripts/score_checkpoints.py on two checkpoints that differ in one matrix."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import cases
import numpy as np
import pytest

SCRIPT = cases.ROOT / "scripts/score_checkpoints.py"


def bin_folder(output: Path) -> Path:
    """The folder of the programs, next to the output."""
    folder = output.with_name("bin")
    return folder if folder.exists() else cases.programs(folder)


def run(output: Path, checkpoints: list[Path], texts: list[Path], *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, output, "--checkpoints", *checkpoints, "--texts", *texts]
    command += ["--bin", bin_folder(output), *options]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def checkpoints(tmp_path: Path) -> list[Path]:
    """The demo model, and before it in training one whose head is half as large. Step 9 is before step 100."""
    folders = [cases.demo(tmp_path / "demo-step100-tokens2B"), cases.demo(tmp_path / "demo-step9-tokens1B")]
    head = folders[1] / "lm_head.weight.npy"
    np.save(head, np.load(head) / 2)
    return folders


@pytest.fixture
def texts(tmp_path: Path) -> list[Path]:
    (tmp_path / "known.txt").write_text((cases.ROOT / "demo/speech.txt").read_text()[:200])
    (tmp_path / "other.txt").write_text("The ferry leaves at six.")
    return [tmp_path / "known.txt", tmp_path / "other.txt"]


def test_checkpoints_are_compared_in_the_order_of_their_steps(
    tmp_path: Path, checkpoints: list[Path], texts: list[Path]
) -> None:
    ended = run(tmp_path / "out", checkpoints, texts, "--remove-models")
    assert ended.returncode == 0, ended.stderr
    rows = json.loads((tmp_path / "out/table.json").read_text())
    assert [row["step"] for row in rows] == [9, 100]
    assert [row["tensors_changed"] for row in rows] == [None, 1]
    head = np.load(checkpoints[0] / "lm_head.weight.npy")
    assert rows[1]["most_changed"] == "lm_head.weight"
    assert rows[1]["largest_change"] == pytest.approx(np.abs(head).max() / 2)
    known, other = (str(path) for path in texts)
    by_file = [row["nats_per_token_by_file"] for row in rows]
    assert by_file[0][known] > by_file[1][known] and by_file[0][other] < by_file[1][other]
    for row in rows:
        lines = (tmp_path / "out" / f"{row['name']}.jsonl").read_text().splitlines()
        nats = sum(json.loads(line)["sum_nll"] for line in lines)
        assert row["scored"] == 224 and row["nats_per_token"] == nats / 224
        assert row["bits_per_byte"] == nats / 224 / math.log(2)
    assert ended.stdout == (tmp_path / "out/table.md").read_text() and ended.stdout.count("\n") == 4
    assert not list((tmp_path / "out").glob("*.olmo"))
    # Nothing is computed twice.
    again = run(tmp_path / "out", checkpoints, texts)
    assert again.stdout == ended.stdout and again.stderr.count("2 of 2 items were in") == 2


def test_weights_that_were_not_packed_are_refused(tmp_path: Path, checkpoints: list[Path], texts: list[Path]) -> None:
    ended = run(tmp_path / "out", checkpoints, texts)
    assert ended.returncode == 0, ended.stderr
    table = (tmp_path / "out/table.md").read_text()
    # The same files again are accepted.
    assert run(tmp_path / "out", checkpoints, texts).stdout == table
    moved = [tmp_path / "other" / folder.name for folder in checkpoints]
    (tmp_path / "other").mkdir()
    for folder, other in zip(checkpoints, moved, strict=True):
        shutil.copytree(folder, other)
    for folders, options, text in [
        (moved, (), "was packed from the folder"),
        (checkpoints, ("--dtype", "bf16"), "was packed from the dtype None, now it is bf16"),
    ]:
        ended = run(tmp_path / "out", folders, texts, *options)
        assert ended.returncode == 1 and text in ended.stderr.splitlines()[-1], ended.stderr
    head = checkpoints[1] / "lm_head.weight.npy"
    np.save(head, np.load(head) * 3)
    ended = run(tmp_path / "out", checkpoints, texts)
    assert ended.returncode == 1 and "lm_head.weight.npy in" in ended.stderr.splitlines()[-1], ended.stderr
    assert "has changed since" in ended.stderr and (tmp_path / "out/table.md").read_text() == table
    (tmp_path / "out" / f"{checkpoints[0].name}.packed.json").unlink()
    ended = run(tmp_path / "out", checkpoints[:1], texts)
    assert ended.returncode == 1 and "does not record what" in ended.stderr.splitlines()[-1], ended.stderr


def test_texts_of_earlier_runs_are_left_out(tmp_path: Path, checkpoints: list[Path], texts: list[Path]) -> None:
    assert run(tmp_path / "out", checkpoints[:1], texts).returncode == 0
    ended = run(tmp_path / "out", checkpoints[:1], texts[:1])
    assert ended.returncode == 0, ended.stderr
    [row] = json.loads((tmp_path / "out/table.json").read_text())
    assert row["nats_per_token_by_file"].keys() == {str(texts[0])} and row["scored"] == 200


def test_what_cannot_be_compared_is_one_line(tmp_path: Path, checkpoints: list[Path], texts: list[Path]) -> None:
    twin = checkpoints[0].rename(tmp_path / "other-step9")
    nameless = cases.demo(tmp_path / "final")
    missing = [tmp_path / "missing.txt"]
    for folders, files, text in [
        ([nameless], texts, "final has no step in its name"),
        ([checkpoints[1], twin], texts, "are both of step 9"),
        ([twin], missing, "olmo-infer ended with exit status 1"),
    ]:
        ended = run(tmp_path / "out", folders, files)
        assert ended.returncode == 1 and text in ended.stderr.splitlines()[-1], ended.stderr
        assert not (tmp_path / "out/table.json").exists()
