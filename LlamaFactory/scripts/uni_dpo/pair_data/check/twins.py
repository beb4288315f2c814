"""Rows against each other: duplicates, contradictions, and what is both trained on and held out."""

import json
from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from ..pairs import Pair
from .findings import Findings
from .gallery import Gallery, RowImages


@dataclass
class RowDigests:
    """64 bits for the question and each answer of every row; 0 for a row that could not be read.

    They depend on all text that training sees: dialogue, roles, system prompt, tools. Media are mixed in by `_gather`.
    """

    question: array = field(default_factory=lambda: array("Q"))
    chosen: array = field(default_factory=lambda: array("Q"))
    rejected: array = field(default_factory=lambda: array("Q"))

    def add(self, pair: Pair | None) -> None:
        """Add a row."""
        told: list[Any] = [None] * 3
        if pair:
            asked, chosen, rejected = pair.roles[:-2], *(pair.roles[-2:] or ("", ""))
            told = [(pair.system, pair.tools, pair.messages, asked), (chosen, pair.chosen), (rejected, pair.rejected)]
        for values, one in zip((self.question, self.chosen, self.rejected), told, strict=True):
            values.append(xxhash.xxh64_intdigest(json.dumps(one).encode()) if pair else 0)


@dataclass
class RowTable:
    """What is kept of the rows of one data set.

    Attributes:
        held_out: whether it is evaluated on, not trained on.
        digests: of the texts.
        images: the images of every row.
        media: its videos, and then its sounds.
    """

    held_out: bool
    digests: RowDigests = field(default_factory=RowDigests)
    images: RowImages = field(default_factory=RowImages)
    media: RowImages = field(default_factory=RowImages)


@dataclass
class _Rows:
    """Rows of several data sets as columns of numbers."""

    sources: np.ndarray
    rows: np.ndarray
    questions: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray


def compare(found: Findings, tables: list[RowTable], gallery: Gallery, split: bool) -> None:
    """Find rows that say the same, the contrary, or what is held out.

    Args:
        found: where findings go.
        tables: of all data sets, in the order of `found.sources`.
        gallery: their images, videos and sounds.
        split: whether training splits off its held-out rows itself (`val_size`).
    """
    digests = gallery.digests()
    trained = _gather(found, tables, digests, held_out=False)
    held_out = _gather(found, tables, digests, held_out=True)
    _duplicates(found, trained)
    _contradictions(found, trained)
    _leaks(found, trained, held_out, tables, gallery)
    if split:
        _leaks_by_split(found, trained)


def _gather(found: Findings, tables: list[RowTable], digests: np.ndarray, held_out: bool) -> _Rows:
    columns: list[list[np.ndarray]] = [[], [], [], [], []]
    for number, table in enumerate(tables):
        if table.held_out != held_out:
            continue
        texts = table.digests
        seen = np.array([_seen(digests, table, row) for row in range(len(texts.question))], dtype=np.uint64)
        question, chosen, rejected = (
            np.array(values, dtype=np.uint64) for values in (texts.question, texts.chosen, texts.rejected)
        )
        question[list(found.dropped[number])] = 0  # rows with errors are no match for good ones
        rows = np.flatnonzero(question)
        asked = _mix(question, seen)
        parts = np.full(len(rows), number), rows, asked[rows], chosen[rows], rejected[rows]
        for column, part in zip(columns, parts, strict=True):
            column.append(part)
    types = (np.int64, np.int64, np.uint64, np.uint64, np.uint64)
    joined = [
        np.concatenate(parts) if parts else np.array([], type_) for parts, type_ in zip(columns, types, strict=True)
    ]
    return _Rows(*joined)


def _seen(digests: np.ndarray, table: RowTable, row: int) -> int:
    numbers = table.images.of(row) + table.media.of(row)
    if len(numbers) == 1:
        return int(digests[numbers[0]])
    return xxhash.xxh64_intdigest(digests[numbers].tobytes()) if numbers else 0


