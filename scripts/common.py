"""What all scripts share: the root of the repository, errors a user can mend, and files that appear whole.

Standard library only: the installer runs with any Python that a LlamaFactory may have.
"""

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parents[1]


class ToolError(ValueError):
    """Something the user has to decide or mend; the message says what, where and how."""


def reason_of(error: BaseException) -> str:
    """Return an error in one short line: its kind, and what it says."""
    said = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {said}".removesuffix(": ")


def scratch_of(path: Path) -> Path:
    """Return the name, beside a file, under which it is written."""
    return path.with_name(f".{path.name}.unfinished")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name to write to, beside `path`, that takes the place of `path` when the block ends well.

    Folders above it are made. What an interrupted run left under that name is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = scratch_of(path)
    scratch.unlink(missing_ok=True)
    try:
        yield scratch
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file that is there entirely or not at all."""
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Write JSON that is there entirely or not at all."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def positive(text: str) -> int:
    """Read a number from 1 on; for argparse."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)
