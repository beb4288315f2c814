"""The command `paths`."""

from ..errors import DataError


NAME = "paths"


def run() -> None:
    """To be written."""
    raise DataError("not written yet")
