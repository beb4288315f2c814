"""The command `check`."""

from ..errors import DataError


NAME = "check"


def run() -> None:
    """To be written."""
    raise DataError("not written yet")
