"""The pass over the rows: what is kept of each are its scores, the lengths of its answers and its subset."""

import re
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import DataError, place
from ..pairs import Pair, RowError, read_pair, read_score
from ..rows import Broken
from ..sources import Source
from .images import Sample
from .wording import clean


SIDES = ("chosen", "rejected")
MOST_SUBSETS = 1000  # names kept; what comes after them is counted as OTHERS
LONGEST_NAME = 40  # characters
OTHERS = "(others)"
NOTHING = "(none)"

Lengths = Callable[[list[str]], list[int]]


@dataclass
class Gathered:
    """Numbers of all usable rows, in their order; everything of shape (rows,).

    Attributes:
        source: the data set.
        by: what subsets are made by, in words.
        unit: what lengths count: "characters" or "tokens".
        scores: "chosen" and "rejected" to scores, NaN where there is none.
        lengths: the same for the lengths of answers.
        subset: the number of each row's subset in `names`.
        names: names of the subsets.
        images: a sample of the images.
        several: rows with more than one image.
        without: rows with no image.
        unusable: how many rows hold no pair.
        first_unusable: what is wrong with the first of them.
        unscored: how many rows lack a finite score, for either side.
    """

    source: Source
    by: str
    unit: str
    scores: dict[str, array] = field(default_factory=lambda: {side: array("d") for side in SIDES})
    lengths: dict[str, array] = field(default_factory=lambda: {side: array("l") for side in SIDES})
    subset: array = field(default_factory=lambda: array("H"))
    names: list[str] = field(default_factory=list)
    images: Sample = field(default_factory=Sample)
    several: int = 0
    without: int = 0
    unusable: int = 0
    first_unusable: str = ""
    unscored: Counter = field(default_factory=Counter)

    def numbers(self, of: str) -> dict[str, np.ndarray]:
        """Return "scores" or "lengths" as arrays that share the memory."""
        return {side: np.frombuffer(kept, dtype=kept.typecode) for side, kept in getattr(self, of).items()}


def gather(source: Source, by: str | None = None, tokenizer: Any = None, with_images: bool = True) -> Gathered:
    """Read a data set once.

    Args:
        source: the data set.
        by: the column whose values are the subsets; None for the part of MM-RLHF that the first image is from.
        tokenizer: counts tokens of answers; None counts characters.
        with_images: whether to remember images to be looked at.

    Raises:
        DataError: there is no usable row, or no row has the column `by`.
    """
    found = Gathered(source, f'column "{by}"' if by else "folder of the first image", "characters")
    lengths = _characters
    if tokenizer is not None:
        found.unit, lengths = "tokens", _tokens(tokenizer)
    numbers: dict[str, int] = {}
    waiting: list[Pair] = []
    named = False
    for number, row in enumerate(source.values("Reading rows")):
        try:
            pair = _pair(row, source)
        except RowError as error:
            found.unusable += 1
            found.first_unusable = found.first_unusable or f'{place(number)}, column "{error.column}": {error}'
            continue
        named = named or by in row
        _add_scores(found, row, source)
        name = _value_name(row.get(by)) if by else image_folder(pair.images)
        found.subset.append(_number(name, numbers))
        _add_images(found, pair, with_images)
        waiting.append(pair)
        if len(waiting) == 500:  # tokenizers are fast in batches
            _add_lengths(found, waiting, lengths)
            waiting.clear()
    _add_lengths(found, waiting, lengths)
    found.names = list(numbers)
    _require(found, by, named)
    return found


def image_folder(images: tuple[Any, ...]) -> str:
    """Name the part of MM-RLHF an image is from, or else the folder a relative path starts with."""
    if not images:
        return "(no image)"
    image = images[0].get("path") if isinstance(images[0], dict) else images[0]
    parts = re.split(r"[\\/]+", image) if isinstance(image, str) else []
    if "MM-RLHF" in parts[:-2]:
        return clean(parts[parts.index("MM-RLHF") + 1][:LONGEST_NAME])
    relative = len(parts) > 1 and parts[0] not in ("", ".", "..") and not parts[0].endswith(":")
    return clean(parts[0][:LONGEST_NAME]) if relative else "(other images)"


def _pair(row: Any, source: Source) -> Pair:
    if isinstance(row, Broken):
        raise RowError("-", row.reason)
    if not isinstance(row, dict):
        raise RowError("-", f"{type(row).__name__} where an object with columns is expected")
    return read_pair(row, source)


def _require(found: Gathered, by: str | None, named: bool) -> None:
    if not found.subset:
        why = f" The first problem: {found.first_unusable}." if found.unusable else ""
        raise DataError(
            f"{found.source.name} has {found.unusable} rows, none with a pair.{why} Is it in another shape? "
            "`data.py convert` writes pairs from many."
        )
    if by and not named:
        raise DataError(f'{found.source.name} has no column "{by}"; --by names a column of the rows.')


def _add_scores(found: Gathered, row: dict[str, Any], source: Source) -> None:
    complete = True
    for side in SIDES:
        try:
            found.scores[side].append(read_score(row, source, f"score_{side}"))
        except RowError:
            found.scores[side].append(np.nan)
            found.unscored[side] += 1
            complete = False
    found.unscored["either"] += not complete


def _add_images(found: Gathered, pair: Pair, with_images: bool) -> None:
    found.without += not pair.images
    found.several += len(pair.images) > 1
    for image in pair.images if with_images else ():
        found.images.offer(image, found.source)


def _add_lengths(found: Gathered, pairs: list[Pair], lengths: Lengths) -> None:
    if pairs:
        for side in SIDES:
            found.lengths[side].extend(lengths([getattr(pair, side) for pair in pairs]))


def _characters(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


def _tokens(tokenizer: Any) -> Lengths:
    return lambda texts: [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def _value_name(value: Any) -> str:
    return NOTHING if value is None or value == "" else clean(str(value)[:LONGEST_NAME])


def _number(name: str, numbers: dict[str, int]) -> int:
    if name not in numbers and len(numbers) >= MOST_SUBSETS:
        name = OTHERS
    return numbers.setdefault(name, len(numbers))
