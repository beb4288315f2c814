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

from ..errors import DataError
from ..images import ImageError
from ..kept import Kept
from ..pairs import Pair, RowError, read_pair
from ..sources import Source
from ..stats.gather import image_folder
from ..writing import write_rows
from .agreement import Group
from .pictures import Pictures
from .requests import Request, Scorer, Unscored, check_readable, request_key


SIDES = ("score_chosen", "score_rejected")
EXAMPLES = 5
FAILURES_IN_A_ROW = 20
MOST_GROUPS = 50


class Run:
    """One run over a data set.

    Attributes:
        rows: rows written.
        left_out: rows that cannot be scored.
        distinct: different answers.
        scored: answers that were scored in this run; the others were in the cache.
        seconds: how long scoring them took.
        groups: the scores of "all" pairs, and of those of each subset.
    """

    def __init__(self, source: Source, scorer: Scorer, pictures: Pictures, cache: Kept, options: SimpleNamespace):
        """Prepare, with the `overwrite`, `drop_unscored` and `by` of `data.py score`."""
        self.source, self.scorer, self.pictures, self.cache, self.options = source, scorer, pictures, cache, options
        self.rows = self.left_out = self.distinct = self.scored = 0
        self.seconds, self.groups = 0.0, dict[str, Group]()
        self._scorer_key = hashlib.blake2b(json.dumps(scorer.identity, sort_keys=True).encode()).digest()
        self._keys: list[tuple[bytes, bytes] | None] = []  # of the answers of each row; None if it cannot be scored
        self._examples: list[str] = []
        self._stamp = self._stamp_now()

    def write(self, output: Path) -> None:
        """Score, and write the data set with a score for each answer when all rows have theirs."""
        todo = self._look()  # what is wrong with row 41,307 is better known now than in hours
        if self.left_out and not self.options.drop_unscored:
            raise self._unscored("Nothing was scored yet. Correct them")
        start = time.monotonic()
        reasons = self._score(todo) if todo else {}
        self.seconds, self.scored = time.monotonic() - start, len(todo) - len(reasons)
        if reasons:
            self._leave_out(reasons)
            if not self.options.drop_unscored:
                raise self._unscored(
                    f"All other scores are kept in {self.cache.path}. The same command again tries only these"
                )
        if self.left_out == len(self._keys):
            raise self._unscored("Nothing is left to write")
        self.rows = write_rows(output, self._with_scores())

    def _look(self) -> set[bytes]:
        """Read all rows once, and return the keys of the answers that have no score yet."""
        by = self.options.by
        seen, todo, named = set(), set(), by is None
        for number, row in enumerate(self.source.values("reading")):
            named = named or (isinstance(row, dict) and by in row)
            try:
                _, keys = self._read(row, number)
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

    def _read(self, row: Any, number: int) -> tuple[Pair, tuple[bytes, bytes]]:
        """Return a pair and the keys of its answers.

        Raises:
            RowError: there is no pair that can be scored (also as ImageError).
            DataError: there are scores already, or images that the scorer cannot look at.
        """
        pair = read_pair(row, self.source)
        present = [column for side in SIDES if row.get(column := self.source.columns[side]) is not None]
        if present and not self.options.overwrite:
            raise DataError(
                f'row {number} (the first is 0) has "{present[0]}" already. To replace scores: --overwrite'
            )
        check_readable(pair, self.source)
        if pair.images and not self.scorer.reads_images:
            raise DataError(
                f"row {number} (the first is 0) has images, and this model reads text only: its scores would be "
                "guesses. Take a vision-language model (--kind yes-no, or --endpoint)."
            )
        images = [self.pictures.digest(image) for image in pair.images]
        chosen, rejected = (
            request_key(self._scorer_key, pair, answer, images) for answer in (pair.chosen, pair.rejected)
        )
        return pair, (chosen, rejected)

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
                if failures >= FAILURES_IN_A_ROW:
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
                pair, now = self._read(row, number)
            except (RowError, ImageError) as error:
                raise self._changed() from error
            if now != keys:
                raise self._changed()
            for key, answer in zip(keys, (pair.chosen, pair.rejected), strict=True):
                if key in todo:
                    todo.remove(key)
                    yield Request(key, pair.messages, answer, pair.images, pair.system)

    def _leave_out(self, reasons: dict[bytes, str]) -> None:
        """Drop the rows of answers that could not be scored."""
        for number, keys in enumerate(self._keys):
            failed = [side for side, key in enumerate(keys or ()) if key in reasons]
            if failed:
                self._keys[number] = None
                self._note(f"row {number}, {('chosen', 'rejected')[failed[0]]}: {reasons[keys[failed[0]]]}")

    def _with_scores(self) -> Iterator[dict[str, Any]]:
        """Yield the rows that have scores, and add these to their groups."""
        columns = [self.source.columns[side] for side in SIDES]
        for row, keys in zip(self.source.values("writing"), self._keys, strict=False):
            if keys is None:
                continue
            scores = [self.cache.get(key) for key in keys]
            if None in scores or self._stamp_now() != self._stamp:
                raise self._changed()
            for name in ("all", self._subset(row)):
                self.groups.setdefault(name, Group()).add(*scores)
            yield row | dict(zip(columns, scores, strict=True))
        if self._stamp_now() != self._stamp:
            raise self._changed()

    def _subset(self, row: dict[str, Any]) -> str:
        by = self.options.by
        name = f"{by}: {row.get(by)}" if by else image_folder(read_pair(row, self.source).images)
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
        return DataError(
            f"{self.left_out} of {len(self._keys)} rows (the first is 0) cannot be scored:{lines}{more}\n"
            f"{advice}, or leave such rows out with --drop-unscored."
        )
