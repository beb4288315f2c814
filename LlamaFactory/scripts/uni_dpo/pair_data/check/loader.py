"""What `datasets` makes of the files: where its loader, the one that training uses, would stop.

A list of rows becomes a table in one go, with one type a column. Lines (JSONL) become tables of 10 MB, each with types
of its own, and all of them must fit the types of the first. Here Arrow reads the lines as the loader does, so only its
verdict counts; `Shape` knows which rows are to blame. Source: `datasets.packaged_modules.json` and `ArrowWriter` of
datasets 4.0.
"""

import io
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..rows import DELIMITERS, is_list
from ..tables import UTF_8, encoding_of
from .findings import WHOLE, Findings
from .shapes import BOOLEAN, BYTES, LIST, NUMBER, OBJECT, TEXT, Shape, unloadable


CHUNK = 10 << 20  # bytes that become one table: datasets' JsonConfig.chunksize
TEXTS = ("prompt", "query", "system", "chosen", "rejected")  # what an alpaca row has as text


@dataclass
class _Part:
    """A run of lines that becomes one table."""

    start: int
    lines: list[bytes]


class LoaderCheck:
    """Follows the loader through the files of one data set."""

    def __init__(self, found: Findings, source: int):
        """Report into `found`, about the data set with that number."""
        self.found, self.source = found, source
        self.reference: Any = None  # the schema of the first table, which settles all types

    def check_file(self, path: Path, shape: Shape, start: int) -> None:
        """Look at one file after its rows have been read.

        Args:
            path: the file.
            shape: the types in it.
            start: the number of its first row.
        """
        import pyarrow.parquet

        if path.suffix.lower() == ".parquet":
            if not self.found.with_errors[self.source]:
                self._must_fit(pyarrow.parquet.read_schema(path).empty_table(), shape, start)
            return
        mixed = self._report_mixed(shape)
        with path.open("rb") as file:
            encoding = encoding_of(file)
        if encoding not in UTF_8:
            self.found.add("file-encoding", self.source, WHOLE, None, f"{path} is in {encoding.upper()}")
        if path.suffix.lower() in DELIMITERS:
            self._must_have_columns(path, shape)
        elif is_list(path):
            if encoding == "utf-8-sig":
                self.found.add("file-bom", self.source, WHOLE, None, f"{path} starts with a byte order mark")
            if not mixed:
                self._must_fit(_schema(shape).empty_table(), shape, start)
        elif encoding in UTF_8:
            self._check_parts(path, shape, start, mixed)

    def _check_parts(self, path: Path, shape: Shape, start: int, mixed: bool) -> None:
        for part in _parts(path, start):
            self._check_part(part, shape, mixed)

    def _must_have_columns(self, path: Path, shape: Shape) -> None:
        """Compare the columns of a CSV file, which are all text, with those of the first."""
        if self.reference is None:
            self.reference = list(shape.fields)
        elif list(shape.fields) != self.reference:
            message = f"the columns of {path} are not those of the first file, in their order"
            self.found.add("loader-refuses", self.source, WHOLE, None, message)

    def _report_mixed(self, shape: Shape) -> bool:
        columns = Shape(fields=shape.fields).conflicts()
        for name, rows in columns:
            (usual, most), *others = rows.items()
            for other, odd in others:
                for row in odd:
                    message = f"{other}, where {len(most):,} rows have {usual}"
                    self.found.add("column-mixed", self.source, row, name, message)
        return bool(columns)

    def _check_part(self, part: _Part, shape: Shape, mixed: bool) -> None:
        import pyarrow

        rows = {row: line for row, line in enumerate(part.lines, part.start) if not self._is_reported(row)}
        if not rows:
            return
        try:
            table = _table(list(rows.values()))
        except pyarrow.ArrowException:
            table = self._without_bad_lines(rows, mixed)
        if table is not None and not mixed:
            self._must_fit(table, shape, part.start)

    def _is_reported(self, row: int) -> bool:
        """Whether a line is known to be no row; Arrow does not survive a table that starts with `null`."""
        return self.found.dropped[self.source].get(row) in ("row-unreadable", "row-not-object")

    def _without_bad_lines(self, rows: dict[int, bytes], mixed: bool) -> Any:
        import pyarrow

        good, known = [], self.found.with_errors[self.source]
        for row, line in rows.items():
            try:
                _table([line])
            except pyarrow.ArrowException as error:
                if row not in known:
                    self.found.add("loader-refuses", self.source, row, None, _first_line(error))
            else:
                good.append(line)
        try:
            return _table(good) if good else None
        except pyarrow.ArrowException as error:
            if not mixed:
                message = f"rows {min(rows)} to {max(rows)}: {_first_line(error)}"
                self.found.add("loader-refuses", self.source, WHOLE, None, message)
            return None

    def _must_fit(self, table: Any, shape: Shape, start: int) -> None:
        if self.reference is None:
            self.reference = table.schema
            self._require_text(table.schema)
            return
        import pyarrow
        from datasets import Features
        from datasets.table import table_cast

        reference = Features.from_arrow_schema(self.reference).arrow_schema
        for name in table.column_names:
            at = _first_from(shape.fields.get(name), start)
            if name not in reference.names:
                self.found.add("column-late", self.source, at, name, "the column is not in what comes before")
                continue
            field = reference.field(name)
            try:
                table_cast(table.select([name]).combine_chunks(), pyarrow.schema([field]))
            except Exception as error:  # the loader fails with it, whatever it is
                message = f"{field.type} up to here, and then: {_first_line(error)}"
                self.found.add("column-late", self.source, at, name, message)

    def _require_text(self, schema: Any) -> None:
        import pyarrow.types as types

        source = self.found.sources[self.source]
        if source.formatting != "alpaca":
            return
        for use in TEXTS:
            name = source.columns.get(use)
            if name in schema.names and types.is_timestamp(schema.field(name).type):
                message = "every text looks like a date, and the loader makes dates of them; write .json or .parquet"
                self.found.add("column-late", self.source, WHOLE, name, message)


