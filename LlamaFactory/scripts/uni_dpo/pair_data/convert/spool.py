"""Rows on disk, between being made and being written: only at the end is it known which columns all of them have.

Reading the sources twice instead would download those of the hub twice.
"""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import IO, Any

from ..rows import FIRST_TABLE
from .fields import NOTHING
from .mixing import ORIGIN


PAIR_SCORES = ("score_chosen", "score_rejected")  # for all rows or for none, as
PAIR_RANKS = ("rank_chosen", "rank_rejected")
ORDER = ("instruction", "history", "system", "tools", "chosen", "rejected", *PAIR_SCORES, "images")
ORDER += ("id", "subset", ORIGIN, *PAIR_RANKS)
ABSENT: dict[str, Any] = {"history": [], "images": [], "system": "", "tools": "", "id": "", "subset": ""}
# LlamaFactory's loader takes a column's type from the first 10 MB of a .jsonl: only [] there is no list of text.
TYPED_BY = 5_000_000  # characters of text, well within


class Spool:
    """Rows in a file that is empty at first.

    Attributes:
        count: how many there are.
        seen: how many have something in a column.
        first: the first row with something in a column, and how many rows and characters of text came before it.
    """

    def __init__(self, file: IO[str]):
        """Use an empty file."""
        self.file, self.count, self.characters, self.seen = file, 0, 0, Counter()
        self.first: dict[str, tuple[dict[str, Any], int, int]] = {}

    def add(self, row: dict[str, Any]) -> None:
        """Append a row."""
        filled = [column for column, value in row.items() if value not in NOTHING]
        for column in filled:
            if column not in self.first:
                self.first[column] = (row, self.count, self.characters)
        self.seen.update(filled)
        self.count += 1
        self.characters += sum(len(row[column]) for column in ("instruction", "chosen", "rejected"))
        self.file.write(json.dumps(row) + "\n")

    def is_late(self, column: str, jsonl: bool) -> bool:
        """Tell whether a list begins so late that the loader would have taken the column for empty by then."""
        _, rows, characters = self.first.get(column, ({}, 0, 0))
        return (column == "images" and rows >= FIRST_TABLE) or (jsonl and characters > TYPED_BY)

    def rows(self, pictured_first: bool) -> Iterator[dict[str, Any]]:
        """Yield the rows, all with the same columns, in their order, but maybe the first one with an image before."""
        partial = {column for column in (*PAIR_SCORES, *PAIR_RANKS) if self.seen[column] < self.count}
        columns = [column for column in ORDER if column == "images" or self.seen[column] and column not in partial]
        moved, place, _ = self.first["images"] if pictured_first else (None, None, None)
        self.file.seek(0)
        rest = (json.loads(line) for number, line in enumerate(self.file) if number != place)
        for row in chain([moved] if moved else [], rest):
            yield {column: row.get(column, ABSENT.get(column)) for column in columns}
