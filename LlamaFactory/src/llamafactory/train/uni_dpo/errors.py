"""Errors that speak for themselves on the command line."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


LONGEST_REASON = 300
FIND_ROWS = "Correct or remove it; `python scripts/uni_dpo/data.py check` finds every such row at once."


class UniDPOError(ValueError):
    """An option or a data set that cannot be used as it is; the message says what, where and how to mend it."""


class NonFiniteError(UniDPOError):
    """Training produced a NaN or an infinity and was stopped before anything of it was saved."""


class AlreadyTrained(Exception):
    """A run of which nothing is left to do."""


class CachesFilled(Exception):
    """A run that was only to fill its caches has done so."""


def plain_message(error: UniDPOError) -> str:
    """Take a message out of the traceback that torch makes of it if it comes from a data loader's worker."""
    text = str(error)
    _, found, words = text.rpartition(f"{type(error).__name__}: ")
    return words.strip() if found and text.startswith("Caught ") else text


def print_errors_plainly() -> None:
    """Let the command line show a `UniDPOError` as its message alone, without a traceback.

    Every other exception keeps the hook that was there; with LLAMAFACTORY_VERBOSITY=DEBUG all do, so that one sees
    where an error came from. Calling it twice changes nothing.
    """
    previous = sys.excepthook
    if getattr(previous, "for_uni_dpo", False):
        return

    def hook(kind, error, traceback):
        if issubclass(kind, UniDPOError) and os.environ.get("LLAMAFACTORY_VERBOSITY") != "DEBUG":
            print(f"\nError: {plain_message(error)}", file=sys.stderr, flush=True)
        else:
            previous(kind, error, traceback)

    hook.for_uni_dpo = True
    sys.excepthook = hook


@contextmanager
def in_context(place: str, advice: str = FIND_ROWS) -> Iterator[None]:
    """Raise whatever upstream raises over a row or a data set again, with the place of it.

    Args:
        place: the beginning of a sentence, such as 'Data set "pairs", row 3 (the first is 0)'.
        advice: a sentence that says how to mend it.

    Raises:
        UniDPOError: the block raised something else.
    """
    try:
        yield
    except (UniDPOError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise UniDPOError(f"{place} cannot be used ({reason_of(error)}). {advice}") from error


def reason_of(error: BaseException) -> str:
    """Return an error in one short line: its kind, and what it or its cause says."""
    said = " ".join(str(error.__cause__ or error).split())
    said = said if len(said) <= LONGEST_REASON else said[:LONGEST_REASON] + " ..."
    return f"{type(error.__cause__ or error).__name__}: {said}".removesuffix(": ")
