"""Find checkpoints, runs and data sets below the work folders given.

VLMEvalKit's layouts: ms-vlmeval writes into WORK/MODEL; a checkout writes into WORK/MODEL/T<time>, a new folder for
each run; a checkout of 2025 adds links in WORK/MODEL. A folder's status.json, where there is one, says which data
sets were asked for and which failed.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from common import ToolError

from .rules import METRIC_ENDINGS


_RUN_FOLDER = re.compile(r"T\d{8}(-\d{6}|_G[0-9a-fA-F]*)$")


@dataclass(frozen=True)
class Run:
    """One folder that VLMEvalKit wrote results of one checkpoint into."""

    folder: Path
    model: str  # what its files' names begin with
    status: dict[str, dict]  # "datasets" of status.json; empty if there is none
    argv: tuple[str, ...] = ()  # the command line in status.json; empty if there is none

    def metric_file(self, data: str) -> Path | None:
        """The metric file of a data set, if there is one."""
        paths = [self.folder / f"{self.model}_{data}{ending}" for ending in METRIC_ENDINGS]
        return next((path for path in paths if path.is_file()), None)

    def data_sets(self) -> set[str]:
        """Every data set with a metric file or an entry in status.json."""
        name = re.compile(f"{re.escape(self.model)}_(.*)({'|'.join(map(re.escape, METRIC_ENDINGS))})", re.DOTALL)
        return {*self.status, *(found[1] for path in self.folder.iterdir() if (found := name.fullmatch(path.name)))}

    def tables(self, data: str, suffix: str) -> list[Path]:
        """Files of rows named MODEL_DATA<suffix>, newest first; `suffix` is a regular expression."""
        name = re.compile(re.escape(f"{self.model}_{data}") + suffix + r"\.(xlsx|tsv|json)", re.DOTALL)
        others = tuple(f"{self.model}_{other}" for other in self.data_sets() - {data} if other.startswith(data))
        found = [path for path in self.folder.iterdir() if name.fullmatch(path.name)]
        found = [path for path in found if not path.name.startswith(others)]
        return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)

    def judge(self, data: str) -> str | None:
        """Who read the answers: what status.json says, or the name of the newest file of results; None if unknown."""
        if stated := self.status.get(data, {}).get("judge_model"):
            return stated
        paths = self.tables(data, "_.+_result")
        return paths[0].stem.removeprefix(f"{self.model}_{data}_").removesuffix("_result") if paths else None

    def judge_was_asked(self, data: str) -> bool:
        """Whether somebody named the judge: on VLMEvalKit's command line, or to `python -m vlmeval.uni_dpo`."""
        ours = [folder / "answers" / f"{data}.json" for folder in (self.folder, self.folder.parent)]
        return any(word.partition("=")[0] == "--judge" for word in self.argv) or any(path.is_file() for path in ours)


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

    A checkpoint is called as its model is, with the work folder before it where that is needed to tell two apart.
    """
    found = [entry for argument in arguments for entry in _labelled_models(argument)]
    names, checkpoints = [label or runs[0].model for label, _, runs in found], {}
    for (label, folder, runs), name in zip(found, names, strict=True):
        if not label and names.count(name) > 1:
            parent = folder.parent.parent if _RUN_FOLDER.match(folder.name) else folder.parent
            name = f"{parent.name}/{name}"
        if name in checkpoints:
            raise ToolError(f"two checkpoints would be called {name}: name them, as in LABEL=WORK_DIR")
        checkpoints[name] = Checkpoint(name, runs)
    return [*checkpoints.values()]


def _labelled_models(argument: str) -> list[tuple[str, Path, tuple[Run, ...]]]:
    """The models that one argument of the command line means: label if any, folder, and runs."""
    label, equals, rest = argument.partition("=")
    if not equals or Path(argument).exists():
        label, rest = "", argument
    path = Path(rest)
    if not path.is_dir():
        raise ToolError(f"{path} is not a folder: give what --work-dir was, or a model's folder in it")
    models = _models(path.resolve())
    if label and len(models) > 1:
        names = ", ".join(sorted(folder.name for folder in models))
        raise ToolError(f"{path} holds several models ({names}): a label needs one; give {path}/MODEL")
    return [(label, folder, runs) for folder, runs in models.items()]


def _models(path: Path) -> dict[Path, tuple[Run, ...]]:
    """Model folders at or just below a path, with their runs."""
    if _RUN_FOLDER.match(path.name):
        models = {path: tuple(run for run in [_run(path, path.parent.name)] if run.data_sets())}
    else:
        models = {path: _runs(path)}
        if not models[path]:
            models = {folder: _runs(folder) for folder in sorted(path.iterdir()) if folder.is_dir()}
    models = {folder: runs for folder, runs in models.items() if runs}
    if not models:
        raise ToolError(
            f"{path} holds no results of VLMEvalKit: expected MODEL/MODEL_DATASET_acc.csv, MODEL/T<time>/..., or such "
            "files themselves; was the evaluation run with --mode infer, or with another --work-dir?"
        )
    return models


def _runs(folder: Path) -> tuple[Run, ...]:
    """Runs in a model's folder that hold anything, newest first.

    ms-vlmeval keeps copies in T<time> folders when it reuses predictions; the results are then beside the status.json
    of the model's folder. So runs with one come first, by its time, then T folders by name, then the model's folder.
    """

    def newest(run: Run) -> tuple:
        path = run.folder / "status.json"
        return path.is_file() and path.stat().st_mtime, bool(_RUN_FOLDER.match(run.folder.name)), run.folder.name

    below = [child for child in folder.iterdir() if child.is_dir() and _RUN_FOLDER.match(child.name)]
    runs = [run for run in (_run(child, folder.name) for child in (folder, *below)) if run.data_sets()]
    return tuple(sorted(runs, key=newest, reverse=True))


def _run(folder: Path, model: str) -> Run:
    path = folder / "status.json"
    if not path.is_file():
        return Run(folder, model, {})
    try:
        status = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ToolError(f"{path} is not JSON ({error}): remove it, or evaluate again") from error
    listed = status.get("datasets") or {} if isinstance(status, dict) else None
    whole = isinstance(listed, dict) and all(isinstance(entry, dict) for entry in listed.values())
    if not (whole and isinstance(status.get("model_name") or "", str)):
        raise ToolError(f"{path} is not a status of VLMEvalKit's: remove it, or evaluate again")
    argv = status.get("argv") if isinstance(status.get("argv"), list) else []
    return Run(folder, status.get("model_name") or model, listed, tuple(map(str, argv)))
