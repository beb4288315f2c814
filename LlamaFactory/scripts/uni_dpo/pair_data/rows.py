"""Reading rows one by one from JSON, JSONL, CSV and Parquet, however large the file.

JSON arrays are cut into rows with the standard library's scanner, since streaming parsers refuse the NaN that Python
writes and training's loader takes.
"""

import codecs
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from .errors import DataError, place
from .tables import as_utf8, read_table, text_lines


SUFFIXES = (".json", ".jsonl", ".parquet")  # what is read and written
DELIMITERS = {".csv": ",", ".tsv": "\t"}
READ = (*SUFFIXES, ".csv")  # what training reads
CHUNK = 1 << 20  # bytes read at a time
LONGEST_ROW = 1 << 28  # characters: room for a few images in base64
BATCH = 500  # rows of a Parquet file in memory at a time,
BATCH_BYTES = 1 << 24  # or fewer, so that rows with images come to no more than about this

# A row that ends too early fails at its end, or in a string that is not closed.
_CUT_SHORT = "Unterminated string"


@dataclass(frozen=True)
class Broken:
    """What stands for a row that could not be read.

    Attributes:
        reason: What is wrong with it.
    """

    reason: str


def read_rows(path: Path, progress: str = "") -> Iterator[dict[str, Any]]:
    """Yield the rows of a file.

    Args:
        path: a `.json` array or `.jsonl` (either content under either name, as for training), `.csv` or `.parquet`.
        progress: what to write beside a progress bar; empty for none.

    Raises:
        DataError: the file or a row cannot be read, or a row is not an object.
    """
    for row, value in enumerate(read_values(path, progress)):
        if isinstance(value, Broken):
            raise DataError(f"{path}, {place(row)}: {value.reason}. Correct it, or download the file again.")
        if not isinstance(value, dict):
            raise DataError(f"{path}, {place(row)}: {_short(value)} is not an object with columns.")
        yield value


def read_values(path: Path, progress: str = "") -> Iterator[Any]:
    """Yield what stands at the place of every row, `Broken` for what cannot be read.

    After a broken line of JSONL reading goes on; an array or a Parquet file ends there. Text in UTF-16 is read too.

    Raises:
        DataError: there is no such file, or its name ends in none of `READ`.
    """
    path = Path(path)
    if path.suffix.lower() != ".tsv":  # which only `convert` lets come here
        require_file(path)
    if path.suffix.lower() == ".parquet":
        yield from _read_parquet(path, progress)
        return
    with ExitStack() as stack:
        file = stack.enter_context(as_utf8(path, stack.enter_context(_open(path))))
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        bar = stack.enter_context(tqdm(total=size, desc=progress, unit="B", unit_scale=True, disable=not progress))
        if path.suffix.lower() in DELIMITERS:
            yield from read_table(text_lines(file, bar), DELIMITERS[path.suffix.lower()], Broken)
        else:
            yield from _read_array(file, bar) if _is_list(file) else _read_lines(file, bar)


def is_list(path: Path) -> bool:
    """Return whether a JSON file is one list of rows, whatever its name says."""
    if path.suffix.lower() in (".parquet", *DELIMITERS):
        return False
    with _open(path) as file, as_utf8(path, file) as text:
        return _is_list(text)


def _is_list(file: IO[bytes]) -> bool:
    start = file.read(1 << 16).lstrip(b"\xef\xbb\xbf \t\r\n")
    file.seek(0)
    return start.startswith(b"[")


def require_file(path: Path) -> None:
    """Refuse a file that is not there or that training could not read by its name.

    Raises:
        DataError: it is so.
    """
    if path.suffix.lower() == ".tsv" and os.path.isfile(path):
        raise DataError(f"{path}: training reads no tables with tabs. data.py convert makes pairs of it.")
    if path.suffix.lower() not in READ:
        raise DataError(f"{path}: the name must end in {', '.join(READ)}, which says how it is read.")
    if not os.path.isfile(path):
        raise DataError(f"there is no file {path}")