def _parts(path: Path, start: int) -> Iterator[_Part]:
    """Cut a file into the runs of lines that the loader reads together; rows are lines that are not blank."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            chunk += file.readline()
            lines = [line for line in chunk.split(b"\n") if line.strip()]
            yield _Part(start, lines)
            start += len(lines)


def _table(lines: list[bytes]) -> Any:
    """Let Arrow read lines as the loader does, in blocks that grow until a row fits in.

    Raises:
        pyarrow.ArrowException: it refuses them.
    """
    import pyarrow
    import pyarrow.json

    data, block = b"\n".join(lines), CHUNK // 32
    while True:
        try:
            return pyarrow.json.read_json(io.BytesIO(data), pyarrow.json.ReadOptions(block_size=block))
        except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
            if block > len(data) or (isinstance(error, pyarrow.ArrowInvalid) and "straddling" not in str(error)):
                raise
            block *= 2


def _schema(shape: Shape) -> Any:
    import pyarrow

    return pyarrow.schema(_arrow_fields(shape))


def _arrow_fields(shape: Shape) -> list[tuple[str, Any]]:
    """Return the fields, but for names that are not Unicode; rows with these are reported."""
    return [(name, _arrow_type(part)) for name, part in shape.fields.items() if not unloadable(name, True)]


def _arrow_type(shape: Shape | None) -> Any:
    import pyarrow

    name = next(iter(shape.rows), None) if shape else None
    if name == LIST:
        return pyarrow.list_(_arrow_type(shape.elements))
    if name == OBJECT:
        return pyarrow.struct(_arrow_fields(shape))
    types = {TEXT: pyarrow.string(), NUMBER: pyarrow.float64(), BOOLEAN: pyarrow.bool_(), BYTES: pyarrow.binary()}
    return types.get(name, pyarrow.null())


def _first_from(shape: Shape | None, start: int) -> int:
    """Return the first row, from `start` on, that has something there."""
    seen = shape.rows.values() if shape else ()
    return min((rows[at] for rows in seen if (at := bisect_left(rows, start)) < len(rows)), default=start)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
