"""Reading scores and weights of pairs, and saying exactly which one is wrong.

Knows `datasets`, but nothing of LlamaFactory: a data set's description (`attr`) is anything with `needed`, the names
of the numbers that a run needs, each with the option that needs it, with the source column of each under that name,
and with a readable `repr`.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from ..errors import UniDPOError
from ..objective.pairs import WEIGHT
from .columns import PLACE_DTYPES


# What a message says that an option needs.
SCORES_NEEDED, WEIGHTS_NEEDED = "a score for both answers of every pair", "a weight for every pair, zero or more"

# Added to map-style data sets so that messages and the pair log can name rows; a stream has no row numbers.
ROW_COLUMN = "_uni_dpo_row"
NO_ROW = -1


def number_rows(dataset: Any) -> tuple[Any, list[int]]:
    """Add the row number in the source file to a `datasets.Dataset`, also where rows were sampled before."""
    rows = row_numbers(dataset)
    return dataset.add_column(ROW_COLUMN, rows), rows


def row_numbers(dataset: Any) -> list[int]:
    """Return the number in the source file of every row of a `datasets.Dataset`."""
    sampled = dataset._indices
    return list(range(len(dataset))) if sampled is None else sampled.column(0).to_pylist()


def check_scores(dataset: Any, attr: Any, rows: Iterable[int]) -> None:
    """Read every score and weight once, before anything is tokenised.

    Args:
        dataset: a `datasets.Dataset` or `IterableDataset` as it was loaded.
        attr: its description.
        rows: the row numbers of the data set's file, in the order of `dataset`.

    Raises:
        UniDPOError: a column is missing, or a score or weight is not a finite number, or a weight is negative.
    """
    if not attr.needed:
        return
    columns = dataset.column_names or list(next(iter(dataset)))
    for name in attr.needed:
        if getattr(attr, name) not in columns:
            raise UniDPOError(_missing_column(attr, name, columns))
    numbers = dataset.select_columns(list({getattr(attr, name) for name in attr.needed}))
    for row, example in zip(rows, _examples(numbers), strict=False):
        for name in attr.needed:
            read_score(example, attr, name, row)


def read_score(example: Mapping[str, Any], attr: Any, name: str, row: int, file: str = "") -> float:
    """Read one score or weight as a finite float; numbers and numeric strings are accepted.

    Args:
        example: one row of the data set.
        attr: its description.
        name: which of `attr.needed`.
        row: its number, for the message; `NO_ROW` in a stream.
        file: where rows are counted from, if not from the start of the data set.

    Raises:
        UniDPOError: it is missing, empty, not a number, or not finite in float32, or it is a negative weight.
    """
    column = getattr(attr, name)
    value = example.get(column)
    try:
        score = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    finite = abs(score) <= torch.finfo(torch.float32).max  # false for NaN
    if finite and not (name == WEIGHT and score < 0):
        return score
    where = _place(row, file) if row != NO_ROW else f"a row that reads {_excerpt(example)}"
    what = f"{value!r} is negative" if finite else f"{value!r} is not a finite number"
    what = "there is no number" if value is None else what  # NaN in JSON loads so
    needed = WEIGHTS_NEEDED if name == WEIGHT else SCORES_NEEDED
    raise UniDPOError(
        f'Data set "{attr!r}", {where}, column "{column}": {what}, and `{attr.needed[name]}` needs {needed}. Correct '
        "or remove the row."
    )


def check_tokenized(dataset_module: Mapping[str, Any], tokenized_path: str | None, needed: Mapping[str, str]) -> None:
    """Refuse a `tokenized_path` that was made without scores, weights or row numbers.

    Args:
        dataset_module: what upstream's `get_dataset` returns.
        tokenized_path: the option of that name.
        needed: the numbers that every pair needs, each with the option that needs it.

    Raises:
        UniDPOError: a split lacks one of them.
    """
    if tokenized_path is None:
        return
    for name, split in dataset_module.items():
        for dataset in split.values() if isinstance(split, Mapping) else [split]:
            columns = dataset.column_names or list(next(iter(dataset)))
            wanted = dict.fromkeys(PLACE_DTYPES, next(iter(needed.values()), "uni_dpo_log_pairs: true")) | dict(needed)
            lacking = [column for column in reversed(wanted) if column not in columns]
            if lacking:
                what = lacking[0].partition("_")[0].replace("pair", "row number")
                raise UniDPOError(
                    f"`tokenized_path: {tokenized_path}` has no {what}s in its {name}: it was tokenised for another "
                    f"loss. Give a path of its own to `{wanted[lacking[0]]}`, and it is tokenised anew."
                )


def explain_load_failure(attr: Any, dataset_dir: Any, error: Exception) -> None:
    """Look for a wrong score in the JSON files of a data set that did not load; return if none is found.

    Arrow wants one type a column, so a single word among numbers fails the whole file with a message that names
    neither row nor column. In a folder of files rows are counted within each file.

    Raises:
        UniDPOError: a score is wrong, or numbers and numeric strings are mixed.
    """
    if attr.load_from != "file" or not isinstance(dataset_dir, str):
        return
    path = os.path.join(dataset_dir, attr.dataset_name)
    for file in sorted(os.listdir(path)) if os.path.isdir(path) else [""]:
        try:
            examples = _read_json(os.path.join(path, file) if file else path)
        except (OSError, ValueError):
            continue  # not JSON, or broken in another way: upstream's own error stands
        for name in attr.needed:
            _explain_column(examples, attr, name, file, error)


def _explain_column(examples: list[Any], attr: Any, name: str, file: str, error: Exception) -> None:
    column = getattr(attr, name)
    first: dict[bool, int] = {}  # whether a number is text, and the first row where it is
    for row, example in enumerate(examples):
        if isinstance(example, dict) and column in example:
            read_score(example, attr, name, row, file)
            first.setdefault(isinstance(example[column], str), row)
    if len(first) == 2:
        raise UniDPOError(
            f'Data set "{attr!r}", {_place(first[True], file)}, column "{column}": text, while row {first[False]} has '
            "a number. Write all of them in one way, best as numbers."
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


def _place(row: int, file: str) -> str:
    return f"{f'file {file}, ' if file else ''}row {row} (the first is 0)"


def _missing_column(attr: Any, name: str, columns: Iterable[str]) -> str:
    return (
        f'Data set "{attr!r}" has no column "{getattr(attr, name)}", which `{attr.needed[name]}` needs; it has '
        f"{', '.join(columns)}. If the {name.partition('_')[0]} has another name, say so in its entry of "
        f'dataset_info.json: "columns": {{"{name}": "<name>", ...}}.'
    )


def _excerpt(example: Mapping[str, Any], length: int = 120) -> str:
    text = str(dict(example))
    return text if len(text) <= length else text[:length] + " ..."
