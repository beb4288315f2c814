"""Text files as training reads them: their encoding, and CSV, whose cells are text, an empty one being nothing."""

import codecs
import csv
import io
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .errors import DataError


UTF_8 = ("utf-8", "utf-8-sig")  # without and with a byte order mark
LONGEST = 1 << 28  # characters of a row or a cell: room for a few images in base64
OTHER_SEPARATORS = ";\t|"


@dataclass(frozen=True)
class Broken:
    """What stands for a row that could not be read; `reason` says what is wrong with it."""

    reason: str


def encoding_of(file: IO[bytes]) -> str:
    """Return the encoding that a text file starts with, as Python names it, and go back to its start."""
    start = file.read(4)
    file.seek(0)
    return json.detect_encoding(start)


def as_utf8(path: Path, file: IO[bytes]) -> IO[bytes]:
    """Return a file of the same text in UTF-8: the file itself, or a temporary one."""
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


def read_table(file: IO[bytes], delimiter: str, bar: Any) -> Iterator[Any]:
    """Yield the rows of a table in UTF-8 as objects, `Broken` for one that cannot be read; an empty cell is None."""
    csv.field_size_limit(LONGEST)
    names: list[str] = []
    text = io.TextIOWrapper(file, "utf-8-sig", newline="")
    rows = csv.reader(_counted(text, bar), delimiter=delimiter, strict=True)
    try:
        for cells in rows:
            if not cells or (len(cells) == 1 and not cells[0].strip()):
                continue  # a blank line
            if not names:
                names = _names(cells)
            elif len(cells) == len(names):
                yield {name: cell or None for name, cell in zip(names, cells, strict=True)}
            else:
                yield Broken(f"{len(cells)} cells, where the header has {len(names)}")
    except csv.Error as error:
        yield Broken(f"not a table in UTF-8 (line {rows.line_num}: {error})")
    except ValueError as error:  # also UnicodeDecodeError
        yield Broken(f"not a table in UTF-8 ({error})")
    finally:
        text.detach()


def _counted(text: Iterable[str], bar: Any) -> Iterator[str]:
    for line in text:
        bar.update(len(line))
        yield line


def _names(cells: list[str]) -> list[str]:
    """Return the names of the columns that pandas, and so training's loader, makes of a header."""
    names = [name or f"Unnamed: {place}" for place, name in enumerate(cells)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'the header has "{twice}" twice')
    if len(names) == 1 and any(mark in names[0] for mark in OTHER_SEPARATORS):
        raise ValueError("the header is one column; cells are separated by commas")
    return names
