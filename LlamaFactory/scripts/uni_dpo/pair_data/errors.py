"""The error of the data tools and of the launcher, and words for its messages."""

from typing import Any


class DataError(Exception):
    """Something that the user can mend; the message says what, where and how. Shown without a traceback."""


def place(row: int) -> str:
    """Name a row the way training does: counted from 0."""
    return f"row {row} (the first is 0)"


def excerpt(value: Any, length: int = 60) -> str:
    """Return the beginning of a value, for a message."""
    text = repr(value)
    return text if len(text) <= length else text[:length] + "..."
