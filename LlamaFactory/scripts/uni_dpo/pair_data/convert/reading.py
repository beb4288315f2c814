"""Opening sources: files by our own readers, everything else through `datasets`, all of it as streams."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import DataError
from ..rows import SUFFIXES, Broken, read_values


def read_source(source: str, split: str = "", config: str = "", progress: str = "") -> Iterator[Any]:
    """Yield what stands at the place of every row of a source, `Broken` for a row that cannot be read.

    Args:
        source: a file (`.json`, `.jsonl`, `.parquet`), a folder (of `save_to_disk`, or of files that `datasets` can
            load), or the id of a data set on the hub.
        split: which split of a folder or hub data set; if empty, the only one.
        config: which configuration of a hub data set; if empty, its default.
        progress: what to write beside a progress bar; empty for none.

    Raises:
        DataError: there is no such source, or the end of it is missing.
    """
    path = Path(source)
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        values = read_values(path, progress)
    else:
        values = _stream(source, split, config, progress)
    value = None
    for value in values:
        yield value
    if isinstance(value, Broken):
        raise DataError(f"{source} ends in something broken ({value.reason}). Download it again, or mend its end.")


def _stream(source: str, split: str, config: str, progress: str) -> Iterator[dict[str, Any]]:
    from datasets.exceptions import DatasetsError

    try:
        rows = _open(source, split, config)
        yield from tqdm(rows, desc=progress, unit="row", disable=not progress)
    except (DatasetsError, OSError, ValueError, EOFError) as error:
        if not Path(source).exists():
            known = f"neither a file or folder here nor a data set that the hub gives ({error})"
            raise DataError(f"{source} is {known}. Hub data sets need a network; see also --split.") from error
        raise DataError(f"{source} cannot be read: {error}") from error


def _open(source: str, split: str, config: str) -> Any:
    """Open a folder or hub data set as a stream whose images stay files."""
    from datasets import DatasetDict, IterableDatasetDict, load_dataset, load_from_disk

    path = Path(source)
    if path.is_dir() and any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        data = load_from_disk(source)
    else:
        data = load_dataset(source, config or None, streaming=True)
    if isinstance(data, (DatasetDict, IterableDatasetDict)):
        if not split and len(data) > 1 or split and split not in data:
            raise DataError(f"{source} has the splits {', '.join(data)}: choose one with --split.")
        data = data[split or next(iter(data))]
    elif split:
        raise DataError(f"{source} has no splits: leave --split out.")
    data = data if hasattr(data, "_ex_iterable") else data.to_iterable_dataset()
    return data.decode(False) if data.features else data
