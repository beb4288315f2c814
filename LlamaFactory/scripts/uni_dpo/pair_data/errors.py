"""The error of the data tools and of the launcher."""


class DataError(Exception):
    """Something that the user can mend; the message says what, where and how. Shown without a traceback."""


def place(row: int) -> str:
    """Name a row the way training does: counted from 0."""
    return f"row {row} (the first is 0)"
