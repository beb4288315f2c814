"""Tokenising in parts, of which each that is done is kept: a run that was interrupted goes on with the others.

`datasets` keeps what `map` has made in its cache, under a name that follows from the rows, the function and its
options, but only once all rows are done. So upstream's own `map` is called for a thousand or more rows at a time.
"""

import functools
import inspect
import math
import os
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets
from datasets.fingerprint import Hasher

from .... import data as upstream
from ..proxy import Proxy


MOST_PARTS = 16
LEAST_ROWS = 1000  # that each process gets of a part: starting them takes a second or two
DECIDING = ("transformers", "tokenizers", "pillow")  # packages that make the tokens, beside these sources
SOURCES = (Path(__file__).parent, Path(inspect.getfile(upstream)).parent)
MEDIA = ("_images", "_videos", "_audios")  # columns of upstream's that name files


def in_parts(preprocess: Callable) -> Callable:
    """Wrap upstream's function that tokenises a data set by its `map`."""

    def preprocessed(dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return preprocess(_InParts(dataset) if isinstance(dataset, Dataset) else dataset, *args, **kwargs)

    return preprocessed


class _InParts(Proxy):
    """A data set that is mapped part by part."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._original)

    def map(self, function: Callable, num_proc: int | None = None, desc: str = "", **options: Any) -> Dataset:
        rows = self._original
        at_once = max(LEAST_ROWS * (num_proc or 1), math.ceil(len(rows) / MOST_PARTS))
        # Before its first use, as a function that remembers rows would have another name afterwards.
        name = Hasher.hash([function, options, _deciding()])
        parts = [rows.select(range(start, min(start + at_once, len(rows)))) for start in range(0, len(rows), at_once)]
        done = []
        for number, part in enumerate(parts, 1):
            what = f"{desc}, part {number} of {len(parts)}" if len(parts) > 1 else desc
            kept_as = Hasher.hash([name, num_proc, part._fingerprint, _stamps(part)])
            done.append(part.map(function, num_proc=num_proc, desc=what, new_fingerprint=kept_as, **options))
        return concatenate_datasets(done)


@functools.cache
def _deciding() -> list[Any]:
    """Give what makes the tokens: versions, and sources, as `datasets` knows functions of modules by name only."""
    files = sorted(file for folder in SOURCES for file in folder.rglob("*.py"))
    return [*map(version, DECIDING), *(file.read_bytes() for file in files)]


def _stamps(rows: Dataset) -> list[tuple[int, int] | None]:
    """Say when files that rows name were changed, and how large they are: an image's size decides about its tokens."""
    columns = (rows[name] for name in MEDIA if name in rows.column_names)
    return [_stamp(media) for column in columns for row in column for media in row or () if isinstance(media, str)]


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None  # whoever reads it says so
    return status.st_mtime_ns, status.st_size
