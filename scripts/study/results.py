"""A study's folder: one small file a cell while it runs, all of them in one for the repository, what they share."""

import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from common import ToolError, write_json, write_text

from . import conditions, seeds
from . import judge as judges
from .methods import METHODS, Options, grid
from .plan import SIZES, Cell, cells_of


PACKAGES = ("torch", "transformers", "llamafactory", "trl", "ms-vlmeval", "datasets")

Result = dict[str, Any]


class Results:
    """What is known of cells, from a folder with a file each, or from one file of all."""

    def __init__(self, path: Path):
        """Read from `path`: a folder of a study that runs, or a .jsonl file.

        Raises:
            ToolError: a file is damaged, or the one file is not there.
        """
        self.path, self._known = path, {}
        if path.suffix == ".jsonl" and not path.is_file():
            raise ToolError(f"{path} is not there: `study.py run` and `study.py gather` make it")
        for file in [path] if path.suffix == ".jsonl" else sorted(path.glob("*.json")):
            try:
                results = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
                self._known.update({result["key"]: result for result in results})
            except (ValueError, KeyError, TypeError) as error:
                raise ToolError(f"{file} is damaged ({error}): remove it, and its cells are run again") from error

    def __contains__(self, cell: Cell) -> bool:
        """Whether a cell is done."""
        return cell.key in self._known

    def __len__(self) -> int:
        """How many cells are done."""
        return len(self._known)

    def of(self, cells: Iterable[Cell]) -> list[Result]:
        """The results of those cells that are done, in their order."""
        return [self._known[cell.key] for cell in cells if cell in self]

    def all(self) -> list[Result]:
        """Everything, in the order of the keys."""
        return [self._known[key] for key in sorted(self._known)]

    def seeds(self, measure: str) -> list[int]:
        """The seeds of trained models that were measured so."""
        return sorted({it["seed"] for it in self._known.values() if it["measure"] == measure and it["options"]})

    def add(self, cell: Cell, measured: Result) -> None:
        """Keep what was measured, in a file that is there whole or not at all."""
        what = {"seed": cell.seed, "condition": cell.condition, "options": dict(cell.options)}
        self._known[cell.key] = {"key": cell.key, "measure": cell.measure, **what, **measured}
        write_json(self.path / f"{cell.key}.json", self._known[cell.key], indent=None)

    def gather(self, path: Path) -> None:
        """Write all of them into one file."""
        write_text(path, "".join(json.dumps(result) + "\n" for result in self.all()))


def accuracy(results: Results, cells: Sequence[Cell]) -> float | None:
    """Mean accuracy on validation scenes, a share; None if no cell is done. A run that diverged has got nothing right.

    Raises:
        ToolError: some of the cells are done and some are not: a mean over fewer seeds cannot be compared.
    """
    done = results.of(cells)
    if done and len(done) < len(cells):
        lacking = min({cell.seed for cell in cells} - {result["seed"] for result in done})
        raise ToolError(f"tuning lacks seed {lacking} of {dict(cells[0].options)}: run `tuning` again")
    return sum(result["val"]["accuracy"] if "val" in result else 0.0 for result in done) / len(done) if done else None


def best_of_grid(results: Results, methods: Iterable[str]) -> dict[str, Options]:
    """Each method's point of the grid with the highest accuracy on validation scenes, the first of equals.

    Raises:
        ToolError: a method has not been tuned on every point, or not with the same seeds.
    """
    tuned, seeds_of_tuning = {}, results.seeds("val")
    for method in [method for method in METHODS if method in methods]:
        points = [accuracy(results, cells) for cells in cells_of("tuning", [method], seeds_of_tuning).values()]
        if None in points:
            lacking = points.count(None)
            raise ToolError(f"{method} has not been tuned: {lacking} points of its grid are missing; run `tuning`")
        tuned[method] = grid(method)[points.index(max(points))]
    return tuned


def beyond_grid(results: Results, best: dict[str, Options]) -> dict[str, list[tuple[Options, float | None]]]:
    """For each method that was best at an edge of the grid the points beyond it, with their accuracies if done."""
    found: dict[str, list[tuple[Options, float | None]]] = {}
    for (method, _), cells in cells_of("wider", best, results.seeds("val")).items():
        if cells:
            found.setdefault(method, []).append((dict(cells[0].options), accuracy(results, cells)))
    return found


