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
    """Numbers of all usable rows.

    `pairs` is an array with a record for each, in their order: "chosen" and "rejected" (scores, NaN where there is
    none), "margin", "chosen_length" and "rejected_length", and the number of its "subset" in `subsets`. `counts` says
    how many rows are "unusable", have "several" images or are "without" one.
    """

    name: str  # of the data set
    by: str  # what subsets are made by, in words
    unit: str  # what lengths count: "characters" or "tokens"
    pairs: np.ndarray
    subsets: list[str]
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
    """
    tokenizer = _load_tokenizer(model) if model else None
    columns = {side: array("d") for side in SIDES} | {f"{side}_length": array("l") for side in SIDES}
    subset, names, counts, problems, sample = array("H"), {}, Counter(), [], Sample()
    usable = _usable(source, counts, problems)
    while batch := list(islice(usable, TOGETHER)):
        for row, pair in batch:
            counts["named"] += by in row
            name = _name(row.get(by)) if by else image_folder(pair.images)
            name = name if name in names or len(names) < MOST_SUBSETS else OTHERS
            subset.append(names.setdefault(name, len(names)))
            counts["without"] += not pair.images
            counts["several"] += len(pair.images) > 1
            for image in pair.images if with_images else ():
                sample.offer(image, source)
        for side in SIDES:
            columns[side].extend(_score(row, source, side) for row, _ in batch)
            texts = [getattr(pair, side) for _, pair in batch]
            tokens = tokenizer(texts, add_special_tokens=False)["input_ids"] if tokenizer else texts
            columns[f"{side}_length"].extend(map(len, tokens))
    if not subset:
        why = f" The first problem: {problems[0]}." if problems else ""
        raise DataError(
            f"{source.name} has {counts['unusable']} rows, none with a pair.{why} Is it in another shape? "
            "`data.py convert` writes pairs from many."
        )
    if by and not counts["named"]:
        raise DataError(f'{source.name} has no column "{by}"; --by names a column of the rows.')
    words = (f'column "{by}"' if by else "folder of the first image", "tokens" if model else "characters")
    found = {name: np.frombuffer(kept, kept.typecode) for name, kept in (columns | {"subset": subset}).items()}
    pairs = as_records(found | {"margin": found["chosen"] - found["rejected"]})
    return Gathered(source.name, *words, pairs, list(names), sample, counts, problems[0] if problems else "")


def as_records(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Return columns as one array, from which both columns and rows can be taken."""
    return np.rec.fromarrays(list(columns.values()), names=list(columns))


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


def _usable(source: Source, counts: Counter[str], problems: list[str]) -> Iterator[tuple[dict[str, Any], Pair]]:
    """Yield rows with their pairs; count the others, and keep what is wrong with the first."""
    for number, row in enumerate(source.values("Reading rows")):
        try:
            yield row, read_pair(row, source)
        except RowError as error:
            counts["unusable"] += 1
            if not problems:
                problems.append(f"{place(number)}, {error.where}: {error}")


def _score(row: dict[str, Any], source: Source, side: str) -> float:
    try:
        return read_score(row, source, f"score_{side}")
    except RowError:
        return np.nan


def _name(value: Any) -> str:
    return "(none)" if value is None or value == "" else clean(str(value)[:LONGEST_NAME])


def _load_tokenizer(model: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"--model {model}: no tokenizer could be loaded ({reason}).") from error
