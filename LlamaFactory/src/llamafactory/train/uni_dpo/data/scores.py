"""Reading scores, and saying exactly which one is wrong.

Knows `datasets`, but nothing of LlamaFactory: a data set's description (`attr`) is anything with the source columns
`score_chosen` and `score_rejected`, the option that needs them, `needed_by`, and a readable `repr`.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from ..errors import UniDPOError


SIDES = ("score_chosen", "score_rejected")

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


def read_score(example: Mapping[str, Any], attr: Any, side: str, row: int, file: str = "") -> float:
    """Read one score as a finite float; numbers and numeric strings are accepted.

    Args:
        example: one row of the data set.
        attr: its description.
        side: which of `SIDES`.
        row: its number, for the message; `NO_ROW` in a stream.
        file: where rows are counted from, if not from the start of the data set.

    Raises:
        UniDPOError: the score is missing, empty, not a number, or not finite in float32.
    """
    column = getattr(attr, side)
    value = example.get(column)
    try:
        score = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    if abs(score) <= torch.finfo(torch.float32).max:  # false for NaN
        return score
    where = _place(row, file) if row != NO_ROW else f"a row that reads {_excerpt(example)}"
    what = "there is no number" if value is None else f"{value!r} is not a finite number"  # NaN in JSON loads so
    raise UniDPOError(
        f'Data set "{attr!r}", {where}, column "{column}": {what}, and `{attr.needed_by}` needs a score for both '
        "answers of every pair. Correct or remove the row."
    )


def check_tokenized(
    dataset_module: Mapping[str, Any], tokenized_path: str | None, wanted: Iterable[str], needed_by: str
) -> None:
    """Refuse a `tokenized_path` that was made without scores.

    Args:
        dataset_module: what upstream's `get_dataset` returns.
        tokenized_path: the option of that name.
        wanted: columns that every split needs.
        needed_by: the option that needs scores.

    Raises:
        UniDPOError: a split lacks one of them.
    """
    if tokenized_path is None:
        return
    for name, split in dataset_module.items():
        for dataset in split.values() if isinstance(split, Mapping) else [split]:
            columns = dataset.column_names or list(next(iter(dataset)))
            if not set(wanted) <= set(columns):
                raise UniDPOError(
                    f"`tokenized_path: {tokenized_path}` has no scores in its {name}: it was tokenised for "
                    f"another loss. Give a path of its own to `{needed_by}`, and it is tokenised anew."
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
        for side in SIDES:
            _explain_column(examples, attr, side, file, error)


def _explain_column(examples: list[Any], attr: Any, side: str, file: str, error: Exception) -> None:
    column = getattr(attr, side)
    first: dict[bool, int] = {}  # whether a score is text, and the first row where it is
    for row, example in enumerate(examples):
        if isinstance(example, dict) and column in example:
            read_score(example, attr, side, row, file)
            first.setdefault(isinstance(example[column], str), row)
    if len(first) == 2:
        raise UniDPOError(
            f'Data set "{attr!r}", {_place(first[True], file)}, column "{column}": text, while row {first[False]} has '
            "a number. Write all scores of the file in one way, best as numbers."
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


def _missing_column(attr: Any, side: str, columns: Iterable[str]) -> str:
    return (
        f'Data set "{attr!r}" has no column "{getattr(attr, side)}", which `{attr.needed_by}` needs; it has '
        f"{', '.join(columns)}. If the score has another name, say so in its entry of dataset_info.json: "
        f'"columns": {{"{side}": "<name>", ...}}.'
    )


def _excerpt(example: Mapping[str, Any], length: int = 120) -> str:
    text = str(dict(example))
    return text if len(text) <= length else text[:length] + " ..."
