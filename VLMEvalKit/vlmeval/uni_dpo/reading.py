"""Benchmarks read as they are written, by VLMEvalKit, but neither as pandas guesses nor as Python code.

pandas takes "None", "NA", "null", "nan" and such for empty cells, and a column of digits for numbers: an option or an
answer "None" would vanish from the prompt and from scoring (33 rows of SEEDBench_IMG), "007" would become 7, and an
empty cell among whole numbers would turn them into "3.0". VLMEvalKit reads benchmarks, predictions and its own results
with pandas' defaults; `as_written` changes these while it works for us. An empty cell is still one. It also keeps "=5"
from being written as a formula, which reads as nothing.

VLMEvalKit also runs a cell as Python where it expects a list or a number, and lets Pillow open pictures of two billion
pixels; `guarded` keeps it from both, for benchmarks from strangers. None of the sets that VLMEvalKit offers needs it.
"""

import ast
import importlib
import string
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pandas as pd
from PIL import Image

from .. import dataset as datasets


TEXTS = ("question", "hint", "prediction", *string.ascii_uppercase)
# These kinds compare answers as text. Others may calculate with them.
COMPARE_TEXT = ("ImageMCQDataset", "ImageYORNDataset", "ImageVQADataset", "OCRBench")
PLAIN_CELLS = {"options": {"strings_to_formulas": False, "strings_to_urls": False}}
LARGEST_PICTURE = 1 << 27  # pixels; Pillow warns of more, and refuses twice as many
RUN_CELLS = ("smp.misc", "smp.vlm", "dataset.utils.vqa_eval", "dataset.utils.ocrbench")


def is_offered(name: str) -> bool:
    """Tell whether VLMEvalKit has a data set of that name."""
    return name in datasets.SUPPORTED_DATASETS


def texts_of(kind: str | None) -> tuple[str, ...]:
    """Return the columns that are text whatever is in them, for a class of data sets."""
    return (*TEXTS, "answer") if kind in COMPARE_TEXT else TEXTS


@contextmanager
def as_written(kind: str | None = None) -> Iterator[list[pd.DataFrame]]:
    """Have pandas read cells as they are written, whoever calls it, until the block is left.

    Yields:
        The last table that was read, once there is one.
    """
    last: list[pd.DataFrame] = []
    before = {name: getattr(pd, name) for name in ("read_csv", "read_excel")}
    defaults = {"keep_default_na": False, "na_values": [""], "dtype": dict.fromkeys(texts_of(kind), str)}

    def reader(read: Any) -> Any:
        @wraps(read)
        def reading(*arguments: Any, **options: Any) -> Any:
            table = read(*arguments, **defaults | options)
            if isinstance(table, pd.DataFrame):
                if "prediction" in table and "dtype" not in options:
                    table["prediction"] = table["prediction"].fillna("")  # not "nan", which might be an option
                last[:] = [table]
            return table

        return reading

    write = pd.DataFrame.to_excel

    @wraps(write)
    def to_excel(table: pd.DataFrame, *arguments: Any, **options: Any) -> None:
        more = {"engine_kwargs": PLAIN_CELLS} if options.get("engine") == "xlsxwriter" else {}
        write(table, *arguments, **more | options)

    try:
        for name, read in before.items():
            setattr(pd, name, reader(read))
        pd.DataFrame.to_excel = to_excel
        yield last
    finally:
        for name, read in before.items():
            setattr(pd, name, read)
        pd.DataFrame.to_excel = write


def restore(dataset: Any) -> pd.DataFrame | None:
    """Put texts as they are written into the table of a data set that was read with pandas' defaults.

    Returns:
        The table as it is in the file; None if there was no need to read it again.
    """
    table, kind = dataset.data, type(dataset).__name__
    names = [name for name in texts_of(kind) if name in table]
    whole = all(isinstance(cell, str) for name in names for cell in table[name])
    if is_offered(dataset.dataset_name) and (whole or kind not in COMPARE_TEXT):
        return None
    with as_written(kind):
        written = dataset.load_data(dataset.dataset_name)
    rows = dict(zip(written["index"].astype(str), range(len(written)), strict=True))
    places = [rows.get(str(index)) for index in table["index"]]
    for name in names:
        if name in written and None not in places:  # some classes make rows of their own
            table[name] = written[name].iloc[places].to_numpy()
    return written


@contextmanager
def guarded() -> Iterator[None]:
    """Have cells read and not run, and the size of pictures bounded, until the block is left."""
    modules = [importlib.import_module(f"vlmeval.{name}") for name in RUN_CELLS]
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
