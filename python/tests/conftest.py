"""The models of the tests: the demo model, which knows a speech by heart, and the small reference models."""

import shutil
import subprocess
from pathlib import Path

import cases
import pytest

import olmo_infer

REPOSITORY = Path(__file__).resolve().parents[2]
# Marks around the turns, as tests/support/chats.rs has them.
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ '[now]' if loop.last }}{% endfor %}[assistant]"
)


def pack(weights: Path, model: Path, *flags: str) -> Path:
    subprocess.run([cases.program("olmo-pack"), weights, model, "--force", *flags], check=True, capture_output=True)
    return model


def infer(*words: object) -> subprocess.CompletedProcess:
    """Runs the program, which must end well."""
    words = [cases.program("olmo-infer"), *map(str, words)]
    return subprocess.run(words, check=True, capture_output=True, stdin=subprocess.DEVNULL)


def reference_cases() -> list[Path]:
    cases = sorted(path.parent for path in (REPOSITORY / "tests" / "golden").glob("*/expected.json"))
    assert len(cases) >= 8
    return cases


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def demo_path(folder) -> Path:
    return pack(REPOSITORY / "demo" / "weights", folder / "demo.olmo")


@pytest.fixture(scope="session")
def demo(demo_path) -> olmo_infer.Model:
    return olmo_infer.Model(demo_path, threads=2)


@pytest.fixture(scope="session")
def chat_path(folder) -> Path:
    weights = folder / "chat"
    shutil.copytree(REPOSITORY / "demo" / "weights", weights)
    (weights / "chat_template.jinja").write_text(TEMPLATE)
    (weights / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.5, "top_p": 0.9}')
    return pack(weights, folder / "chat.olmo")


@pytest.fixture(scope="session")
def chat(chat_path) -> olmo_infer.Model:
    return olmo_infer.Model(chat_path, threads=1)


@pytest.fixture(scope="session", params=reference_cases(), ids=lambda case: case.name)
def case(request, folder):
    """A reference model: its case, its file, and the model."""
    path = folder / f"{request.param.name}.olmo"
    if not path.exists():
        pack(request.param / "weights", path, "--dtype", "f32")
    return request.param, path, olmo_infer.Model(path, threads=2)
