"""Writing that is whole or not there, and what to say when the disk does not take it."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import UniDPOError


# Holds what is being written, in the folder where it will be; cleared when a run starts.
UNFINISHED = ".unfinished"

RUST_NUMBER = re.compile(r"\(os error (\d+)\)")


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Give a path to write to, whose file takes the place of `path` when all is written."""
    path = Path(path)
    scratch = path.parent / UNFINISHED / path.name
    scratch.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield scratch
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
        with suppress(OSError):  # others are being written
            scratch.parent.rmdir()


def read_json(path: Path) -> Any:
    """Read a file; None if it is not there, or is not whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@contextmanager
def explained(what: str, folder: str | os.PathLike, advice: str) -> Iterator[None]:
    """Say in one message what could not be written, where, why, and how to go on.

    Raises:
        UniDPOError: the system refused to write.
    """
    try:
        yield
    except Exception as error:
        if not is_refusal(error):
            raise
        raise UniDPOError(f"{what} could not be written: {reason(error, folder)}. {advice}") from error


def is_refusal(error: BaseException) -> bool:
    """Tell whether an exception says that the system did not take what was written.

    torch's archive writer raises a RuntimeError; libraries in Rust (safetensors, tokenizers) have the system's number
    in the text of whatever they raise.
    """
    from_torch = isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("PytorchStreamWriter", "inline_container")
    )
    return isinstance(error, OSError) or from_torch or RUST_NUMBER.search(str(error)) is not None


def reason(error: BaseException, folder: str | os.PathLike) -> str:
    """Describe a refusal in the system's words where they are known, with the space that is left."""
    number = RUST_NUMBER.search(str(error))
    number = int(number[1]) if number else getattr(error, "errno", None)
    words = os.strerror(number) if number else str(error).partition("\n")[0]
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return f"{words} ({folder})"
    return f"{words} ({free / 1e9:.3g} GB free in {folder})"


def require_writable(option: str, folder: str | os.PathLike) -> None:
    """Make a file in a folder, or where the folder will be made, that goes again at once.

    Raises:
        UniDPOError: that is not possible.
    """
    there = Path(folder).absolute()
    while not there.exists() and there != there.parent:
        there = there.parent  # no folder is left behind by a run that is refused for another reason
    try:
        with tempfile.TemporaryFile(dir=there) as probe:
            probe.write(b"1")
    except OSError as error:
        raise UniDPOError(
            f"`{option}: {folder}` is a folder that cannot be written to: {error.strerror}. Name another one, or give "
            "yourself the right to write there, or make room."
        ) from error
