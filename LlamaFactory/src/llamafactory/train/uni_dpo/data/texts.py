"""Text files on their way into `datasets`: what its readers would stumble over or change is refused or read right.

Its CSV reader makes numbers, dates and nothing of texts that look like them: an answer "None" or "NA" would be none at
all, "007" would be 7, and a row with one cell too many would move all others. Here every cell is text.
"""

import csv
import functools
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from datasets import Features, Value

from ..errors import UniDPOError


TEXT_FILES = (".json", ".jsonl", ".csv")
BOM = b"\xef\xbb\xbf"
LONGEST_CELL = 1 << 28  # characters
WRITE_ANEW = "`python scripts/uni_dpo/data.py check {file} --fix OUT.json` writes it anew."


def reading_texts(load_dataset: Callable) -> Callable:
    """Let `datasets.load_dataset` look at text files first, and take every cell of CSV for text."""

    @functools.wraps(load_dataset)
    def loaded(path: str, *args: Any, data_files: Any = None, **kwargs: Any) -> Any:
        given = [file for file in data_files if os.path.isfile(file)] if isinstance(data_files, list) else []
        for file in given:
            if not os.path.getsize(file):
                raise UniDPOError(f"{file} is empty (0 bytes). Download it again, or make it anew.")
        files = [file for file in given if str(file).endswith(TEXT_FILES)]
        for file in files:
            check_encoding(str(file))
        if path == "csv" and files:
            columns = [check_table(str(file)) for file in files]
            for file, found in zip(files, columns, strict=True):
                if found != columns[0]:
                    raise UniDPOError(f"{file} has the columns {found}, and {files[0]} has {columns[0]}.")
            cells = Features(dict.fromkeys(columns[0], Value("string")))
            kwargs |= {"features": cells, "keep_default_na": False, "na_values": [""], "encoding": "utf-8"}
        return load_dataset(path, *args, data_files=data_files, **kwargs)

    return loaded


def check_encoding(file: str) -> None:
    """Refuse a text file in another encoding than the readers expect.

    Raises:
        UniDPOError: it is in UTF-16 or UTF-32, or a JSON array after a byte order mark.
    """
    with open(file, "rb") as stream:
        start = stream.read(1 << 16)
    encoding = json.detect_encoding(start[:4])
    if not encoding.startswith("utf-8"):
        raise UniDPOError(f"{file} is in {encoding.upper()}, and only UTF-8 is read. {WRITE_ANEW.format(file=file)}")
    if not file.endswith(".csv") and start.startswith(BOM) and start[len(BOM) :].lstrip().startswith(b"["):
        raise UniDPOError(
            f"{file} starts with a byte order mark (it is in UTF-8-SIG), and no list is read after one. "
            + WRITE_ANEW.format(file=file)
        )


def check_table(file: str) -> list[str]:
    """Return the names of the columns of a CSV file, after a look at all of its rows.

    Raises:
        UniDPOError: a row has more or less cells than the header, quotes do not match, or it is not UTF-8.
    """
    names: list[str] = []
    row = -1
    try:
        for cells in _rows(file):
            if not names:
                names = [name or f"Unnamed: {place}" for place, name in enumerate(cells)]  # as pandas calls them
            elif len(cells) != len(names):
                raise ValueError(f"{len(cells)} cells, where the header has {len(names)}")
            row += 1
    except (csv.Error, ValueError) as error:
        where = f"row {row} (the first is 0)" if names else "the header"
        raise UniDPOError(
            f"{file}, {where}: {error}. `python scripts/uni_dpo/data.py check` finds every such row at once."
        ) from error
    if len(set(names)) < len(names):
        raise UniDPOError(f"{file}: the header has a name twice: {', '.join(names)}.")
    return names


def _rows(file: str) -> Iterator[list[str]]:
    csv.field_size_limit(LONGEST_CELL)
    with open(file, encoding="utf-8-sig", newline="") as stream:
        for cells in csv.reader(stream, strict=True):
            if cells and (len(cells) > 1 or cells[0].strip()):  # not a blank line
                yield cells
