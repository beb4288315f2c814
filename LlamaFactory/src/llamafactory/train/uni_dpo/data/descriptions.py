"""What upstream makes of a data set, and a message for every failure: which data set, which row, what is wrong.

Upstream reads descriptions and rows without looking, so that a misspelt column ends in a bare `KeyError`. Here the
description is looked at first, and whatever upstream still raises over a row is raised again with the row's place.
"""

import json
import os
from collections.abc import Iterable
from typing import Any

from ....extras.constants import DATA_CONFIG
from ..errors import UniDPOError, in_context


FORMATTINGS = ("alpaca", "sharegpt", "openai")
ELSEWHERE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")

# The columns that each formatting reads, by their names in `dataset_info.json`; all read those of `COMMON`.
COMMON = ("chosen", "rejected", "system", "tools", "images", "videos", "audios")
READ = {"alpaca": ("prompt", "query", "history"), "sharegpt": ("messages",), "openai": ("messages",)}


def check_entries(names: Iterable[str], dataset_dir: str | dict) -> None:
    """Refuse entries of `dataset_info.json` that upstream would stumble over.

    Args:
        names: the data sets'.
        dataset_dir: the option of that name: a folder, a description by itself, or something on a hub, which is not
            looked at.

    Raises:
        UniDPOError: an entry is missing or wrong.
    """
    described = dataset_dir
    if isinstance(dataset_dir, str):
        if dataset_dir == "ONLINE" or dataset_dir.startswith("REMOTE:"):
            return
        path = os.path.join(dataset_dir, DATA_CONFIG)
        with in_context(path, "`dataset_dir` must be a folder with LlamaFactory's dataset_info.json."):
            with open(path) as file:  # as upstream opens it
                described = json.load(file)
    for name in names:
        check_entry(name, described)


def check_entry(name: str, described: Any) -> None:
    """Refuse an entry of `dataset_info.json` that upstream would stumble over.

    Args:
        name: the data set's.
        described: what the file holds.

    Raises:
        UniDPOError: the entry is missing or wrong.
    """
    if not isinstance(described, dict):
        raise UniDPOError("dataset_info.json must be an object of data sets: {name: {...}, ...}.")
    if name not in described:
        raise UniDPOError(f'No data set "{name}" in dataset_info.json; it describes {", ".join(described) or "none"}.')
    entry = described[name]
    where = f'dataset_info.json, data set "{name}":'
    if not isinstance(entry, dict):
        raise UniDPOError(f"{where} its entry must be an object such as {{'file_name': 'pairs.json', ...}}.")
    source = next((key for key in ELSEWHERE if key in entry), "file_name")
    if not isinstance(entry.get(source), str) or not entry[source]:
        raise UniDPOError(f'{where} "{source}" must be a text that says where the rows are.')
    if entry.get("formatting", "alpaca") not in FORMATTINGS:
        raise UniDPOError(f'{where} "formatting" is {entry["formatting"]!r}; choose from {", ".join(FORMATTINGS)}.')
    if entry.get("ranking") is not True:
        raise UniDPOError(f'{where} preference pairs need "ranking": true.')
    for part in ("columns", "tags"):
        names = entry.get(part, {})
        if not (isinstance(names, dict) and all(isinstance(value, str | None) for value in names.values())):
            raise UniDPOError(f'{where} "{part}" must be an object of texts.')
    for option in ("subset", "split", "folder"):
        if not isinstance(entry.get(option), str | None):
            raise UniDPOError(f'{where} "{option}" is {entry[option]!r}, and must be a text.')
    wanted = entry.get("num_samples")
    if wanted is not None and (type(wanted) is not int or wanted < 1):
        raise UniDPOError(f'{where} "num_samples" is {wanted!r}, and must be a whole number, 1 or more.')


def refuse_null(attr: Any, dataset_dir: str | dict) -> None:
    """Refuse JSON files with `null` in place of a row, over which Arrow's reader (26.0) ends the process.

    It does where its block begins with `null`; of other such rows it makes rows without anything.

    Raises:
        UniDPOError: a row is `null`.
    """
    path = os.path.join(dataset_dir, attr.dataset_name) if isinstance(dataset_dir, str) else ""
    if attr.load_from != "file" or not os.path.exists(path):
        return
    files = [os.path.join(path, name) for name in sorted(os.listdir(path))] if os.path.isdir(path) else [path]
    for file in files:
        if os.path.isfile(file) and file.endswith((".json", ".jsonl")):
            with open(file, "rb") as stream:
                for number, line in enumerate(stream):
                    text = line.removeprefix(b"\xef\xbb\xbf").lstrip()
                    if number == 0 and text.startswith(b"["):
                        break  # an array, which is read in another way
                    if text.startswith(b"null"):
                        raise UniDPOError(f'Data set "{attr!r}", line {number + 1} of {file}: null is not a row.')


def check_columns(attr: Any, columns: Iterable[str] | None) -> None:
    """Refuse a data set without a column that its description names.

    Args:
        attr: the description.
        columns: those of the data set; None if they are not known, as in some streams.

    Raises:
        UniDPOError: one is missing.
    """
    for use in (*READ[attr.formatting], *COMMON) if columns is not None else ():
        column = getattr(attr, use, None)
        if column and column not in columns:
            raise UniDPOError(
                f'Data set "{attr!r}" has no column "{column}", from which its entry of dataset_info.json takes '
                f'"{use}"; it has {", ".join(columns)}. Correct "columns" there, or leave "{use}" out of them.'
            )
        if not column and use in ("chosen", "rejected", "messages"):
            raise UniDPOError(f'dataset_info.json, data set "{attr!r}": "columns" must name the column of "{use}".')
