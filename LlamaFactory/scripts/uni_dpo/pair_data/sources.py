"""Which file holds the pairs, and which of its columns are what: a data set as LlamaFactory knows it.

A data set is named the way training names it (an entry of `dataset_info.json`), or is a file with the columns of the
published data: `instruction`, `chosen`, `rejected`, `score_chosen`, `score_rejected`, `images`.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import DataError
from .rows import READ, read_values, require_file


COLUMNS = {
    "prompt": "instruction",
    "query": "input",
    "history": "history",
    "system": "system",
    "tools": "tools",
    "chosen": "chosen",
    "rejected": "rejected",
    "images": "images",
    "videos": "videos",
    "audios": "audios",
    "score_chosen": "score_chosen",
    "score_rejected": "score_rejected",
}
TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
FORMATS = ("alpaca", "sharegpt", "openai")
ELSEWHERE = {"hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"}  # each wins over file_name


@dataclass(frozen=True)
class Source:
    """A data set.

    Attributes:
        name: how messages call it.
        files: its files; rows are counted through all of them.
        columns: what a column is for, to its name in the file. A plain file has all of `COLUMNS`, an entry of
            `dataset_info.json` those it names, and the score columns in any case.
        media_dir: the folder that relative image paths start from.
        formatting: one of `FORMATS`.
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
        """Return where training looks for an image: in `media_dir` if it is there, else where its path says."""
        inside = self.media_dir / image
        return inside if os.path.isfile(inside) else Path(image)


def open_source(name: str, dataset_dir: Path | None = None, media_dir: Path | None = None) -> Source:
    """Find a data set by the path of a file, or by its name in the `dataset_info.json` of `dataset_dir`.

    Args:
        name: either of the two; with `dataset_dir`, a name that it describes wins over a path.
        dataset_dir: the folder of `dataset_info.json`; None looks for files only.
        media_dir: where relative image paths start, as LlamaFactory's option of that name; if None, `dataset_dir`,
            or else the folder of the file.

    Raises:
        DataError: there is no such data set, or its description cannot be used.
    """
    described = _described(dataset_dir) if dataset_dir else {}
    if name in described:
        return _from_entry(name, described[name], dataset_dir, media_dir or dataset_dir)
    path = Path(name)
    if path.suffix.lower() in READ and path.is_file():
        return Source(path.name, (path,), dict(COLUMNS), media_dir or path.parent)
    if dataset_dir:
        known = ", ".join(described) or "nothing"
        raise DataError(f'no data set "{name}" in {dataset_dir / "dataset_info.json"}, which describes {known}')
    if not path.suffix:
        raise DataError(f"{name} is neither a {', '.join(READ)} file nor, without --dataset-dir, a data set's name")
    require_file(path)
    raise DataError(f"{path} is not a file")


def _described(folder: Path) -> dict[str, Any]:
    path = folder / "dataset_info.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"cannot read {path} ({error}). --dataset-dir is the folder with dataset_info.json."
        ) from error
    if not isinstance(described, dict):
        raise DataError(f"{path} must be an object of data sets.")
    return described


def _from_entry(name: str, entry: dict[str, Any], folder: Path, media_dir: Path) -> Source:
    where = f'{folder / "dataset_info.json"}, data set "{name}"'
    if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str) or ELSEWHERE & entry.keys():
        raise DataError(f'{where}: only data sets with a "file_name" can be read here. Download it first.')
    for part in ("columns", "tags"):
        names = entry.get(part, {})
        if not (isinstance(names, dict) and all(isinstance(name, str | None) for name in names.values())):
            raise DataError(f'{where}: "{part}" must be an object of texts.')
    if not entry.get("ranking"):
        raise DataError(f'{where}: preference pairs need "ranking": true, or training takes them for single answers.')
    formatting = entry.get("formatting", "alpaca")
    if formatting not in FORMATS:
        raise DataError(f'{where}: "formatting" is "{formatting}", and must be one of {", ".join(FORMATS)}.')
    # What upstream assumes where an entry has no columns; the score columns are the overlay's.
    assumed = {"prompt": "instruction", "query": "input", "messages": "conversations"}
    columns = assumed | {"score_chosen": "score_chosen", "score_rejected": "score_rejected"}
    if "columns" in entry:
        given = {use: column for use, column in entry["columns"].items() if column}
        columns = {use: column for use, column in columns.items() if use.startswith("score")} | given
    # Where an entry has tags, upstream forgets those that it assumes.
    tags = {use: entry["tags"].get(use) for use in TAGS} if "tags" in entry else dict(TAGS)
    return Source(name, _files(folder / entry["file_name"], where), columns, media_dir, formatting, tags, True)


def _files(path: Path, where: str) -> tuple[Path, ...]:
    files = tuple(sorted(path.iterdir())) if os.path.isdir(path) else (path,)
    if not files or not all(map(os.path.isfile, files)):
        raise DataError(f"{where}: there is no file {path}")
    return files
