"""Reading rows one by one from JSON, JSONL, CSV and Parquet, however large the file.

JSON arrays are cut into rows with the standard library's scanner, since streaming parsers refuse the NaN that Python
writes and training's loader takes.
"""

import codecs
import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from .errors import DataError, excerpt, place
from .tables import LONGEST, Broken, as_utf8, read_table


SUFFIXES = (".json", ".jsonl", ".parquet")  # what is read and written
DELIMITERS = {".csv": ",", ".tsv": "\t"}
READ = (*SUFFIXES, ".csv")  # what training reads
FIRST_TABLE = 1000  # rows that `datasets` writes at a time: the first of them settle the types
CHUNK = 1 << 20  # bytes read at a time
BATCH = 500  # rows of a Parquet file in memory at a time,
BATCH_BYTES = 1 << 24  # or fewer, so that rows with images come to no more than about this


def read_rows(path: Path, progress: str = "") -> Iterator[dict[str, Any]]:
    """Yield the rows of a file.

    Args:
        path: a `.json` array or `.jsonl` (either content under either name, as for training), `.csv` or `.parquet`.
        progress: what to write beside a progress bar; empty for none.
    """
    for row, value in enumerate(read_values(path, progress)):
        if isinstance(value, Broken):
            raise DataError(f"{path}, {place(row)}: {value.reason}. Correct it, or download the file again.")
        if not isinstance(value, dict):
            raise DataError(f"{path}, {place(row)}: {excerpt(value)} is not an object with columns.")
        yield value


def read_values(path: Path, progress: str = "") -> Iterator[Any]:
    """Yield what stands at the place of every row, `Broken` for what cannot be read.

    After a broken line of JSONL reading goes on; an array or a Parquet file ends there. Text in UTF-16 is read too.
    """
    from tqdm import tqdm

    path = Path(path)
    kind = path.suffix.lower()
    if kind != ".tsv":  # which only `convert` lets come here
        require_file(path)
    if kind == ".parquet":
        yield from _read_parquet(path, progress)
        return
    with ExitStack() as stack:
        file = stack.enter_context(as_utf8(path, stack.enter_context(_open(path))))
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        bar = stack.enter_context(tqdm(total=size, desc=progress, unit="B", unit_scale=True, disable=not progress))
        if kind in DELIMITERS:
            yield from read_table(file, DELIMITERS[kind], bar)
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
    line, _, rest = start.partition(b"\n")
    if not start.startswith(b"[") or not rest.lstrip().startswith((b"{", b"[")):
        return start.startswith(b"[")
    try:
        json.loads(line)  # a list by itself, and something after it: a line like others, if not a good one
    except (ValueError, RecursionError):
        return True
    return False


def require_file(path: Path) -> None:
    """Refuse a file that is not there or that training could not read by its name."""
    there = os.path.isfile(path)
    if path.suffix.lower() == ".tsv" and there:
        raise DataError(f"{path}: training reads no tables with tabs. data.py convert makes pairs of it.")
    if path.suffix.lower() not in READ:
        raise DataError(f"{path}: the name must end in {', '.join(READ)}, which says how it is read.")
    if not there:
        raise DataError(f"there is no file {path}")


def _open(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _read_lines(file: IO[bytes], bar: Any) -> Iterator[Any]:
    for number, line in enumerate(file):
        bar.update(len(line))
        text = line.removeprefix(codecs.BOM_UTF8) if number == 0 else line
        if not text.strip():
            continue
        try:
            yield json.loads(text)
        except UnicodeDecodeError as error:
            yield Broken(f"not UTF-8 ({error.reason} at byte {error.start})")
        except (ValueError, RecursionError) as error:
            yield Broken(f"not valid JSON ({error})")


def _read_array(file: IO[bytes], bar: Any) -> Iterator[Any]:
    """Cut an array into its elements, reading a chunk more whenever an element goes on after the text at hand."""
    text = _Text(file, bar)
    try:
        text.take("[")
        if text.peek() != "]":
            yield text.element()
            while text.peek() == ",":
                text.take(",")
                yield text.element()
        text.take("]", "a comma or the closing ] of the list")
        if text.peek():
            raise ValueError("the list is closed with ] before it")
    except (ValueError, RecursionError) as error:
        yield Broken(f"not valid JSON in UTF-8 ({error})")


class _Text:
    """The part of a file that is being read, as text."""

    white_space = re.compile(r"[ \t\r\n]*")

    def __init__(self, file: IO[bytes], bar: Any):
        self.bytes, self.json = codecs.getincrementaldecoder("utf-8-sig")(), json.JSONDecoder()
        self.file, self.bar, self.text, self.at, self.ended, self.damage = file, bar, "", 0, False, ""

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
            text = self.bytes.decode(data, final=self.ended)
        except UnicodeDecodeError as error:
            text, self.damage = error.object[: error.start].decode(), f"not UTF-8: {error.reason}"
        self.text, self.at = self.text[self.at :] + text, 0

    def peek(self) -> str:
        """Go to the next character that is not white space and return it without taking it, "" at the end."""
        while True:
            self.at = self.white_space.match(self.text, self.at).end()
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.more()

    def take(self, character: str, name: str = "") -> None:
        """Take a character that must come next; `name` is what the message calls it if it does not."""
        if self.peek() != character:
            before = "before it" if self.peek() else "where the file ends"
            raise ValueError(f"{name or character} is missing {before}")
        self.at += 1

    def element(self) -> Any:
        """Take one element of the list, or raise ValueError if it is not valid or too long."""
        self.peek()
        while True:
            try:
                value, end = self.json.raw_decode(self.text, self.at)
                if end + 2 < len(self.text) or self.ended:  # otherwise a number may go on, with e-5
                    self.at = end
                    return value
            except json.JSONDecodeError as error:
                # What ends too early fails at its end, or in a string that is not closed.
                cut = error.pos >= len(self.text) - 16 or error.msg.startswith("Unterminated string")
                if self.ended or not cut or len(self.text) - self.at > LONGEST:
                    raise ValueError(error.msg) from error
            self.more(len(self.text) - self.at)  # doubling keeps long rows linear


def _read_parquet(path: Path, progress: str) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet
    from tqdm import tqdm

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
