"""The stubs: they describe the module that there is, and mypy finds misuse."""

import os
import subprocess
import sys
import textwrap

import olmo_infer


def mypy(folder, module: str, *words: object) -> subprocess.CompletedProcess:
    """Runs mypy where no folder `olmo_infer` hides the package that is installed."""
    environment = {**os.environ, "MYPY_CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, "-m", module, *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_stubs_match_the_module(tmp_path):
    found = mypy(tmp_path, "mypy.stubtest", "olmo_infer._native", "--ignore-disjoint-bases")
    assert found.returncode == 0, found.stdout + found.stderr


def test_types_of_calls(tmp_path):
    good = """
        import numpy as np
        import olmo_infer

        model = olmo_infer.Model("m.olmo", load="mmap")
        text: str = "".join(model.generate("a"))
        ids: list[int] = list(model.generate(np.array([1]), as_ids=True))
        score: olmo_infer.Score = model.score([[1, 2], ([1, 2], 1), np.array([1])])[0]
        total: float = score.sum_nll
        session: olmo_infer.Session = model.session().fork()
        shape = session.prefill(ids).shape
    """
    bad = """
        import olmo_infer

        model = olmo_infer.Model("m.olmo", load="fast")
        model.score("text", kv="f16")
        ids: list[int] = list(model.generate("a"))
    """
    for name, source, n_errors in [("good.py", good, 0), ("bad.py", bad, 4)]:
        path = tmp_path / name
        path.write_text(textwrap.dedent(source))
        found = mypy(tmp_path, "mypy", "--strict", path)
        assert found.stdout.count(": error:") == n_errors, found.stdout


def test_version():
    assert olmo_infer.__version__ == "0.1.0"
