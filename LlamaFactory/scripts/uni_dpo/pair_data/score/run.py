"""A run: what there is to score, the scores, kept as soon as they are there, and the data set with them."""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tqdm import tqdm

from ..convert.fields import look
from ..errors import DataError
from ..images import ImageError
from ..kept import Kept
from ..pairs import Pair, RowError
from ..sources import Source
from ..stats.gather import image_folder
from ..writing import write_rows
from .layouts import ANSWERS, layout_of
from .pictures import Pictures
from .requests import Request, Scorer, Unscored, check_readable, request_key


SCORES = ("score_chosen", "score_rejected")
REFERENCE = "reference"  # the column of right answers, unless another one is named
EXAMPLES = 5
FAILURES_IN_A_ROW = 20
MOST_GROUPS = 50


class Run:
    """One run over a data set.

    Attributes:
        layout: whether rows hold pairs or lists of answers.
        rows: rows written.
        left_out: rows that cannot be scored, or answers in lists.
        distinct: different answers.
        scored: answers that were scored in this run; the others were in the cache.
        seconds: how long scoring them took.
        groups: the scores of "all" pairs, and of those of each subset.
    """

    def __init__(self, source: Source, scorer: Scorer, pictures: Pictures, cache: Kept, options: SimpleNamespace):
        """Prepare, with the `overwrite`, `on_error`, `reference` and `by` of `data.py score`."""
        self.layout = layout_of(source)
        self.source, self.scorer, self.pictures, self.cache, self.options = source, scorer, pictures, cache, options
        self.rows = self.left_out = self.distinct = self.scored = 0
        self.seconds, self.groups = 0.0, dict[str, Any]()
        self._scorer_key = hashlib.blake2b(json.dumps(scorer.identity, sort_keys=True).encode()).digest()
        # Of the answers of each row; None for a row, or for an answer in a list, that cannot be scored.
        self._keys: list[tuple[bytes | None, ...] | None] = []
        self._examples: list[str] = []
        self._stamp = self._stamp_now()

    def write(self, output: Path) -> None:
        """Score, and write the data set with a score for each answer when all rows have theirs."""
        todo = self._look()  # what is wrong with row 41,307 is better known now than in hours
        if self.left_out and self.options.on_error != "skip":
            raise self._unscored("Nothing was scored yet. Correct them")
        start = time.monotonic()
        reasons = self._score(todo) if todo else {}
        self.seconds, self.scored = time.monotonic() - start, len(todo) - len(reasons)
        if reasons:
            self._leave_out(reasons)
            if self.options.on_error != "skip":
                raise self._unscored(
                    f"All other scores are kept in {self.cache.path}. The same command again tries only these"
                )
        if all(keys is None for keys in self._keys):
            raise self._unscored("Nothing is left to write")
        self.rows = write_rows(output, self._with_scores())

    def _look(self) -> set[bytes]:
        """Read all rows once, and return the keys of the answers that have no score yet."""
        by = self.options.by
        seen, todo, named = set(), set(), by is None
        for number, row in enumerate(self.source.values("reading")):
            named = named or (isinstance(row, dict) and by in row)
            try:
                *_, keys = self._read(row, number)
            except (RowError, ImageError) as error:
                where = getattr(error, "column", self.source.columns.get("images", "images")) or "the whole row"
                self._keys.append(None)
                self._note(f"row {number}, {where}: {error}")
                continue
            self._keys.append(keys)
            todo.update(key for key in keys if key not in seen and self.cache.get(key) is None)
            seen.update(keys)
        self.distinct = len(seen)
        if not self._keys:
            raise DataError(f"{self.source.name} has no rows.")
        if not named:
            raise DataError(f'{self.source.name} has no column "{by}"; --by names a column of the rows.')
        return todo

    def _read(self, row: Any, number: int) -> tuple[Pair, list[tuple[str, str]], tuple[bytes, ...]]:
        """Return what was asked, its answers with their names, and the keys of these.

        Raises:
            RowError: there is nothing that can be scored (also as ImageError).
            DataError: there are scores already, or images that the scorer cannot look at.
        """
        pair, answers = self.layout.read(row)
        present = self.layout.scored(row)
        if present and not self.options.overwrite:
            raise DataError(f"row {number} (the first is 0) has {present} already. To replace scores: --overwrite")
        check_readable(pair, self.source)
        if pair.images and not self.scorer.reads_images:
            raise DataError(
                f"row {number} (the first is 0) has images, and this model reads text only: its scores would be "
                "guesses. Take a vision-language model (--kind yes-no, or --endpoint)."
            )
        images, also = [self.pictures.digest(image) for image in pair.images], []
        if self.scorer.uses_reference:
            also.append(self._reference(row))
        if self.scorer.uses_row:
            also.append(self._apart_from_answers(row))
        return pair, answers, tuple(request_key(self._scorer_key, pair, answer, images, also) for _, answer in answers)

    def _reference(self, row: dict[str, Any]) -> tuple[str, ...]:
        """Return the right answers that a row has."""
        found = look(row, self.options.reference or REFERENCE)
        values = found if isinstance(found, list) else [found]
        return tuple(str(value) for value in values if isinstance(value, str | int | float) and str(value).strip())

    def _apart_from_answers(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a row without its answers and their scores, which a rule gets one by one."""
        columns = {ANSWERS} | {self.source.columns.get(use, use) for use in ("chosen", "rejected", *SCORES)}
        return {name: value for name, value in row.items() if name not in columns}

    def _score(self, todo: set[bytes]) -> dict[bytes, str]:
        """Score what has no score; return why some still have none."""
        reasons: dict[bytes, str] = {}
        failures = 0
        with (
            tqdm(total=len(todo), desc="scoring", unit=" answers") as bar,
            closing(self.scorer.score(self._requests(set(todo)))) as batches,
        ):
            for scored in batches:
                self.cache.put((request.key, score) for request, score in scored if not isinstance(score, Unscored))
                bar.update(len(scored))
                for request, score in scored:
                    failures = failures + 1 if isinstance(score, Unscored) else 0
                    if failures:
                        reasons[request.key] = score.reason
                bar.set_postfix_str(f"{len(reasons)} failed" if reasons else "")
                if self.options.on_error == "stop" and reasons:
                    self._leave_out(reasons)
                    raise self._unscored(f"The scores of this run are kept in {self.cache.path}. Correct it")
                if failures >= FAILURES_IN_A_ROW and not self.scorer.patient:
                    raise DataError(
                        f"{failures} answers in a row could not be scored, the last for this reason:\n"
                        f"  {reasons[scored[-1][0].key]}\n"
                        f"The {bar.n - len(reasons)} scores of this run are kept in {self.cache.path}. The same "
                        "command continues."
                    )
        return reasons

    def _requests(self, todo: set[bytes]) -> Iterator[Request]:
        """Yield what is to be scored, each answer once."""
        for number, (row, keys) in enumerate(zip(self.source.values(), self._keys, strict=False)):
            if keys is None or todo.isdisjoint(keys):
                continue
            try:
                pair, answers, now = self._read(row, number)
            except (RowError, ImageError) as error:
                raise self._changed() from error
            if now != keys:
                raise self._changed()
            reference = self._reference(row) if self.scorer.uses_reference else ()
            told = self._apart_from_answers(row) if self.scorer.uses_row else None
            for key, (_, answer) in zip(keys, answers, strict=True):
                if key in todo:
                    todo.remove(key)
                    yield Request(key, pair.messages, answer, pair.images, pair.system, reference, told)

    def _leave_out(self, reasons: dict[bytes, str]) -> None:
        """Drop what could not be scored: the rows of pairs, and answers out of lists."""
        for number, (row, keys) in enumerate(zip(self.source.values(), self._keys, strict=False)):
            failed = [place for place, key in enumerate(keys or ()) if key in reasons]
            if not failed:
                continue
            names = [name for name, _ in self.layout.read(row)[1]]
            for place in failed[:1] if self.layout.whole else failed:
                self._note(f"row {number}, {names[place]}: {reasons[keys[place]]}")
            left = tuple(None if key in reasons else key for key in keys)
            self._keys[number] = None if self.layout.whole else left

    def _with_scores(self) -> Iterator[dict[str, Any]]:
        """Yield the rows that have scores, and add these to their groups."""
        for row, keys in zip(self.source.values("writing"), self._keys, strict=False):
            if keys is None:
                continue
            scores = [None if key is None else self.cache.get(key) for key in keys]
            lost = any(score is None and key for score, key in zip(scores, keys, strict=True))
            if lost or self._stamp_now() != self._stamp:
                raise self._changed()
            for name in ("all", self._subset(row)):
                self.groups.setdefault(name, self.layout.measures.Group()).add(*scores)
            yield self.layout.with_scores(row, scores)
        if self._stamp_now() != self._stamp:
            raise self._changed()

    def _subset(self, row: dict[str, Any]) -> str:
        by = self.options.by
        name = f"{by}: {row.get(by)}" if by else image_folder(self.layout.read(row)[0].images)
        return name if name in self.groups or len(self.groups) < MOST_GROUPS else "(others)"

    def _stamp_now(self) -> list[tuple[int, int]]:
        """Return what changes when a file does."""
        return [(status.st_size, status.st_mtime_ns) for status in (file.stat() for file in self.source.files)]

    def _changed(self) -> DataError:
        return DataError(
            f"{self.source.name}, its images or {self.cache.path} changed while it was being scored. Run the command "
            "again."
        )

    def _note(self, example: str) -> None:
        self.left_out += 1
        if len(self._examples) < EXAMPLES:
            self._examples.append(example)

    def _unscored(self, advice: str) -> DataError:
        lines = "".join(f"\n  {example}" for example in self._examples)
        more = f"\n  and {self.left_out - len(self._examples)} more" if self.left_out > len(self._examples) else ""
        what = f"of {len(self._keys)} rows" if self.layout.whole else "answers or whole rows"
        return DataError(
            f"{self.left_out} {what} (the first is 0) cannot be scored:{lines}{more}\n"
            f"{advice}, or leave them out with --on-error skip."
        )
