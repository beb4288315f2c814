"""What was found: kept on disk, counted in memory."""

import json
import tempfile
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import place
from ..sources import Source
from ..writing import whole_file
from .kinds import ERROR, KINDS, LEVELS


EXAMPLES = 3  # rows that the summary names for each kind
WHOLE = -1  # instead of a row, where a finding is about the whole data set


class Findings:
    """Collects findings about several data sets.

    Attributes:
        sources: the data sets; everywhere here they go by their number.
        counts: how many of each kind.
        examples: the first few places of each kind, in words.
        dropped: of each data set, the rows that `--fix` leaves out, and the first reason.
    """

    def __init__(self, sources: list[Source]):
        """Collect findings about `sources`."""
        self.sources = sources
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = defaultdict(list)
        self.dropped: list[dict[int, str]] = [{} for _ in sources]
        self.with_errors: list[set[int]] = [set() for _ in sources]
        self.starts: list[list[int]] = [[] for _ in sources]  # the first row of every file
        self.ends = [0 for _ in sources]
        self._spool = tempfile.TemporaryFile()
        self._order = (array("q"), array("q"), array("q"))  # data set, row, place in the spool

    def add(self, kind: str, source: int, row: int, column: str | None, message: str) -> None:
        """Note a finding.

        Args:
            kind: one of `KINDS`.
            source: the number of the data set.
            row: counted through all its files from 0, or `WHOLE`.
            column: where to look, if it is about a column.
            message: what is wrong, in words.
        """
        where = self.locate(source, row)
        finding = where | {"column": column, "kind": kind, "level": KINDS[kind].level, "message": message}
        for values, value in zip(self._order, (source, row, self._spool.tell()), strict=True):
            values.append(value)
        self._spool.write(json.dumps(finding).encode() + b"\n")
        self.counts[kind] += 1
        if len(self.examples[kind]) < EXAMPLES:
            self.examples[kind].append(_in_words(where, column, message, len(self.sources)))
        if row != WHOLE:
            if KINDS[kind].drops:
                self.dropped[source].setdefault(row, kind)
            if KINDS[kind].level == ERROR:
                self.with_errors[source].add(row)

    def locate(self, source: int, row: int) -> dict[str, Any]:
        """Return the data set, the file, and the row counted within that file."""
        known = self.sources[source]
        if row == WHOLE:
            return {"data_set": known.name, "file": str(known.files[0]), "row": None}
        starts = self.starts[source] or [0]
        file = int(np.searchsorted(starts, row, side="right")) - 1
        return {"data_set": known.name, "file": str(known.files[file]), "row": row - starts[file]}

    def place(self, source: int, row: int) -> str:
        """Name a row in a message about another one."""
        where = self.locate(source, row)
        return f"{place(where['row'])} of {where['file']}"

    def level_counts(self) -> dict[str, int]:
        """Return how many findings there are of each of `LEVELS`."""
        counts = dict.fromkeys(LEVELS, 0)
        for kind, count in self.counts.items():
            counts[KINDS[kind].level] += count
        return counts

    def write(self, path: Path) -> None:
        """Write all findings as JSONL, by data set and row.

        Raises:
            DataError: the place cannot be written.
        """
        with whole_file(path) as file:
            file.writelines(line.decode() for line in self._lines())

    def _lines(self) -> Iterator[bytes]:
        sources, rows, places = (np.array(values, dtype=np.int64) for values in self._order)
        for number in np.lexsort((places, rows, sources)):
            self._spool.seek(places[number])
            yield self._spool.readline()
        self._spool.seek(0, 2)


def _in_words(where: dict[str, Any], column: str | None, message: str, sources: int) -> str:
    row = "" if where["row"] is None else f"row {where['row']}"
    name = where["data_set"] if sources > 1 or not row else ""
    parts = [part for part in (name, row, column and f'"{column}"') if part]
    return f"{', '.join(parts)}: {message}"
