"""Rows against each other: duplicates, contradictions, and what is both trained on and held out."""

import json
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

import xxhash

from ..pairs import Pair
from .findings import Findings


# `asked` is all that training sees of a question, in order.
_PAIRS = "CREATE TABLE pairs (number INTEGER PRIMARY KEY, held_out, source, row, asked, chosen, rejected)"
_INDEX = "CREATE INDEX pairs_by_content ON pairs (held_out, asked, chosen, rejected)"
_GOOD_ROWS = """
SELECT source, row, question, chosen, rejected, digest
FROM rows LEFT JOIN shown USING (source, row) LEFT JOIN media USING (number)
WHERE NOT EXISTS (
    SELECT 1 FROM findings JOIN kinds USING (kind)
    WHERE findings.source = rows.source AND findings.row = rows.row AND drops
)
ORDER BY source, row, shown.rowid
"""
# Every row trained on, with the first of all rows that it matches.
_COMPARE = """
INSERT INTO findings SELECT pair.source, pair.row, NULL, :kind, printf(:words, place(other.source, other.row))
FROM pairs AS pair JOIN pairs AS other ON other.number = (
    SELECT min(number) FROM pairs WHERE held_out = {held_out} AND asked = pair.asked {answers}
)
WHERE NOT pair.held_out AND {unless} ORDER BY pair.number
"""
_SAME = "AND chosen = pair.chosen AND rejected = pair.rejected"
_SWAPPED = "AND chosen = pair.rejected AND rejected = pair.chosen"
_LATER = "pair.number > other.number"
_COMPARISONS = {  # kind: held out?, which answers, which rows, words around the place of the other row
    "duplicate": (0, _SAME, _LATER, "the same as %s"),
    "contradiction": (0, _SWAPPED, "pair.chosen <> pair.rejected", "%s prefers the other of the same two answers"),
    "leak-pair": (1, "", "1", "asked in the held-out %s too"),
    "leak-by-split": (0, "", _LATER, "%s asks the same"),
}
_LEAKING_MEDIA = """
INSERT INTO findings SELECT source, row, column_for(source, use), 'leak-image', CASE use
    WHEN 'images' THEN 'an image' WHEN 'videos' THEN 'a video' ELSE 'a sound' END || ' of the held-out data'
FROM shown JOIN media USING (number)
WHERE source < :trained
AND digest IN (SELECT digest FROM shown JOIN media USING (number) WHERE source >= :trained)
AND NOT EXISTS (
    SELECT 1 FROM findings WHERE source = shown.source AND row = shown.row AND kind = 'leak-pair'
)
GROUP BY source, row
"""


def add_pair(found: Findings, source: int, row: int, pair: Pair) -> None:
    """Remember a row by digests of all text that training sees: dialogue, roles, system prompt, tools."""
    asked, chosen, rejected = pair.roles[:-2], *(pair.roles[-2:] or ("", ""))
    told = (pair.system, pair.tools, pair.messages, asked), (chosen, pair.chosen), (rejected, pair.rejected)
    digests = (xxhash.xxh64_hexdigest(json.dumps(one).encode()) for one in told)
    found.db.execute("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", (source, row, *digests))


def _good_pairs(found: Findings, trained: int) -> Iterator[tuple[Any, ...]]:
    for (source, row, question, *answers), shown in groupby(found.db.execute(_GOOD_ROWS), itemgetter(slice(5))):
        asked = question + "".join(digest or "" for *_, digest in shown)
        yield source >= trained, source, row, asked, *answers


def compare(found: Findings, trained: int, split: bool) -> None:
    """Find rows that say the same, the contrary, or what is held out.

    Args:
        found: where findings go.
        trained: how many of its data sets are trained on; the others are held out.
        split: whether training splits off its held-out rows itself (`val_size`).
    """
    found.db.execute(_PAIRS)
    found.db.executemany("INSERT INTO pairs VALUES (NULL, ?, ?, ?, ?, ?, ?)", _good_pairs(found, trained))
    found.db.execute(_INDEX)
    for kind, (held_out, answers, unless, words) in _COMPARISONS.items():
        if kind != "leak-by-split" or split:
            query = _COMPARE.format(held_out=held_out, answers=answers, unless=unless)
            found.db.execute(query, {"kind": kind, "words": words})
    found.db.execute(_LEAKING_MEDIA, {"trained": trained})
