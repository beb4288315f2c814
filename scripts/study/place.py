"""The folder of a study: what it belongs to, who is at work in it, and the machine it is on."""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common import ToolError
from demo.writers import write_whole

from . import conditions, seeds
from .plan import SIZES


PACKAGES = ("torch", "transformers", "llamafactory", "trl", "ms-vlmeval", "datasets")


def definitions(size: str, model: Path) -> dict[str, str]:
    """What all cells of a study have to share: its size, the start model, and everything that cells do not name.

    Raises:
        ToolError: `model` has no weights.
    """
    weights = model / "model.safetensors"
    if not weights.is_file():
        raise ToolError(f"--model {model} is no checkpoint: it has no model.safetensors")
    settings = (
        SIZES[size],
        conditions.CONDITIONS,
        conditions.SCATTER,
        seeds.SETTINGS,
        seeds.RECIPE.read_text("utf-8"),
    )
    return {
        "size": size,
        "model": hashlib.sha256(weights.read_bytes()).hexdigest()[:16],
        "settings": hashlib.sha256(repr(settings).encode()).hexdigest()[:16],
    }


def require_same(about: dict[str, Any], wanted: dict[str, str], where: str) -> None:
    """Refuse results that cannot stand beside one another.

    Raises:
        ToolError: they were made with another size, start model or settings.
    """
    for name, value in wanted.items():
        if about.get(name, value) != value:
            raise ToolError(f"{where} is of another {name} ({about[name]}, not {value}): give another folder")


def note(out: Path, shared: dict[str, str], gpus: tuple[str, ...]) -> None:
    """Keep what a study is and what the report says about its making.

    Raises:
        ToolError: the folder holds another study.
    """
    path = out / "about.json"
    require_same(read_about(out) if path.is_file() else {}, shared, f"the study in {out}")
    about = {
        **shared,
        "cores": os.cpu_count(),
        "gpus": len(gpus),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
    write_whole(path, lambda file: file.write(json.dumps(about, indent=2) + "\n"))


def read_about(folder: Path) -> dict[str, Any]:
    """Read what `note` has kept.

    Raises:
        ToolError: it is not there or damaged.
    """
    path = folder / "about.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ToolError(f"{path} is not there: `study.py run` makes it, `study.py gather` copies it") from None
    except ValueError as error:
        raise ToolError(f"{path} is damaged ({error})") from error
    if not isinstance(about, dict):
        raise ToolError(f"{path} is damaged: it is no JSON object")
    return about


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Work in a folder while nobody else does.

    Raises:
        ToolError: somebody else is at work there.
    """
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ToolError(f"another study is at work in {out}: wait for it, or give another --out") from None
        yield


def visible_gpus() -> tuple[str, ...]:
    """The GPUs to share out, by the names that CUDA_VISIBLE_DEVICES takes."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        names = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
        return tuple(name.strip() for name in names if name.strip() not in ("", "-1"))
    if not shutil.which("nvidia-smi"):
        return ()
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    gpus = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]  # slices of one are indented
    return tuple(str(number) for number in range(len(gpus))) if listed.returncode == 0 else ()
