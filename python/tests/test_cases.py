"""The programs and the packages of the other tests."""

import re
from pathlib import Path

import cases
import pytest


def test_programs_are_the_debug_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLMO_BIN", raising=False)
    monkeypatch.setattr(cases, "ROOT", tmp_path)
    for folder in ("debug", "release"):
        (tmp_path / "target" / folder).mkdir(parents=True)
    (tmp_path / "target/release/olmo-infer").touch()
    with pytest.raises(AssertionError, match="debug/tested-olmo-infer is not built"):
        cases.program("olmo-infer")
    (tmp_path / "target/debug/tested-olmo-infer").touch()
    assert cases.program("olmo-infer") == tmp_path / "target/debug/tested-olmo-infer"
    monkeypatch.setenv("OLMO_BIN", str(tmp_path / "target/release"))
    assert cases.program("olmo-infer") == tmp_path / "target/release/olmo-infer"


def test_optional_packages_are_those_that_are_tested() -> None:
    project = (cases.ROOT / "python/pyproject.toml").read_text().split("[project.optional-dependencies]")[1]
    tested = (cases.ROOT / "python/requirements-test.txt").read_text().splitlines()
    packages = re.findall(r'\["(.+)>=(.+)"\]', project)
    assert len(packages) == 2
    for name, version in packages:
        assert any(line.startswith(f"{name}=={version}") for line in tested), name
