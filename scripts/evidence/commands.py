"""What scripts/study.py does, one function a command. Each takes the parsed arguments and returns the exit status."""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from demo_world.writers import write_whole

from . import StudyError, plan
from .methods import METHODS, grid
from .pool import Pool
from .raw import Results


PACKAGES = ("torch", "transformers", "llamafactory", "trl", "ms-vlmeval", "datasets")


def run(arguments: argparse.Namespace) -> int:
    """Run what is missing of the study, experiment by experiment, and gather the raw results."""
    methods = arguments.methods or list(METHODS)
    experiments = arguments.experiments or list(plan.EXPERIMENTS)
    plan.check_names(methods, METHODS, "method")
    plan.check_names(experiments, plan.EXPERIMENTS, "experiment")
    if "uni_dpo" not in methods and set(experiments) - {"tuning", "main"}:
        raise StudyError("only `tuning` and `main` can do without uni_dpo: name it too, or --experiments tuning main")
    pool, results = _pool(arguments), Results(_cells(arguments))
    if arguments.list:
        return _list(methods, experiments, results)
    seeds = range(arguments.seeds)
    _note(arguments)
    failed = pool.prepare(seeds)
    if failed:
        raise StudyError("; ".join(failed))
    if "tuning" in experiments:
        cells = [cell for cells in plan.tuning(methods, seeds).values() for cell in cells]
        failed += pool.run("tuning", cells, results)
    tuned = tuned_options(results, methods)
    for name in [name for name in plan.AFTER_TUNING if name in experiments]:
        cells = [cell for cells in plan.AFTER_TUNING[name](tuned, seeds).values() for cell in cells]
        failed += pool.run(name, cells, results)
    print(f"{len(results)} cells are done: {_cells(arguments)}")
    return 1 if failed else 0


def gather(arguments: argparse.Namespace) -> int:
    """Put all results of a study into the folder that the report reads."""
    results = Results(_cells(arguments))
    if not len(results):
        raise StudyError(f"{_cells(arguments)} holds no results: `study.py run` makes them")
    results.gather(arguments.raw / "raw.jsonl")
    shutil.copy(arguments.out / "about.json", arguments.raw / "about.json")
    print(f"{len(results)} cells: {arguments.raw / 'raw.jsonl'}")
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Write the report from the raw results."""
    from .report import write_report

    for path in write_report(arguments.raw, arguments.out):
        print(path)
    return 0


def repeat(arguments: argparse.Namespace) -> int:
    """Run one cell of the first table again; exit status 1 if it falls outside of what was found."""
    from .repeating import compared

    known = Results(arguments.raw / "raw.jsonl")
    plan.check_names([arguments.method], METHODS, "method")
    tuned = tuned_options(known, [arguments.method])
    pool, results = _pool(arguments), Results(_cells(arguments))
    cells = plan.main(tuned, [arguments.seed])
    _note(arguments)
    failed = pool.prepare([arguments.seed]) or pool.run(arguments.method, cells[arguments.method], results)
    if failed:
        raise StudyError("; ".join(failed))
    text, inside = compared(arguments.method, results.of(cells[arguments.method])[0], known, tuned)
    print(text)
    return 0 if inside else 1


def tuned_options(results: Results, methods: list[str]) -> dict[str, dict]:
    """Each method's best point of the grid, by accuracy on validation scenes over the seeds that tune.

    Raises:
        StudyError: a method has not been tuned on every point.
    """
    scores = {}
    for point, cells in plan.tuning(methods, range(plan.TUNING_SEEDS)).items():
        done = results.of(cells)
        if done:
            accuracies = [result["val"]["accuracy"] if "val" in result else 0.0 for result in done]
            scores[point] = sum(accuracies) / len(accuracies)
    for method in methods:
        if lacking := len(grid(method)) - sum(name == method for name, _ in scores):
            raise StudyError(f"{method} has not been tuned: {lacking} points of its grid are missing; run `tuning`")
    return plan.best(scores)


def _list(methods: list[str], experiments: list[str], results: Results) -> int:
    print("methods:     " + " ".join(METHODS))
    for name, text in plan.EXPERIMENTS.items():
        print(f"{name:12} {text}")
    cells = {cell for cells in plan.tuning(methods, range(plan.TUNING_SEEDS)).values() for cell in cells}
    print(f"tuning: {sum(cell in results for cell in cells)} of {len(cells)} cells are done; {len(results)} in all")
    return 0


def _pool(arguments: argparse.Namespace) -> Pool:
    plan.check_names([arguments.size], plan.SIZES, "size")
    gpus = _gpus()
    jobs = arguments.jobs or len(gpus) or os.cpu_count() or 1
    return Pool(arguments.out.resolve(), plan.SIZES[arguments.size], arguments.model.resolve(), jobs, gpus)


def _gpus() -> tuple[str, ...]:
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return tuple(name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name)
    if not shutil.which("nvidia-smi"):
        return ()
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    return tuple(str(number) for number, _ in enumerate(listed.stdout.splitlines())) if not listed.returncode else ()


def _cells(arguments: argparse.Namespace) -> Path:
    return arguments.out / "cells"


def _note(arguments: argparse.Namespace) -> None:
    """Keep what the report says about the making of the results.

    Raises:
        StudyError: the folder holds a study of another size, or of other start checkpoints: no cell of it would fit.
    """
    path = arguments.out / "about.json"
    weights = hashlib.sha256((arguments.model / "model.safetensors").read_bytes()).hexdigest()[:16]
    about = {"size": arguments.size, "model": weights}
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        for name, value in about.items():
            if before.get(name) != value:
                raise StudyError(
                    f"{arguments.out} holds a study with another {name} ({before.get(name)}, not {value}): give "
                    "another --out"
                )
    about |= {
        "cores": os.cpu_count(),
        "gpus": len(_gpus()),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
    write_whole(path, lambda file: file.write(json.dumps(about, indent=2) + "\n"))
