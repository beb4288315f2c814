"""The command `download`."""

from ..errors import DataError


NAME = "download"


def run() -> None:
    """To be written."""
    raise DataError("not written yet")
