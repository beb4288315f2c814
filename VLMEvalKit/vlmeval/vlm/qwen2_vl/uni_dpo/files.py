"""A checkpoint's folder and its small files: finding, reading, and what is said of those that cannot be used."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


class CheckpointError(ValueError):
    """A checkpoint that cannot be evaluated as it is; the message says what, where and how to mend it."""


@contextmanager
def in_context(what: str) -> Iterator[None]:
    """Raise whatever libraries raise over files of a checkpoint again, as one message.

    Raises:
        CheckpointError: The block raised something else.
    """
    try:
        yield
    except (CheckpointError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".removesuffix(": ")
        raise CheckpointError(f"cannot {what}: {reason}\n  is every file as it was saved?") from error


def locate(path: str, role: str = "the checkpoint") -> Path:
    """Return the folder of a checkpoint, fetching it if it is a name on the hub and not here yet.

    Raises:
        CheckpointError: There is none.
    """
    filled = os.path.expanduser(os.path.expandvars(path))
    for folder in (path, filled):
        if os.path.isdir(folder):
            return Path(folder).resolve()
    if unset := re.search(r"\$\{?(\w+)", filled):
        name = unset[1]
        raise CheckpointError(f"model_path is {path}, and {name} is not set\n  start with {name}=/path/to/checkpoint")
    if filled.count("/") != 1 or filled.startswith((".", "/", "~")):
        raise CheckpointError(f"no such folder: {filled} ({role})")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(filled))
    except Exception as error:
        raise CheckpointError(f"{filled} ({role}) is neither a folder nor to be had from the hub: {error}") from error


def read_json(path: Path) -> dict:
    """Read a JSON file of a checkpoint.

    Raises:
        CheckpointError: It is not there, or no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read {path}: {error}\n  is {path.parent} a whole checkpoint?") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not an object\n  is {path.parent} a whole checkpoint?")
    return content