def _mix(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Make one number of two, that depends on their order."""
    return (first * np.uint64(0x9E3779B97F4A7C15) + second) * np.uint64(0xBF58476D1CE4E5B9) ^ (first >> np.uint64(29))


def _duplicates(found: Findings, rows: _Rows) -> None:
    whole = _mix(_mix(rows.questions, rows.chosen), rows.rejected)
    _, first, group = np.unique(whole, return_index=True, return_inverse=True)
    for row in np.flatnonzero(first[group] != np.arange(len(group))).tolist():
        message = f"the same as {_place(found, rows, first[group[row]])}"
        found.add("duplicate", int(rows.sources[row]), int(rows.rows[row]), None, message)


def _contradictions(found: Findings, rows: _Rows) -> None:
    whole = _mix(_mix(rows.questions, rows.chosen), rows.rejected)
    swapped = _mix(_mix(rows.questions, rows.rejected), rows.chosen)
    known, first = np.unique(whole, return_index=True)
    for row, partner in _matches(swapped, known, first):
        if rows.chosen[row] != rows.rejected[row]:
            message = f"{_place(found, rows, partner)} prefers the other of the same two answers"
            found.add("contradiction", int(rows.sources[row]), int(rows.rows[row]), None, message)


_ONE = {"images": "an image", "videos": "a video", "audios": "a sound"}


def _leaks(found: Findings, trained: _Rows, held_out: _Rows, tables: list[RowTable], gallery: Gallery) -> None:
    digests = gallery.digests()
    known, first = np.unique(held_out.questions, return_index=True)
    leaking = set()
    for row, partner in _matches(trained.questions, known, first):
        leaking.add((int(trained.sources[row]), int(trained.rows[row])))
        message = f"asked in the held-out {_place(found, held_out, partner)} too"
        found.add("leak-pair", int(trained.sources[row]), int(trained.rows[row]), None, message)
    kinds = ("images", "media")
    held = [table for table in tables if table.held_out]
    shown = [np.array(getattr(table, kind).numbers, dtype=np.int64) for table in held for kind in kinds]
    shown = np.unique(digests[np.concatenate(shown)]) if any(map(len, shown)) else digests[:0]
    for number, table in enumerate(tables):
        for kind in () if table.held_out or not len(shown) else kinds:
            images = getattr(table, kind)
            places = np.flatnonzero(np.isin(digests[np.array(images.numbers, dtype=np.int64)], shown))
            rows = np.searchsorted(np.array(images.ends), places, side="right")
            for row, place in dict(zip(rows.tolist(), places.tolist(), strict=True)).items():
                if (number, row) not in leaking:
                    use = gallery.uses[images.numbers[place]]
                    message = f"{_ONE[use]} of the held-out data"
                    found.add("leak-image", number, row, found.sources[number].columns.get(use), message)


def _leaks_by_split(found: Findings, rows: _Rows) -> None:
    _, first, group = np.unique(rows.questions, return_index=True, return_inverse=True)
    for row in np.flatnonzero(first[group] != np.arange(len(group))).tolist():
        message = f"{_place(found, rows, first[group[row]])} asks the same"
        found.add("leak-by-split", int(rows.sources[row]), int(rows.rows[row]), None, message)


def _matches(values: np.ndarray, known: np.ndarray, first: np.ndarray) -> list[tuple[int, int]]:
    """Return (place in `values`, what `first` says of it) for every value among the sorted `known`."""
    if not len(known):
        return []
    at = np.minimum(np.searchsorted(known, values), len(known) - 1)
    places = np.flatnonzero(known[at] == values)
    return list(zip(places.tolist(), first[at[places]].tolist(), strict=True))


def _place(found: Findings, rows: _Rows, at: int) -> str:
    return found.place(int(rows.sources[at]), int(rows.rows[at]))
