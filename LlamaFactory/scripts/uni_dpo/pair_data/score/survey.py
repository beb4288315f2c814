"""A look at all rows before the first is scored: what is wrong with row 41,307 is better known now than in hours."""

from dataclasses import dataclass, field
from typing import Any

from ..errors import DataError
from ..images import ImageError
from ..pairs import RowError, read_pair
from ..rows import Broken
from ..sources import Source
from .cache import Cache
from .pictures import Pictures
from .requests import KEY_BYTES, Scorer, check_readable, refuse_images, request_key, scorer_key


SIDES = ("score_chosen", "score_rejected")
NO_KEY = bytes(KEY_BYTES)
EXAMPLES = 5


@dataclass
class Survey:
    """What there is to score.

    Attributes:
        keys: of both answers of every row, one after the other; `NO_KEY` for a row that cannot be scored.
        bad: how many such rows there are.
        examples: what is wrong with the first of them.
        todo: the keys that have no score yet.
        distinct: how many different answers there are.
        stamp: size and time of change of each file.
    """

    keys: bytearray = field(default_factory=bytearray)
    bad: int = 0
    examples: list[str] = field(default_factory=list)
    todo: set[bytes] = field(default_factory=set)
    distinct: int = 0
    stamp: list[tuple[int, int]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many rows the data set has."""
        return len(self.keys) // (2 * KEY_BYTES)

    def key(self, row: int, side: int) -> bytes:
        """Return the key of an answer."""
        start = (2 * row + side) * KEY_BYTES
        return bytes(self.keys[start : start + KEY_BYTES])


def take_survey(
    source: Source, scorer: Scorer, pictures: Pictures, cache: Cache, overwrite: bool, by: str | None = None
) -> Survey:
    """Read all rows once, and look up the scores that there are.

    Raises:
        DataError: there are scores already, images that the scorer cannot look at, or no column `by`.
    """
    survey, seen, name, named = Survey(stamp=stamp(source)), set(), scorer_key(scorer), by is None
    for number, value in enumerate(source.values("reading")):
        try:
            row = _checked(value, number, source, overwrite)
            named = named or by in row
            pair = read_pair(row, source)
            check_readable(pair, source)
            if pair.images and not scorer.reads_images:
                raise refuse_images(number)
            images = [pictures.digest(image) for image in pair.images]
        except (RowError, ImageError) as error:
            survey.bad += 1
            where = getattr(error, "column", source.columns.get("images", "images"))
            if len(survey.examples) < EXAMPLES:
                survey.examples.append(f"row {number}, {where}: {error}")
            survey.keys += 2 * NO_KEY
            continue
        for answer in (pair.chosen, pair.rejected):
            key = request_key(name, pair, answer, images)
            survey.keys += key
            if key not in seen:
                seen.add(key)
                if cache.get(key) is None:
                    survey.todo.add(key)
    survey.distinct = len(seen)
    if not survey.rows:
        raise DataError(f"{source.name} has no rows.")
    if not named:
        raise DataError(f'{source.name} has no column "{by}"; --by names a column of the rows.')
    return survey


def _checked(value: Any, number: int, source: Source, overwrite: bool) -> dict[str, Any]:
    if isinstance(value, Broken):
        raise RowError("the whole row", value.reason)
    if not isinstance(value, dict):
        raise RowError("the whole row", "not an object with columns")
    present = [source.columns[side] for side in SIDES if value.get(source.columns[side]) is not None]
    if present and not overwrite:
        raise DataError(f'row {number} (the first is 0) has "{present[0]}" already. To replace scores: --overwrite')
    return value


def stamp(source: Source) -> list[tuple[int, int]]:
    """Return what changes when a file does."""
    return [(status.st_size, status.st_mtime_ns) for status in (file.stat() for file in source.files)]
