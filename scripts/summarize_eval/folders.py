"""Find checkpoints, runs and data sets below the work folders given.

VLMEvalKit's layouts: ms-vlmeval writes into WORK/MODEL; a checkout writes into WORK/MODEL/T<time>, a new folder for
each run; a checkout of 2025 adds links in WORK/MODEL. A folder's status.json, where there is one, says which data
sets were asked for and which failed.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common import ToolError

from .rules import METRIC_FORMATS, METRIC_SUFFIXES


_RUN_FOLDER = re.compile(r"T\d{8}(-\d{6}|_G[0-9a-fA-F]*)$")
_TABLES = (".xlsx", ".tsv", ".json")


@dataclass(frozen=True)
class Run:
    """One folder that VLMEvalKit wrote results of one checkpoint into.

    Attributes:
        folder: where.
        model: what its files' names begin with.
        status: "datasets" of status.json; empty if there is none.
        argv: the command line that status.json tells; empty if it does not.
    """

    folder: Path
    model: str
    status: dict[str, dict]
    argv: tuple[str, ...] = ()

    def stem(self, data: str) -> str:
        """What the names of all files about a data set begin with."""
        return f"{self.model}_{data}"

    def metric_file(self, data: str) -> Path | None:
        """The metric file of a data set, if there is one."""
        stem = self.stem(data)
        names = [f"{stem}{suffix}{form}" for suffix in METRIC_SUFFIXES for form in METRIC_FORMATS]
        return next((self.folder / name for name in names if (self.folder / name).is_file()), None)

    def data_sets(self) -> set[str]:
        """Every data set with a metric file or an entry in status.json."""
        found = set(self.status)
        for path in self.folder.iterdir():
            for suffix in METRIC_SUFFIXES:
                if path.suffix in METRIC_FORMATS and path.stem.endswith(suffix) and self._is_ours(path):
                    found.add(path.stem[len(self.model) + 1 : -len(suffix)])
        return found

    def tables(self, data: str, suffix: str) -> list[Path]:
        """Files of rows named MODEL_DATA<suffix>, newest first; `suffix` is a regular expression."""
        name = re.compile(re.escape(self.stem(data)) + suffix)
        alike = tuple(self.stem(other) for other in self.data_sets() if other.startswith(data) and other != data)
        found = [
            path
            for path in self.folder.iterdir()
            if path.suffix in _TABLES and name.fullmatch(path.stem) and not path.name.startswith(alike)
        ]
        return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)

    def judge(self, data: str) -> str | None:
        """Who read the answers: what status.json says, or the name of the newest file of results; None if unknown."""
        stated = self.status.get(data, {}).get("judge_model")
        paths = self.tables(data, "_.+_result")
        named = paths[0].stem.removeprefix(f"{self.stem(data)}_").removesuffix("_result") if paths else None
        return stated or named

    def judge_was_asked(self, data: str) -> bool:
        """Whether somebody named the judge: on VLMEvalKit's command line, or to `python -m vlmeval.uni_dpo`."""
        ours = [folder / "answers" / f"{data}.json" for folder in (self.folder, self.folder.parent)]
        return any(word.partition("=")[0] == "--judge" for word in self.argv) or any(path.is_file() for path in ours)

    def _is_ours(self, path: Path) -> bool:
        return path.name.startswith(self.model + "_")


@dataclass(frozen=True)
class Checkpoint:
    """A model that was evaluated, with its runs, newest first."""

    label: str
    runs: tuple[Run, ...]

    def data_sets(self) -> set[str]:
        """Every data set of any run."""
        return set().union(*(run.data_sets() for run in self.runs))

    def run_of(self, data: str) -> Run | None:
        """The newest run that knows this data set. An older one is no substitute: its model may be another."""
        return next((run for run in self.runs if data in run.data_sets()), None)


