"""Which file holds the pairs, and which of its columns are what: a data set as LlamaFactory knows it.

A data set is named the way training names it (an entry of `dataset_info.json`), or is a file with the columns of the
published data: `instruction`, `chosen`, `rejected`, `score_chosen`, `score_rejected`, `images`.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .descriptions import ELSEWHERE, described, entry_of
from .errors import DataError
from .rows import READ, read_values, require_file


_SAME = "history system tools chosen rejected images videos audios score_chosen score_rejected weight"
COLUMNS = {"prompt": "instruction", "query": "input"} | {name: name for name in _SAME.split()}
TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}


@dataclass(frozen=True)
class Source:
    """A data set.

    Attributes:
        name: how messages call it.
        files: its files; rows are counted through all of them.
        columns: what a column is for, to its name in the file. A plain file has all of `COLUMNS`, an entry of
            `dataset_info.json` those it names, and the columns of scores and weights in any case.
        media_dir: the folder that relative image paths start from.
        formatting: one of `descriptions.FORMATS`.
        tags: for conversations, LlamaFactory's names of roles and fields.
        described: whether `dataset_info.json` describes it; if not, absent columns are not an error.
    """

    name: str
    files: tuple[Path, ...]
    columns: dict[str, str]
    media_dir: Path
    formatting: str = "alpaca"
    tags: dict[str, str | None] = field(default_factory=lambda: dict(TAGS))
    described: bool = False

    def values(self, progress: str = "") -> Iterator[Any]:
        """Yield what stands at the place of every row, as `rows.read_values` does."""
        for file in self.files:
            yield from read_values(file, progress)

    def column(self, row: dict[str, Any], use: str) -> Any:
        """Return what a row has in the column for `use`, None if there is none."""
        return row.get(self.columns.get(use))

    def find_image(self, image: str) -> Path:
        """Return where training looks for an image."""
        return Path(find_media(image, str(self.media_dir)))


def find_media(path: str, media_dir: str) -> str:
    """Return where training looks for a file: in `media_dir` if it is there, else where its path says.

    Where training would find neither, it is what stands in `media_dir`, to say what is wrong with that.
    """
    inside = os.path.join(media_dir, path)
    no_file_but_there = os.path.lexists(inside) and not os.path.lexists(path)
    return inside if os.path.isfile(inside) or no_file_but_there else path


def listed(media: Any) -> list[Any]:
    """Return what stands in a column of media as a list: it may be one thing, or nothing."""
    return media if isinstance(media, list) else [] if media is None else [media]


def open_source(name: str, dataset_dir: Path | None = None, media_dir: Path | None = None) -> Source:
    """Find a data set by the path of a file, or by its name in the `dataset_info.json` of `dataset_dir`.

    Args:
        name: either of the two; with `dataset_dir`, a name that it describes wins over a path.
        dataset_dir: the folder of `dataset_info.json`; None looks for files only.
        media_dir: where relative image paths start, as LlamaFactory's option of that name; if None, `dataset_dir`,
            or else the folder of the file.
    """
    entries = described(dataset_dir) if dataset_dir else {}
    if name in entries:
        return _from_entry(name, dataset_dir, media_dir or dataset_dir)
    path = Path(name)
    if path.suffix.lower() in READ and path.is_file():
        return Source(path.name, (path,), dict(COLUMNS), media_dir or path.parent)
    if dataset_dir:
        entry_of(name, dataset_dir)  # says what there is instead
    if not path.suffix:
        raise DataError(f'no file "{name}". If it is the name of a data set, add --dataset-dir FOLDER')
    require_file(path)
    raise DataError(f"{path} is not a file")


def _from_entry(name: str, folder: Path, media_dir: Path) -> Source:
    entry, where = entry_of(name, folder), f'{folder / "dataset_info.json"}, data set "{name}"'
    if any(key in entry for key in ELSEWHERE):
        raise DataError(f'{where}: only data sets with a "file_name" can be read here. Download it first.')
    if not entry.get("ranking"):
        raise DataError(f'{where}: preference pairs need "ranking": true, or training takes them for single answers.')
    # What upstream assumes where an entry has no columns; those of scores and weights are the overlay's.
    columns = {name: name for name in ("score_chosen", "score_rejected", "weight")}
    assumed = {"prompt": "instruction", "query": "input", "messages": "conversations"}
    columns |= {use: column for use, column in entry.get("columns", assumed).items() if column}
    # Where an entry has tags, upstream forgets those that it assumes.
    tags = {use: entry["tags"].get(use) for use in TAGS} if "tags" in entry else dict(TAGS)
    path = folder / entry["file_name"]
    files = tuple(sorted(path.iterdir())) if os.path.isdir(path) else (path,)
    if not files or not all(map(os.path.isfile, files)):
        raise DataError(f"{where}: there is no file {path}")
    return Source(name, files, columns, media_dir, entry.get("formatting", "alpaca"), tags, True)
