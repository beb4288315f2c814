"""Errors that speak for themselves on the command line."""

import os
import sys


class UniDPOError(ValueError):
    """An option or a data set that cannot be used as it is; the message says what, where and how to mend it."""


class NonFiniteError(UniDPOError):
    """Training produced a NaN or an infinity and was stopped before anything of it was saved."""


class AlreadyTrained(Exception):
    """A run of which nothing is left to do."""


class CachesFilled(Exception):
    """A run that was only to fill its caches has done so."""


def own_words(error: UniDPOError) -> str:
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
            print(f"\nError: {own_words(error)}", file=sys.stderr, flush=True)
        else:
            previous(kind, error, traceback)

    hook.for_uni_dpo = True
    sys.excepthook = hook
