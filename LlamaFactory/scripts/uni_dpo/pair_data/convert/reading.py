"""Opening sources: files by our own readers, everything else through `datasets`, all of it as streams."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import DataError
from ..rows import DELIMITERS, SUFFIXES, Broken, read_values


READ = (*SUFFIXES, *DELIMITERS)


def read_source(source: str, split: str = "", config: str = "") -> Iterator[Any]:
    """Yield what stands at the place of every row of a source, `Broken` for a row that cannot be read.

    Args:
        source: a file, with one of the endings `READ`, a folder (of `save_to_disk`, or of files that
            `datasets` can load), or the id of a data set on the hub.
        split: which split of a folder or hub data set; if empty, the only one.
        config: which configuration of a hub data set; if empty, its default.
    """
    path, progress = Path(source), f"reading {Path(source).name}"
    if os.path.isfile(path) and path.suffix.lower() not in READ:
        raise DataError(f"{path}: the name must end in {', '.join(READ)}, which says how it is read.")
    ours = path.suffix.lower() in READ and not os.path.isdir(path)
    value = None
    for value in read_values(path, progress) if ours else _stream(source, split, config, progress):
        yield value
    if isinstance(value, Broken):
        raise DataError(f"{source} ends in something broken ({value.reason}). Download it again, or mend its end.")


def _stream(source: str, split: str, config: str, progress: str) -> Iterator[dict[str, Any]]:
    from datasets.exceptions import DatasetsError

    try:
        yield from tqdm(_open(source, split, config), desc=progress, unit="row")
    except (DatasetsError, OSError, ValueError, EOFError) as error:
        if not os.path.exists(source):
            known = f"neither a file or folder here nor a data set that the hub gives ({error})"
            raise DataError(f"{source} is {known}. Hub data sets need a network; see also --split.") from error
        raise DataError(f"{source} cannot be read: {error}") from error


def _open(source: str, split: str, config: str) -> Any:
    """Open a folder or hub data set as a stream whose images stay files."""
    os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")  # or its makers hear of every file that is loaded
    from datasets import load_dataset, load_from_disk

    if any(os.path.isfile(Path(source) / name) for name in ("state.json", "dataset_dict.json")):
        data = load_from_disk(source)
    else:
        data = load_dataset(source, config or None, streaming=True)
    if isinstance(data, dict):  # of splits
        if not split and len(data) > 1 or split and split not in data:
            raise DataError(f"{source} has the splits {', '.join(data)}: choose one with --split.")
        data = data[split or next(iter(data))]
    elif split:
        raise DataError(f"{source} has no splits: leave --split out.")
    data = data if hasattr(data, "_ex_iterable") else data.to_iterable_dataset()
    return data.decode(False) if data.features else data
