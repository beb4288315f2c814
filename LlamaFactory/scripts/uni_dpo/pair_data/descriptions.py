"""LlamaFactory's dataset_info.json: the one place where tools and launcher read and check it."""

import json
from pathlib import Path
from typing import Any

from .errors import DataError


FORMATS = ("alpaca", "sharegpt", "openai")
ELSEWHERE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")  # each wins over file_name

RECIPE_DATA = "uni_dpo_mm_rlhf"  # what the YAML files of examples/uni_dpo call the published pairs
RECIPE_FILE = "uni_dpo_image_only_mcq_short_long_50k.json"


def described(folder: Path) -> dict[str, Any]:
    """Return the entries of a folder's dataset_info.json."""
    info = folder / "dataset_info.json"
    try:
        return parse(info.read_text(encoding="utf-8"), info)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {info} ({error}). dataset_dir is a folder with dataset_info.json.") from error


def parse(text: str, info: Path) -> dict[str, Any]:
    """Return the entries in the text of a dataset_info.json; `info` is its path, for messages."""
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"cannot read {info}: it is not valid JSON ({error}). Correct it first.") from error
    if not isinstance(entries, dict):
        raise DataError(f"{info} must be an object of data sets: {{name: {{...}}, ...}}.")
    return entries


def entry_of(name: str, folder: Path) -> dict[str, Any]:
    """Return the entry of a data set, whose parts have the types that LlamaFactory takes for granted."""
    entries, info = described(folder), folder / "dataset_info.json"
    if name not in entries:
        raise DataError(
            f'no data set "{name}" in {info}, which describes {", ".join(entries) or "nothing"}. '
            "A new entry: data.py register NAME FILE"
        )
    entry, where = entries[name], f'{info}, data set "{name}"'
    if not isinstance(entry, dict):
        raise DataError(f'{where}: its entry must be an object such as {{"file_name": "pairs.json", ...}}.')
    source = next((key for key in ELSEWHERE if key in entry), "file_name")
    if not isinstance(entry.get(source), str) or not entry[source]:
        raise DataError(f'{where}: "{source}" must be a text that says where the rows are.')
    if entry.get("formatting", "alpaca") not in FORMATS:
        raise DataError(f'{where}: "formatting" is "{entry["formatting"]}", and must be one of {", ".join(FORMATS)}.')
    for part in ("columns", "tags"):
        names = entry.get(part, {})
        if not (isinstance(names, dict) and all(isinstance(text, str | None) for text in names.values())):
            raise DataError(f'{where}: "{part}" must be an object of texts.')
    return entry


def names_in(dataset: Any) -> list[str]:
    """Split LlamaFactory's option `dataset` (or `eval_dataset`): names with commas between them, or a list."""
    names = dataset.split(",") if isinstance(dataset, str) else dataset or []
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise DataError(f"dataset and eval_dataset are names with commas between them, and not {dataset!r}")
    return [name.strip() for name in names]


def find(options: dict[str, Any], given: set[str], guides: Path) -> tuple[str, Path] | None:
    """Find the data of a recipe from what a user said: a name without a folder, a folder without a name, or neither.

    The published guide puts the pairs into `data/` of LlamaFactory, and their entry, under whatever name, into its
    dataset_info.json.

    Args:
        options: `dataset` and `dataset_dir`, as the recipe and the user have them.
        given: which of the two the user has chosen.
        guides: where the guide puts data.

    Returns:
        `dataset` and `dataset_dir`; None where nothing is to be found, or nothing is about the recipe's data.
    """
    named, folder = "dataset" in given, options["dataset_dir"]
    if not isinstance(folder, str) or (not named and options.get("dataset") != RECIPE_DATA):
        return None
    for candidate in [Path(folder)] if "dataset_dir" in given else [Path(folder), guides]:
        try:
            entries = described(candidate)
        except DataError:  # whoever opens the data says so
            continue
        names = names_in(options["dataset"]) if named else _published(entries, candidate)
        if names and set(names) <= entries.keys():
            return ",".join(names), candidate
    return None


def _published(entries: dict[str, Any], folder: Path) -> list[str]:
    """Name the data set whose file is the published one and there; the recipe's own name comes first."""
    for name in sorted(entries, key=lambda name: name != RECIPE_DATA):
        file = entries[name].get("file_name") if isinstance(entries[name], dict) else None
        if isinstance(file, str) and Path(file).name == RECIPE_FILE and (folder / file).is_file():
            return [name]
    return []
