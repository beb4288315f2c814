"""The command `convert`."""

from ..errors import DataError


NAME = "convert"


def run() -> None:
    """To be written."""
    raise DataError("not written yet")
