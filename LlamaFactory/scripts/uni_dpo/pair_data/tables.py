"""Text files as training reads them: their encoding, and CSV, whose cells are text, an empty one being nothing."""

import codecs
import csv
import io
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from .errors import DataError


UTF_8 = ("utf-8", "utf-8-sig")  # without and with a byte order mark
LONGEST_CELL = 1 << 28  # characters: room for a few images in base64
OTHER_SEPARATORS = ";\t|"


def encoding_of(file: IO[bytes]) -> str:
    """Return the encoding that a text file starts with, as Python names it, and go back to its start."""
    start = file.read(4)
    file.seek(0)
    return json.detect_encoding(start)


def as_utf8(path: Path, file: IO[bytes]) -> IO[bytes]:
    """Return a file of the same text in UTF-8: the file itself, or a temporary one.

    Raises:
        DataError: it is not throughout in the encoding that it starts with.
    """
    encoding = encoding_of(file)
    if encoding in UTF_8:
        return file
    scratch = tempfile.TemporaryFile()
    try:
        shutil.copyfileobj(codecs.getreader(encoding)(file), codecs.getwriter("utf-8")(scratch))
    except UnicodeError as error:
        raise DataError(f"{path} starts as {encoding.upper()} and is not that throughout ({error}).") from error
    scratch.seek(0)
    return scratch


def cells_of(lines: Iterable[str], delimiter: str = ",") -> Iterator[tuple[list[str], list[str]]]:
    """Yield the names of the columns with every row of a table.

    Names are those that pandas, and so training's loader, gives: one without a name gets one by its place.

    Args:
        lines: with their ends.
        delimiter: what stands between cells.

    Raises:
        ValueError: the header cannot be used, or quotes do not match.
    """
    csv.field_size_limit(LONGEST_CELL)
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    names: list[str] = []
    try:
        for cells in rows:
            if not cells or (len(cells) == 1 and not cells[0].strip()):
                continue  # a blank line
            if not names:
                names = [name or f"Unnamed: {place}" for place, name in enumerate(cells)]
                _require_names(names)
            else:
                yield names, cells
    except csv.Error as error:
        raise ValueError(f"line {rows.line_num}: {error}") from error


def read_table(lines: Iterable[str], delimiter: str, broken: Any) -> Iterator[Any]:
    """Yield the rows of a table as objects; an empty cell is None.

    Args:
        lines: with their ends.
        delimiter: what stands between cells.
        broken: makes what stands for a row that cannot be read, of the reason.
    """
    try:
        for names, cells in cells_of(lines, delimiter):
            if len(cells) == len(names):
                yield {name: cell or None for name, cell in zip(names, cells, strict=True)}
            else:
                yield broken(f"{len(cells)} cells, where the header has {len(names)}")
    except ValueError as error:  # also UnicodeDecodeError
        yield broken(f"not a table in UTF-8 ({error})")


def text_lines(file: IO[bytes], bar: Any) -> Iterator[str]:
    """Yield the lines of a file in UTF-8, telling a progress bar."""
    text = io.TextIOWrapper(file, "utf-8-sig", newline="")
    try:
        for line in text:
            bar.update(len(line))
            yield line
    finally:
        text.detach()


def _require_names(names: list[str]) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'the header has "{twice}" twice')
    if len(names) == 1 and any(mark in names[0] for mark in OTHER_SEPARATORS):
        raise ValueError("the header is one column; cells are separated by commas")
