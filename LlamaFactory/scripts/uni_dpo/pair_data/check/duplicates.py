"""Rows against each other: duplicates, contradictions, and what is both trained on and held out."""

import json
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

import pandas as pd
import xxhash

from ..pairs import Pair
from .findings import Findings


_GOOD_ROWS = """
SELECT source, row, question, chosen, rejected, digest
FROM rows LEFT JOIN shown USING (source, row) LEFT JOIN media USING (number)
WHERE NOT EXISTS (
    SELECT 1 FROM findings JOIN kinds USING (kind)
    WHERE findings.source = rows.source AND findings.row = rows.row AND drops
)
ORDER BY source, row, shown.rowid
"""
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


def compare(found: Findings, trained: int, split: bool) -> None:
    """Find rows that say the same, the contrary, or what is held out.

    Args:
        found: where findings go.
        trained: how many of its data sets are trained on; the others are held out.
        split: whether training splits off its held-out rows itself (`val_size`).
    """
    asked, whole = ["asked"], ["asked", "chosen", "rejected"]
    rows = pd.DataFrame(_good_rows(found), columns=["source", "row", *whole]).astype(dict.fromkeys(whole, "uint64"))
    held_out, rows = rows[rows["source"] >= trained], rows[rows["source"] < trained]
    swapped = rows[rows["chosen"] != rows["rejected"]].rename(columns={"chosen": "rejected", "rejected": "chosen"})
    _add(found, "duplicate", "the same as %s", _with_first(rows, rows, whole, later=True))
    _add(found, "contradiction", "%s prefers the other of the same two answers", _with_first(rows, swapped, whole))
    _add(found, "leak-pair", "asked in the held-out %s too", _with_first(rows, held_out, asked))
    if split:
        _add(found, "leak-by-split", "%s asks the same", _with_first(rows, rows, asked, later=True))
    found.db.execute(_LEAKING_MEDIA, {"trained": trained})


def _good_rows(found: Findings) -> Iterator[tuple[Any, ...]]:
    """Yield what each row asks with all that it shows, in order, and its answers, as short as possible."""
    for (source, row, question, *answers), shown in groupby(found.db.execute(_GOOD_ROWS), itemgetter(slice(5))):
        asked = question + "".join(digest or "" for *_, digest in shown)
        yield source, row, *(xxhash.xxh64_intdigest(text.encode()) for text in (asked, *answers))


def _with_first(rows: pd.DataFrame, others: pd.DataFrame, keys: list[str], later: bool = False) -> pd.DataFrame:
    """Return rows, each with the first of the others that has the same keys; only rows `later` than that if asked."""
    first = others.drop_duplicates(keys).reset_index(names="at")
    found = rows.reset_index(names="at").merge(first, on=keys, suffixes=("", "_other"))
    return found[found["at"] > found["at_other"]] if later else found


def _add(found: Findings, kind: str, words: str, matches: pd.DataFrame) -> None:
    places = matches[["source", "row", "source_other", "row_other"]].to_numpy().tolist()
    for source, row, *other in places:
        found.add(kind, source, row, None, words % found.place(*other))
