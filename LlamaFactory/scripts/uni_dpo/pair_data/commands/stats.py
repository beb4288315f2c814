"""The command `stats`."""

from ..errors import DataError


NAME = "stats"


def run() -> None:
    """To be written."""
    raise DataError("not written yet")
