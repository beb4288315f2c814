"""Errors that a user can act on: one class, raised by the runner and by the model."""

from collections.abc import Iterator
from contextlib import contextmanager


LONGEST_REASON = 300  # characters


class UniDPOError(ValueError):
    """Something that the user has to decide or correct; the message says what, where and how."""


@contextmanager
def in_context(place: str, advice: str = "is every file as it was saved?") -> Iterator[None]:
    """Turn whatever a library raises in the block into one message; `--verbose` shows the traceback of the cause.

    Args:
        place: The beginning of a sentence, such as "data set POPE cannot be read".
        advice: How to correct it.

    Raises:
        UniDPOError: The block raised something else. Want of memory is raised as it is.
    """
    try:
        yield
    except (UniDPOError, MemoryError):
        raise
    except Exception as error:
        from torch import OutOfMemoryError  # not at the top: `--help` needs no torch

        if isinstance(error, OutOfMemoryError):
            raise
        raise UniDPOError(f"{place}: {reason_of(error)}\n  {advice}") from error


def reason_of(error: BaseException) -> str:
    """Return a message of ours as it is, and any other error in one short line with its kind."""
    if isinstance(error, UniDPOError):
        return str(error)
    said = " ".join(str(error).split())
    said = said if len(said) <= LONGEST_REASON else said[:LONGEST_REASON] + " ..."
    return f"{type(error).__name__}: {said}".removesuffix(": ")
