"""Reading scores, and saying exactly which one is wrong.

Knows `datasets`, but nothing of LlamaFactory: a data set's description (`attr`) is anything with the source columns
`score_chosen` and `score_rejected` and a readable `repr`.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from .errors import UniDPOError


SIDES = ("score_chosen", "score_rejected")

# Added to map-style data sets so that messages and the pair log can name rows; a stream has no row numbers.
ROW_COLUMN = "_uni_dpo_row"
NO_ROW = -1


def number_rows(dataset: Any) -> tuple[Any, list[int]]:
    """Add the row number in the source file to a `datasets.Dataset`, also where rows were sampled before."""
    sampled = dataset._indices
    rows = list(range(len(dataset))) if sampled is None else sampled.column(0).to_pylist()
    return dataset.add_column(ROW_COLUMN, rows), rows


def check_scores(dataset: Any, attr: Any, rows: Iterable[int]) -> None:
    """Read every score once, before anything is tokenised.

    Args:
        dataset: a `datasets.Dataset` or `IterableDataset` as it was loaded.
        attr: its description.
        rows: the row numbers of the data set's file, in the order of `dataset`.

    Raises:
        UniDPOError: a score column is missing or a score is not a finite number.
    """
    columns = dataset.column_names or list(next(iter(dataset)))
    for side in SIDES:
        if getattr(attr, side) not in columns:
            raise UniDPOError(_missing_column(attr, side, columns))
    scores = dataset.select_columns(list({getattr(attr, side) for side in SIDES}))
    for row, example in zip(rows, _examples(scores), strict=False):
        for side in SIDES:
            read_score(example, attr, side, row)


def read_score(example: Mapping[str, Any], attr: Any, side: str, row: int) -> float:
    """Read one score as a finite float; numbers and numeric strings are accepted.

    Raises:
        UniDPOError: the score is missing, empty, not a number, or not finite in float32.
    """
    column = getattr(attr, side)
    value = example.get(column)
    try:
        score = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        score = math.nan
    if abs(score) <= torch.finfo(torch.float32).max:  # false for NaN
        return score
    where = f"row {row} (the first is 0)" if row != NO_ROW else f"a row that reads {_excerpt(example)}"
    raise UniDPOError(
        f'Data set "{attr!r}", {where}, column "{column}": {value!r} is not a finite number, and '
        "`pref_loss: uni_dpo` needs a score for both answers of every pair. Correct or remove the row."
    )


def check_tokenized(dataset_module: Mapping[str, Any], tokenized_path: str | None) -> None:
    """Refuse a `tokenized_path` that was made without scores.

    Raises:
        UniDPOError: a split lacks a score column.
    """
    if tokenized_path is None:
        return
    for name, split in dataset_module.items():
        for dataset in split.values() if isinstance(split, Mapping) else [split]:
            columns = dataset.column_names or list(next(iter(dataset)))
            if not set(SIDES) <= set(columns):
                raise UniDPOError(
                    f"`tokenized_path: {tokenized_path}` has no scores in its {name}: it was tokenised for another "
                    "`pref_loss`. Give a path of its own to `pref_loss: uni_dpo`, and it is tokenised anew."
                )


def explain_load_failure(attr: Any, dataset_dir: Any, error: Exception) -> None:
    """Look for a wrong score in the JSON files of a data set that did not load; return if none is found.

    Arrow wants one type a column, so a single word among numbers fails the whole file with a message that names
    neither row nor column.

    Raises:
        UniDPOError: a score is wrong, or numbers and numeric strings are mixed.
    """
    if attr.load_from != "file" or not isinstance(dataset_dir, str):
        return
    path = os.path.join(dataset_dir, attr.dataset_name)
    for file in [os.path.join(path, name) for name in sorted(os.listdir(path))] if os.path.isdir(path) else [path]:
        try:
            examples = _read_json(file)
        except (OSError, ValueError):
            continue  # not JSON, or broken in another way: upstream's own error stands
        kinds: dict[tuple[str, bool], int] = {}
        for row, example in enumerate(examples):
            for side in SIDES:
                if isinstance(example, dict) and getattr(attr, side) in example:
                    read_score(example, attr, side, row)
                    kinds.setdefault((side, isinstance(example[getattr(attr, side)], str)), row)
        for side in SIDES:
            if (side, True) in kinds and (side, False) in kinds:
                raise UniDPOError(
                    f'Data set "{attr!r}", column "{getattr(attr, side)}": numbers and text are mixed (number in row '
                    f"{kinds[side, False]}, text in row {kinds[side, True]}). Write all scores as numbers."
                ) from error


def _read_json(file: str) -> list[Any]:
    with open(file, encoding="utf-8") as stream:
        text = stream.read()
    if text.lstrip().startswith("["):
        return json.loads(text)
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _examples(dataset: Any) -> Iterator[dict[str, Any]]:
    for batch in dataset.iter(batch_size=1000):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def _missing_column(attr: Any, side: str, columns: Iterable[str]) -> str:
    return (
        f'Data set "{attr!r}" has no column "{getattr(attr, side)}", which `pref_loss: uni_dpo` needs; it has '
        f"{', '.join(columns)}. If the score has another name, say so in its entry of dataset_info.json: "
        f'"columns": {{"{side}": "<name>", ...}}.'
    )


def _excerpt(example: Mapping[str, Any], length: int = 120) -> str:
    text = str(dict(example))
    return text if len(text) <= length else text[:length] + " ..."
