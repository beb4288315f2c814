"""The command `score`."""

from ..errors import DataError


NAME = "score"


def run() -> None:
    """To be written."""
    raise DataError("not written yet")
