"""Tokenising in parts, of which each that is done is kept: a run that was interrupted goes on with the others.

`datasets` keeps what `map` has made in its cache, under a name that follows from the rows, the function and its
options, but only once all rows are done. So upstream's own `map` is called for a thousand or more rows at a time.
"""

import math
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

from datasets import Dataset, concatenate_datasets
from datasets.fingerprint import Hasher

from ..proxy import Proxy


MOST_PARTS = 16
LEAST_ROWS = 1000  # that each process gets of a part: starting them takes a second or two
DECIDING = ("llamafactory", "transformers", "tokenizers", "pillow")  # packages that make the tokens


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
        name = Hasher.hash([function, options, {package: version(package) for package in DECIDING}])
        parts = [rows.select(range(start, min(start + at_once, len(rows)))) for start in range(0, len(rows), at_once)]
        done = []
        for number, part in enumerate(parts, 1):
            what = f"{desc}, part {number} of {len(parts)}" if len(parts) > 1 else desc
            kept_as = Hasher.hash([name, num_proc, part._fingerprint])
            done.append(part.map(function, num_proc=num_proc, desc=what, new_fingerprint=kept_as, **options))
        return concatenate_datasets(done)
