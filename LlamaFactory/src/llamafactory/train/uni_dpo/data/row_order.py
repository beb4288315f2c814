"""Which pairs a step takes, in words that are kept with a checkpoint and compared when a run goes on."""

import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from ..objective.pairs import SIDES, WEIGHT
from .columns import undecoded


TOKENS = ("chosen_input_ids", "chosen_labels", "rejected_input_ids", "rejected_labels")
MEDIA = ("images", "videos", "audios")
ROWS_AT_ONCE = 1000


def row_order(dataset: Any, pairs_a_step: int, seed: int) -> dict[str, Any]:
    """Describe which pairs each step takes; of a stream, which is not read twice, not the rows themselves."""
    order = {"pairs a step": pairs_a_step, "seed of the order": seed}
    if isinstance(dataset, Dataset):
        order |= {"rows": len(dataset), "digest of the rows": digest_of(dataset)}
    return order


def digest_of(dataset: Dataset) -> str:
    """Digest what training sees of the rows, in their order: tokens, scores, weights, and media by name and size.

    Media count by the names of their files, so that data may move, and the whole takes some seconds for 100,000 rows.
    """
    digest = hashlib.blake2b(digest_size=16)
    columns = [name for name in (*TOKENS, *SIDES, WEIGHT, *MEDIA) if name in dataset.column_names]
    for name in MEDIA:
        dataset = undecoded(dataset, name) if name in columns else dataset
    for batch in dataset.select_columns(columns).with_format("arrow").iter(ROWS_AT_ONCE):
        for name in columns:
            column = batch[name].combine_chunks()
            if name in MEDIA:
                digest.update(json.dumps([list(_names(row)) for row in column.to_pylist()]).encode())
            else:
                for values in _numbers(column):
                    digest.update(np.ascontiguousarray(values))
    return digest.hexdigest()


def _numbers(column: pa.Array) -> Iterator[np.ndarray]:
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        yield column.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
        column = column.flatten()
    numbers = column.to_numpy(zero_copy_only=False)
    yield numbers.astype(np.float64 if numbers.dtype.kind == "f" else np.int64)


def _names(items: Any) -> Iterator[Any]:
    """Name the media of a row: files by name and size, bytes by size, anything else by itself."""
    for item in items or []:
        path = item.get("path") if isinstance(item, dict) and item.get("bytes") is None else item
        if isinstance(path, str) and os.path.isfile(path):
            yield [os.path.basename(path), os.path.getsize(path)]
        elif isinstance(item, dict) and item.get("bytes") is not None:
            yield len(item["bytes"])
        else:
            yield str(item)
