"""Rows on disk, between being made and being written: only at the end is it known which columns all of them have."""

import pickle
from collections import Counter
from collections.abc import Iterator
from typing import Any

from ..rows import BATCH


ORDER = ("instruction", "history", "system", "chosen", "rejected", "score_chosen", "score_rejected", "images")
ORDER += ("id", "subset", "rank_chosen", "rank_rejected")
ABSENT: dict[str, Any] = {"history": [], "system": "", "id": "", "subset": ""}
WHOLE = (("score_chosen", "score_rejected"), ("rank_chosen", "rank_rejected"))  # for all rows or for none


class Spool:
    """Rows on disk until it is known which columns they all have.

    Attributes:
        count: how many there are.
        seen: in how many a column is.
        characters: about how many characters of text were written before a list first had something in it.
    """

    def __init__(self, file: Any):
        """Use an empty file."""
        self.file, self.batch, self.count, self.seen = file, [], 0, Counter()
        self.written, self.characters = 0, {}

    def add(self, row: dict[str, Any]) -> None:
        """Append a row."""
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
        """Yield the rows, all with the same columns, in the same order."""
        self._flush()
        partial = {column for pair in WHOLE for column in pair if self.seen[column] < self.count}
        columns = [column for column in ORDER if self.seen[column] and column not in partial]
        self.file.seek(0)
        for _ in range(-(-self.count // BATCH)):
            for row in pickle.load(self.file):
                yield {column: row.get(column, ABSENT.get(column)) for column in columns}

    def _flush(self) -> None:
        if self.batch:
            pickle.dump(self.batch, self.file)
            self.batch = []