def tuned_options(results: Results, methods: Iterable[str]) -> dict[str, Options]:
    """Each method's best point: of the grid, and of what is beyond the edge at which it was best, once that is done.

    Raises:
        ToolError: as `best_of_grid`.
    """
    tuned = best_of_grid(results, methods)
    for method, points in beyond_grid(results, tuned).items():
        at_edge = accuracy(results, cells_of("tuning", [method], results.seeds("val"))[method, _place(method, tuned)])
        options, most = max(points, key=lambda point: -1 if point[1] is None else point[1])
        if all(value is not None for _, value in points) and most > at_edge:
            tuned[method] = options
    return tuned


def _place(method: str, tuned: dict[str, Options]) -> int:
    return grid(method).index(tuned[method])


def definitions(size: str, model: Path) -> dict[str, Any]:
    """What all cells of a study have to share: its size, the start model, and everything that cells do not name.

    Raises:
        ToolError: `model` has no weights.
    """
    settings = {
        "size": asdict(SIZES[size]),
        "seeds": seeds.SETTINGS,
        "recipe": yaml.safe_load(seeds.RECIPE.read_text(encoding="utf-8")),
    }
    return describe(size, model, settings, {name: _described(it) for name, it in conditions.CONDITIONS.items()})


def describe(size: str, model: Path, settings: Any, judged: dict[str, Any]) -> dict[str, Any]:
    """Hash what all cells of a study have to share.

    Raises:
        ToolError: `model` has no weights.
    """
    weights = model / "model.safetensors"
    if not weights.is_file():
        raise ToolError(f"--model {model} is no checkpoint: it has no model.safetensors")
    return {
        "size": size,
        "model": hashlib.sha256(weights.read_bytes()).hexdigest()[:16],
        "settings": _digest(settings),
        "conditions": {name: _digest(it) for name, it in judged.items()},
    }


def _described(condition: conditions.Condition) -> dict[str, Any]:
    """What a condition is, with what it depends on beside itself."""
    judge = yaml.safe_load(judges.RECIPE.read_text(encoding="utf-8")) if condition.scores == "model" else None
    return asdict(condition) | ({"judge": [judges.SCENES, judge]} if judge else {})


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def require_same(about: dict[str, Any], wanted: dict[str, Any], where: str) -> None:
    """Refuse results that cannot stand beside one another.

    Raises:
        ToolError: they were made with another size, start model or settings.
    """
    known = about.get("conditions", {})
    changed = [name for name, it in wanted.get("conditions", {}).items() if known.get(name, it) != it]
    if changed:
        raise ToolError(f"{where} has another condition of the name {changed[0]}: give another folder")
    for name, value in wanted.items():
        if name != "conditions" and about.get(name, value) != value:
            raise ToolError(f"{where} is of another {name} ({about[name]}, not {value}): give another folder")


def write_about(out: Path, shared: dict[str, Any], gpus: Sequence[str], done: int = 0) -> None:
    """Keep what a study is and what the report says about its making.

    Args:
        out: the study's folder.
        shared: see `describe`.
        gpus: what runs use.
        done: how many cells there are already; made with other versions, they are told of as "earlier".

    Raises:
        ToolError: the folder holds another study.
    """
    path = out / "about.json"
    before = read_about(out) if path.is_file() else {}
    require_same(before, shared, f"the study in {out}")
    about = {
        **shared,
        "cores": os.cpu_count(),
        "gpus": len(gpus),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "earlier": before.get("earlier", []),
    }
    if done and before and before["versions"] != about["versions"]:
        counted = done - sum(it["cells"] for it in about["earlier"])
        about["earlier"] = [
            *about["earlier"],
            {"cells": counted, **{name: before[name] for name in ("date", "versions")}},
        ]
    write_json(path, about, indent=2)


def read_about(folder: Path) -> dict[str, Any]:
    """Read what `write_about` has kept (ToolError: it is not there or damaged)."""
    path = folder / "about.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ToolError(f"{path} is not there: `study.py run` makes it, `study.py gather` copies it") from None
    except ValueError as error:
        raise ToolError(f"{path} is damaged ({error})") from error
    if not isinstance(about, dict):
        raise ToolError(f"{path} is damaged: it is no JSON object")
    return about


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Work in a folder while nobody else does (ToolError: somebody else is at work there)."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ToolError(f"another study is at work in {out}: wait for it, or give another --out") from None
        yield


def visible_gpus() -> tuple[str, ...]:
    """The GPUs to share out, by the names that CUDA_VISIBLE_DEVICES takes."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        names = [name.strip() for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",")]
        return tuple(name for name in names if name not in ("", "-1"))
    import torch  # takes seconds

    return tuple(map(str, range(torch.cuda.device_count())))