def _open(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _read_lines(file: IO[bytes], bar: tqdm) -> Iterator[Any]:
    for number, line in enumerate(file):
        bar.update(len(line))
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
        if text.strip():
            yield _parse_line(text)


def _parse_line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except UnicodeDecodeError as error:
        return Broken(f"not UTF-8 ({error.reason} at byte {error.start})")
    except ValueError as error:
        return Broken(f"not valid JSON ({error})")
    except RecursionError:
        return Broken("nested too deeply")


def _read_array(file: IO[bytes], bar: tqdm) -> Iterator[Any]:
    """Cut an array into its elements, reading a chunk more whenever an element goes on after the text at hand."""
    text = _Text(file, bar)
    try:
        text.skip("[")
        if text.next_character() != "]":
            yield text.element()
            while text.next_character() == ",":
                text.skip(",")
                yield text.element()
        text.skip("]", "a comma or the closing ] of the list")
        if text.next_character():
            raise ValueError("the list is closed with ] before it")
    except (ValueError, RecursionError) as error:
        yield Broken(f"not valid JSON in UTF-8 ({error})")


class _Text:
    """The part of a file that is being read, as text."""

    def __init__(self, file: IO[bytes], bar: tqdm):
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.file, self.bar, self.text, self.at, self.ended = file, bar, "", 0, False
        self.damage = ""

    def more(self, size: int = 0) -> None:
        """Append what comes next in the file, `CHUNK` bytes or more; forget what has been read.

        Raises:
            ValueError: it is not UTF-8; only now, so that what comes before it was read as rows.
        """
        if self.damage:
            raise ValueError(self.damage)
        data = self.file.read(max(CHUNK, size))
        self.bar.update(len(data))
        self.ended = not data
        try:
            text = self.decoder.decode(data, final=self.ended)
        except UnicodeDecodeError as error:
            text, self.damage = error.object[: error.start].decode(), f"not UTF-8: {error.reason}"
        self.text, self.at = self.text[self.at :] + text, 0

    def next_character(self) -> str:
        """Go to the next character that is not white space and return it without taking it, "" at the end."""
        while True:
            while self.at < len(self.text):
                if self.text[self.at] not in " \t\r\n":
                    return self.text[self.at]
                self.at += 1
            if self.ended:
                return ""
            self.more()

    def skip(self, character: str, name: str = "") -> None:
        """Take a character that must come next.

        Raises:
            ValueError: another one does; `name` is what the message calls the missing one.
        """
        if self.next_character() != character:
            before = "before it" if self.next_character() else "where the file ends"
            raise ValueError(f"{name or character} is missing {before}")
        self.at += 1

    def element(self) -> Any:
        """Take one element of the list.

        Raises:
            ValueError: it is not valid, or longer than `LONGEST_ROW`.
        """
        self.next_character()
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self.text, self.at)
                if end + 2 < len(self.text) or self.ended:  # otherwise a number may go on, with e-5
                    self.at = end
                    return value
            except json.JSONDecodeError as error:
                cut = error.pos >= len(self.text) - 16 or error.msg.startswith(_CUT_SHORT)
                if self.ended or not cut or len(self.text) - self.at > LONGEST_ROW:
                    raise ValueError(error.msg) from error
            self.more(len(self.text) - self.at)  # doubling keeps long rows linear


def _read_parquet(path: Path, progress: str) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        # With a buffer, columns are read as they are needed instead of a row group at once.
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=CHUNK) as file:
            with tqdm(total=file.metadata.num_rows, desc=progress, unit="row", disable=not progress) as bar:
                for number in range(file.num_row_groups):
                    group = file.metadata.row_group(number)
                    count = min(BATCH, max(1, BATCH_BYTES * group.num_rows // max(1, group.total_byte_size)))
                    for batch in file.iter_batches(count, row_groups=[number], use_threads=False):
                        yield from batch.to_pylist()
                        bar.update(batch.num_rows)
    except (pyarrow.ArrowException, OSError) as error:
        yield Broken(f"not valid Parquet ({error})")


def _short(value: Any, length: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= length else text[:length] + "..."
