"""The command `register`."""

from ..errors import DataError


NAME = "register"


def run() -> None:
    """To be written."""
    raise DataError("not written yet")
