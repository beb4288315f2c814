"""What `datasets` makes of the files: where its loader, the one that training uses, would stop.

A list of rows becomes a table in one go, with one type a column. Lines (JSONL) become tables of 10 MB, each with types
of its own, and all of them must fit the types of the first. Here Arrow reads the lines as the loader does, so only its
verdict counts; `Types` knows which rows are to blame. Source: `datasets.packaged_modules.json` and `ArrowWriter` of
datasets 4.0.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..rows import DELIMITERS, is_list
from ..tables import UTF_8, encoding_of
from .findings import Findings
from .value_types import Types, named


CHUNK = 10 << 20  # bytes that become one table: datasets' JsonConfig.chunksize
TEXTS = ("prompt", "query", "system", "chosen", "rejected")  # what an alpaca row has as text


class LoaderCheck:
    """Follows the loader through the files of one data set."""

    def __init__(self, found: Findings, source: int):
        """Report into `found`, about the data set with that number."""
        self.found, self.source = found, source
        self.reference: Any = None  # the schema of the first table, which settles all types; of CSV its columns

    def check_file(self, path: Path, types: Types, start: int) -> None:
        """Look at one file after its rows have been read: the types in it, and the number of its first row."""
        import pyarrow
        import pyarrow.parquet

        if path.suffix.lower() == ".parquet":
            if not self.found.rows(self.source, {"row-unreadable"}):
                self._must_fit(pyarrow.parquet.read_schema(path).empty_table(), types, start)
            return
        mixed = self._report_mixed(types)
        with path.open("rb") as file:
            encoding = encoding_of(file)
        if encoding not in UTF_8:
            self._add("file-encoding", None, None, f"{path} is in {encoding.upper()}")
        if path.suffix.lower() in DELIMITERS:
            if self.reference not in (None, types.columns):
                message = f"the columns of {path} are not those of the first file, in their order"
                self._add("loader-refuses", None, None, message)
            self.reference = self.reference or types.columns
        elif is_list(path):
            if encoding == "utf-8-sig":
                self._add("file-bom", None, None, f"{path} starts with a byte order mark")
            if not mixed:
                self._must_fit(pyarrow.schema(types.arrow_type()).empty_table(), types, start)
        elif encoding in UTF_8:
            self._check_lines(path, types, start, mixed)

    def _add(self, kind: str, row: int | None, column: str | None, message: str) -> None:
        self.found.add(kind, self.source, row, column, message)

    def _report_mixed(self, types: Types) -> bool:
        mixed = types.mixed()
        for place, rows in mixed.items():
            (usual, most), *others = rows.items()
            for other, odd in others:
                for row in odd:
                    self._add("column-mixed", row, named(place), f"{other}, where {len(most):,} rows have {usual}")
        return bool(mixed)

    def _check_lines(self, path: Path, types: Types, start: int, mixed: bool) -> None:
        import pyarrow

        # Arrow does not survive a table that starts with `null`.
        no_rows = self.found.rows(self.source, {"row-unreadable", "row-not-object"})
        for lines in _parts(path):
            rows = {row: line for row, line in enumerate(lines, start) if row not in no_rows}
            try:
                table = _table(list(rows.values())) if rows else None
            except pyarrow.ArrowException:
                table = self._without_bad_lines(rows, mixed)
            if table is not None and not mixed:
                self._must_fit(table, types, start)
            start += len(lines)

    def _without_bad_lines(self, rows: dict[int, bytes], mixed: bool) -> Any:
        import pyarrow

        good, known = [], self.found.rows(self.source, {"text-not-unicode", "column-mixed"})
        for row, line in rows.items():
            try:
                _table([line])
            except pyarrow.ArrowException as error:
                if row not in known:
                    self._add("loader-refuses", row, None, _first_line(error))
            else:
                good.append(line)
        try:
            return _table(good) if good else None
        except pyarrow.ArrowException as error:
            if not mixed:
                self._add("loader-refuses", None, None, f"rows {min(rows)} to {max(rows)}: {_first_line(error)}")
            return None

    def _must_fit(self, table: Any, types: Types, start: int) -> None:
        """Compare a table with the first."""
        if self.reference is None:
            self.reference = table.schema
            self._require_text(table.schema)
            return
        import pyarrow
        from datasets import Features
        from datasets.table import table_cast

        reference = Features.from_arrow_schema(self.reference).arrow_schema
        for name in table.column_names:
            at = types.first_row(name, start)
            if name not in reference.names:
                self._add("column-late", at, name, "the column is not in what comes before")
                continue
            kind = reference.field(name)
            try:
                table_cast(table.select([name]).combine_chunks(), pyarrow.schema([kind]))
            except Exception as error:  # the loader fails with it, whatever it is
                self._add("column-late", at, name, f"{kind.type} up to here, and then: {_first_line(error)}")

    def _require_text(self, schema: Any) -> None:
        from pyarrow.types import is_timestamp

        source = self.found.sources[self.source]
        for use in TEXTS if source.formatting == "alpaca" else ():
            name = source.columns.get(use)
            if name in schema.names and is_timestamp(schema.field(name).type):
                message = "every text looks like a date, and the loader makes dates of them; write .json or .parquet"
                self._add("column-late", None, name, message)


def _parts(path: Path) -> Iterator[list[bytes]]:
    """Yield the lines that the loader reads together; those that are blank are no rows."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            chunk += file.readline()
            yield [line for line in chunk.split(b"\n") if line.strip()]


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


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
