"""Rows on disk, between being made and being written: only at the end is it known which columns all of them have.

Reading the sources twice instead would download those of the hub twice.
"""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import IO, Any


ORDER = ("instruction", "history", "system", "tools", "chosen", "rejected", "score_chosen", "score_rejected", "images")
ORDER += ("id", "subset", "rank_chosen", "rank_rejected")
ABSENT: dict[str, Any] = {"history": [], "system": "", "tools": "", "id": "", "subset": ""}
SCORES, RANKS = ("score_chosen", "score_rejected"), ("rank_chosen", "rank_rejected")  # for all rows or for none
# LlamaFactory's loader takes a column's type from the first 10 MB of a .jsonl: only [] there is no list of text.
TYPED_BY = 5_000_000  # characters of text, well within
FIRST_TABLE = 1000  # rows that `datasets` writes at a time: the first of them settle the types


class Spool:
    """Rows on disk.

    Attributes:
        count: how many there are.
        seen: in how many a column is.
        before: how many rows, and about how many characters of text, came before a list first had something in it.
        pictured: the first row with an image.
        with_images: how many have one.
    """

    def __init__(self, file: IO[str]):
        """Use an empty file."""
        self.file, self.count, self.seen, self.characters = file, 0, Counter(), 0
        self.before: dict[str, tuple[int, int]] = {}
        self.pictured: dict[str, Any] = {}
        self.with_images = 0

    def add(self, row: dict[str, Any]) -> None:
        """Append a row."""
        for column in ("history", "images"):
            if row.get(column):
                self.before.setdefault(column, (self.count, self.characters))
        if row["images"] and not self.pictured:
            self.pictured = row
        self.count += 1
        self.with_images += bool(row["images"])
        self.seen.update(row.keys())
        self.characters += sum(len(row[column]) for column in ("instruction", "chosen", "rejected"))
        self.file.write(json.dumps(row) + "\n")

    def is_late(self, column: str, jsonl: bool) -> bool:
        """Tell whether a list begins so late that the loader would have taken the column for empty by then."""
        rows, characters = self.before.get(column, (0, 0))
        return (column == "images" and rows >= FIRST_TABLE) or (jsonl and characters > TYPED_BY)

    def rows(self, pictured_first: bool) -> Iterator[dict[str, Any]]:
        """Yield the rows, all with the same columns, in their order, but maybe the one that is `pictured` first."""
        partial = {column for column in (*SCORES, *RANKS) if self.seen[column] < self.count}
        columns = [column for column in ORDER if self.seen[column] and column not in partial]
        moved = self.before["images"][0] if pictured_first else None
        self.file.seek(0)
        rest = (json.loads(line) for number, line in enumerate(self.file) if number != moved)
        for row in chain([self.pictured] if pictured_first else [], rest):
            yield {column: row.get(column, ABSENT.get(column)) for column in columns}
