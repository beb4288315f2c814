"""Files of the runner and of checkpoints: written whole, read with a message, found by path or by name."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UniDPOError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to, whose file takes the place of `path` in one step when the block ends well."""
    scratch = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield scratch
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def read_json(path: Path, advice: str = "is every file as it was saved?") -> dict[str, Any]:
    """Read a file that holds an object in JSON.

    Raises:
        UniDPOError: It is not there, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UniDPOError(f"cannot read {path}: {error}\n  {advice}") from error
    if not isinstance(content, dict):
        raise UniDPOError(f"{path} is no JSON object\n  {advice}")
    return content


def sha256_of(path: Path) -> "hashlib._Hash":
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


def locate(path: str, role: str = "the checkpoint") -> Path:
    """Return the folder of a checkpoint, fetching it if it is a name on the hub and not here yet.

    Raises:
        UniDPOError: There is none.
    """
    filled = os.path.expanduser(os.path.expandvars(path))
    for folder in (path, filled):
        if os.path.isdir(folder):
            return Path(folder).resolve()
    if unset := re.search(r"\$\{?(\w+)", filled):
        name = unset[1]
        raise UniDPOError(f"model_path is {path}, and {name} is not set\n  start with {name}=/path/to/checkpoint")
    if filled.count("/") != 1 or filled.startswith((".", "/", "~")):
        raise UniDPOError(f"no such folder: {filled} ({role})")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(filled))
    except Exception as error:
        raise UniDPOError(f"{filled} ({role}) is neither a folder nor to be had from the hub: {error}") from error
