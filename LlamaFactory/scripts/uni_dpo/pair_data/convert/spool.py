"""Rows on disk, between being made and being written: only at the end is it known which columns all of them have."""

import pickle
from collections import Counter
from collections.abc import Iterator
from typing import Any

from ..rows import BATCH


ORDER = ("instruction", "history", "system", "tools", "chosen", "rejected", "score_chosen", "score_rejected", "images")
ORDER += ("id", "subset", "rank_chosen", "rank_rejected")
ABSENT: dict[str, Any] = {"history": [], "system": "", "tools": "", "id": "", "subset": ""}
WHOLE = (("score_chosen", "score_rejected"), ("rank_chosen", "rank_rejected"))  # for all rows or for none


class Spool:
    """Rows on disk until it is known which columns they all have.

    Attributes:
        count: how many there are.
        seen: in how many a column is.
        characters: about how many characters of text were written before a list first had something in it.
        pictured: the first row with an image, and its number; None while there is none.
        moved: whether this row is to be the first of all.
    """

    def __init__(self, file: Any):
        """Use an empty file."""
        self.file, self.batch, self.count, self.seen = file, [], 0, Counter()
        self.written, self.characters = 0, {}
        self.pictured: tuple[int, dict[str, Any]] | None = None
        self.moved = False

    def add(self, row: dict[str, Any]) -> None:
        """Append a row."""
        if row.get("images") and self.pictured is None:
            self.pictured = self.count, row
        self.count += 1
        self.seen.update(row.keys())
        for column in ("history", "images"):
            if row.get(column):
                self.characters.setdefault(column, self.written)
        self.written += sum(len(row[column]) for column in ("instruction", "chosen", "rejected"))
        self.batch.append(row)
        if len(self.batch) == BATCH:
            self._flush()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows, all with the same columns, in the same order but for the one that is `moved`."""
        self._flush()
        partial = {column for pair in WHOLE for column in pair if self.seen[column] < self.count}
        columns = [column for column in ORDER if self.seen[column] and column not in partial]
        for row in self._in_order():
            yield {column: row.get(column, ABSENT.get(column)) for column in columns}

    def _in_order(self) -> Iterator[dict[str, Any]]:
        first, row = self.pictured if self.moved else (None, None)
        if row is not None:
            yield row
        self.file.seek(0)
        for start in range(0, self.count, BATCH):
            for number, row in enumerate(pickle.load(self.file), start):
                if number != first:
                    yield row

    def _flush(self) -> None:
        if self.batch:
            pickle.dump(self.batch, self.file)
            self.batch = []