def find_checkpoints(arguments: Iterable[str]) -> list[Checkpoint]:
    """The checkpoints below work folders, each given as DIR or LABEL=DIR.

    Raises:
        ToolError: a folder is not there, holds no results, or two checkpoints would have one label.
    """
    found = []
    for argument in arguments:
        label, path = _split(argument)
        models = _models(path)
        if label and len(models) > 1:
            names = ", ".join(sorted(folder.name for folder in models))
            raise ToolError(f"{path} holds several models ({names}): a label needs one; give {path}/MODEL")
        found += [(label, folder, runs) for folder, runs in models.items()]
    return [Checkpoint(label, runs) for label, runs in _labelled(found)]


def _split(argument: str) -> tuple[str, Path]:
    label, equals, rest = argument.partition("=")
    if not equals or Path(argument).exists():
        label, rest = "", argument
    path = Path(rest)
    if not path.is_dir():
        raise ToolError(f"{path} is not a folder: give what --work-dir was, or a model's folder in it")
    return label, path.resolve()


def _models(path: Path) -> dict[Path, tuple[Run, ...]]:
    """Model folders at or just below a path, with their runs."""
    if _RUN_FOLDER.match(path.name):
        run = _run(path, path.parent.name)
        models = {path: (run,)} if run.data_sets() else {}
    else:
        models = {path: _runs(path)} if _runs(path) else {}
        if not models:
            below = [folder for folder in sorted(path.iterdir()) if folder.is_dir()]
            models = {folder: runs for folder in below if (runs := _runs(folder))}
    if not models:
        raise ToolError(
            f"{path} holds no results of VLMEvalKit: expected MODEL/MODEL_DATASET_acc.csv, MODEL/T<time>/..., or such "
            "files themselves; was the evaluation run with --mode infer, or with another --work-dir?"
        )
    return models


def _runs(folder: Path) -> tuple[Run, ...]:
    """Runs in a model's folder that hold anything, newest first.

    ms-vlmeval keeps copies in T<time> folders when it reuses predictions; the results are then beside the
    status.json of the model's folder, so folders with one come first.
    """
    below = [child for child in folder.iterdir() if child.is_dir() and _RUN_FOLDER.match(child.name)]
    runs = [run for run in (_run(child, folder.name) for child in (folder, *below)) if run.data_sets()]
    return tuple(sorted(runs, key=_newest, reverse=True))


def _run(folder: Path, model: str) -> Run:
    status: dict = {}
    path = folder / "status.json"
    if path.is_file():
        status = _read_status(path)
        model = status.get("model_name") or model
    argv = status.get("argv")
    argv = tuple(map(str, argv)) if isinstance(argv, list) else ()
    return Run(folder, model, status.get("datasets") or {}, argv)


def _read_status(path: Path) -> dict:
    try:
        status = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ToolError(f"{path} is not JSON ({error}): remove it, or evaluate again") from error
    listed = status.get("datasets") or {} if isinstance(status, dict) else None
    whole = isinstance(listed, dict) and all(isinstance(entry, dict) for entry in listed.values())
    if not (whole and isinstance(status.get("model_name") or "", str)):
        raise ToolError(f"{path} is not a status of VLMEvalKit's: remove it, or evaluate again")
    return status


def _newest(run: Run) -> tuple:
    """Sort key: runs with a status.json by its time, then T folders by name, then the model's folder."""
    path = run.folder / "status.json"
    return (path.is_file() and path.stat().st_mtime, bool(_RUN_FOLDER.match(run.folder.name)), run.folder.name)


def _labelled(found: Sequence[tuple[str, Path, tuple[Run, ...]]]) -> list[tuple[str, tuple[Run, ...]]]:
    """Label a checkpoint by its model's name, with the work folder before it where that is needed to tell apart."""
    names = [label or runs[0].model for label, _, runs in found]
    labels = []
    for (label, folder, runs), name in zip(found, names, strict=True):
        if not label and names.count(name) > 1:
            parent = folder.parent.parent if _RUN_FOLDER.match(folder.name) else folder.parent
            name = f"{parent.name}/{name}"
        labels.append((name, runs))
    plain = [name for name, _ in labels]
    for name in plain:
        if plain.count(name) > 1:
            raise ToolError(f"two checkpoints would be called {name}: name them, as in LABEL=WORK_DIR")
    return labels
