"""Where the data of the recipe are: in our folder, or where the published guide puts them."""

import json
from pathlib import Path

from .preflight import RECIPE_DATA, RECIPE_FILE, data_names
from .settings import Run


def find_data(run: Run) -> None:
    """Complete what the user said of the data: a name without a folder, a folder without a name, or neither.

    The published guide puts the pairs into `data/` of LlamaFactory, and their entry, under whatever name, into
    `data/dataset_info.json`. Nothing is changed where the YAML is not about the recipe's data.
    """
    named, placed = "dataset" in run.given, "dataset_dir" in run.given
    if not named and run.settings.get("dataset") != RECIPE_DATA:
        return
    folder = Path(run.settings["dataset_dir"])
    for candidate in [folder] if placed else [folder, run.root / "data"]:
        names = data_names(run.settings["dataset"]) if named else _published_name(candidate)
        if names and set(names) <= _described(candidate).keys():
            if candidate != folder or names != data_names(run.settings["dataset"]):
                run.settings |= {"dataset": ",".join(names), "dataset_dir": str(candidate)}
                run.notes.append(f"data: {', '.join(names)} in {candidate}")
            return


def _published_name(folder: Path) -> list[str]:
    """Name the data set of a folder whose file is the published one and there; the recipe's own name comes first."""
    described = _described(folder)
    for name in sorted(described, key=lambda name: name != RECIPE_DATA):
        file = described[name].get("file_name") if isinstance(described[name], dict) else None
        if isinstance(file, str) and Path(file).name == RECIPE_FILE and (folder / file).is_file():
            return [name]
    return []


def _described(folder: Path) -> dict:
    """Return the entries of a folder's dataset_info.json; one that cannot be read is told later, if it is needed."""
    try:
        described = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return described if isinstance(described, dict) else {}
