"""The error that speaks for itself on the command line."""


class DataError(Exception):
    """Input that cannot be used as it is; the message says what, where, and how to mend it."""


def place(row: int) -> str:
    """Name a row the way training does: counted from 0."""
    return f"row {row} (the first is 0)"
