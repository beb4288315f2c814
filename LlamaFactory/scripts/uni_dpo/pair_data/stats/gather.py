"""The pass over the rows: what is kept of each are its scores, the lengths of its answers and its subset."""

import re
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
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
TOGETHER = 500  # rows: tokenizers are fast in batches


@dataclass
class Gathered:
    """Numbers of all usable rows, in their order.

    `counts` says how many rows are "unusable", have "several" images or are "without" one, and lack a finite score on
    the "chosen", the "rejected" or "either" side.
    """

    name: str  # of the data set
    by: str  # what subsets are made by, in words
    unit: str  # what lengths count: "characters" or "tokens"
    scores: dict[str, np.ndarray]  # "chosen" and "rejected" to scores, shape (rows,), NaN where there is none
    lengths: dict[str, np.ndarray]  # the same for the lengths of answers
    subset: np.ndarray  # the number of each row's subset in `names`, shape (rows,)
    names: list[str]
    images: Sample
    counts: Counter[str]
    first_unusable: str  # what is wrong with the first row that holds no pair


def gather(source: Source, by: str | None = None, model: str | None = None, with_images: bool = True) -> Gathered:
    """Read a data set once.

    Args:
        source: the data set.
        by: the column whose values are the subsets; None for the part of MM-RLHF that the first image is from.
        model: folder or name of a model whose tokenizer counts lengths; None counts characters.
        with_images: whether to remember images to be looked at.

    Raises:
        DataError: there is no usable row, no row has the column `by`, or there is no such model.
    """
    tokenizer = _load_tokenizer(model) if model else None
    scores, lengths = ({side: array(kind) for side in SIDES} for kind in "dl")
    subset, names, counts, problems, sample = array("H"), {}, Counter(), [], Sample()
    pairs = _pairs(source, counts, problems)
    while batch := list(islice(pairs, TOGETHER)):
        for row, pair in batch:
            _add_scores(scores, counts, row, source)
            counts["named"] += by in row
            name = _name(row.get(by)) if by else image_folder(pair.images)
            name = name if name in names or len(names) < MOST_SUBSETS else OTHERS
            subset.append(names.setdefault(name, len(names)))
            counts["without"] += not pair.images
            counts["several"] += len(pair.images) > 1
            for image in pair.images if with_images else ():
                sample.offer(image, source)
        for side, kept in lengths.items():
            texts = [getattr(pair, side) for _, pair in batch]
            kept.extend(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"] if tokenizer else texts))
    if not subset:
        why = f" The first problem: {problems[0]}." if problems else ""
        raise DataError(
            f"{source.name} has {counts['unusable']} rows, none with a pair.{why} Is it in another shape? "
            "`data.py convert` writes pairs from many."
        )
    if by and not counts["named"]:
        raise DataError(f'{source.name} has no column "{by}"; --by names a column of the rows.')
    words = (f'column "{by}"' if by else "folder of the first image", "tokens" if model else "characters")
    found = ({side: _as_numpy(kept) for side, kept in numbers.items()} for numbers in (scores, lengths))
    first = problems[0] if problems else ""
    return Gathered(source.name, *words, *found, _as_numpy(subset), list(names), sample, counts, first)


def image_folder(images: tuple[Any, ...]) -> str:
    """Name the part of MM-RLHF an image is from, or else the folder a relative path starts with."""
    if not images:
        return "(no image)"
    image = images[0].get("path") if isinstance(images[0], dict) else images[0]
    parts = re.split(r"[\\/]+", image) if isinstance(image, str) else []
    if "MM-RLHF" in parts[:-2]:
        return _name(parts[parts.index("MM-RLHF") + 1])
    relative = len(parts) > 1 and parts[0] not in ("", ".", "..") and not parts[0].endswith(":")
    return _name(parts[0]) if relative else "(other images)"


def _pairs(source: Source, counts: Counter[str], problems: list[str]) -> Iterator[tuple[dict[str, Any], Pair]]:
    """Yield rows with their pairs; count the others, and keep what is wrong with the first."""
    for number, row in enumerate(source.values("Reading rows")):
        try:
            if isinstance(row, Broken):
                raise RowError("-", row.reason)
            if not isinstance(row, dict):
                raise RowError("-", f"{type(row).__name__} where an object with columns is expected")
            yield row, read_pair(row, source)
        except RowError as error:
            counts["unusable"] += 1
            if not problems:
                problems.append(f'{place(number)}, column "{error.column}": {error}')


def _add_scores(scores: dict[str, array], counts: Counter[str], row: dict[str, Any], source: Source) -> None:
    lacking = 0
    for side, kept in scores.items():
        try:
            kept.append(read_score(row, source, f"score_{side}"))
        except RowError:
            kept.append(np.nan)
            counts[side] += 1
            lacking += 1
    counts["either"] += bool(lacking)


def _as_numpy(kept: array) -> np.ndarray:
    return np.frombuffer(kept, dtype=kept.typecode)


def _name(value: Any) -> str:
    return "(none)" if value is None or value == "" else clean(str(value)[:LONGEST_NAME])


def _load_tokenizer(model: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"--model {model}: no tokenizer could be loaded ({reason}).") from error
