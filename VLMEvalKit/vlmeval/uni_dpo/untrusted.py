"""Benchmarks from strangers: their cells are read and not run, their pictures are bounded, their files stay in place.

VLMEvalKit runs a cell of a TSV as Python where it expects a list or a number, lets Pillow open pictures of two billion
pixels, and writes a row's picture to wherever its `index` or `image_path` points. A benchmark that somebody passed on
could so do anything. None of the sets that VLMEvalKit offers needs it.
"""

import ast
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

from . import RunError


LARGEST_PICTURE = 1 << 27  # pixels; Pillow warns of more, and refuses twice as many
READ_CELLS = ("smp.misc", "smp.vlm", "dataset.utils.vqa_eval", "dataset.utils.ocrbench")


@contextmanager
def guarded() -> Iterator[None]:
    """Guard against what a benchmark's TSV may hold; everything is as before afterwards."""
    modules = [importlib.import_module(f"vlmeval.{name}") for name in READ_CELLS]
    before = Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = min(before or LARGEST_PICTURE, LARGEST_PICTURE)
        for module in modules:
            module.eval = literal  # a module's own name comes before the built-in one
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
        for module in modules:
            vars(module).pop("eval", None)


def literal(text: Any, *scopes: Any) -> Any:
    """Read a cell that holds a list, a text or a number as Python writes it; stands in for `eval`.

    Raises:
        ValueError: It holds anything else.
    """
    try:
        return ast.literal_eval(text)
    except (SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"{str(text)[:100]!r} is no list, text or number") from error


def require_own_files(row: Any) -> None:
    """Refuse a row whose picture would be written elsewhere than into the folder of its data set.

    Args:
        row: One of a data set's table.

    Raises:
        RunError: Its `index`, or the `image_path` of a picture that the row itself holds, leads out of the folder.
    """
    if "image" not in row:
        return  # pictures are read from where they are, and nothing is written
    paths = row["image_path"] if "image_path" in row else []
    for path in (str(row["index"]), *([paths] if isinstance(paths, str) else paths)):
        parts = str(path).replace(os.sep, "/").split("/")
        if os.path.isabs(str(path)) or ".." in parts or "\0" in str(path):
            raise RunError(f"its picture would go to {str(path)[:100]!r}, out of the folder of its data set")
