"""What scripts/study.py does, one function a command. Each takes the parsed arguments and returns the exit status."""

import argparse
import os
import shutil
from pathlib import Path

from common import ToolError

from . import place, plan
from .methods import METHODS
from .pool import Pool
from .raw import Results
from .tuning import tuned_options


def run(arguments: argparse.Namespace) -> int:
    """Run what is missing of the study, experiment by experiment."""
    methods = arguments.methods or list(METHODS)
    experiments = arguments.experiments or list(plan.EXPERIMENTS)
    plan.check_names(methods, METHODS, "method")
    plan.check_names(experiments, plan.EXPERIMENTS, "experiment")
    if "uni_dpo" not in methods and set(experiments) - {"tuning", "main"}:
        raise ToolError("only `tuning` and `main` can do without uni_dpo: name it too, or --experiments tuning main")
    pool, shared = _pool(arguments), place.definitions(arguments.size, arguments.model)
    if arguments.list:
        return _list(Results(arguments.out / "cells"))
    with place.alone(arguments.out):
        place.note(arguments.out, shared, pool.gpus)
        failed = _run_all(pool, methods, experiments, range(arguments.seeds), Results(arguments.out / "cells"))
    return 1 if failed else 0


def _run_all(pool: Pool, methods: list[str], experiments: list[str], seeds: range, results: Results) -> list[str]:
    _require_done(pool.prepare(seeds))
    if "tuning" in experiments:
        cells = [cell for cells in plan.tuning(methods, seeds).values() for cell in cells]
        _require_done(pool.run("tuning", cells, results))  # everything else stands on it
    tuned, failed = tuned_options(results, methods), []
    for name in [name for name in plan.AFTER_TUNING if name in experiments]:
        cells = [cell for cells in plan.AFTER_TUNING[name](tuned, seeds).values() for cell in cells]
        failed += pool.run(name, cells, results)
    print(f"{len(results)} cells are done, {len(failed)} failed: {results.path}")
    return failed


def gather(arguments: argparse.Namespace) -> int:
    """Put all results of a study into the folder that the report reads."""
    results = Results(arguments.out / "cells")
    if not len(results):
        raise ToolError(f"{results.path} holds no results: `study.py run` makes them")
    place.read_about(arguments.out)
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

    plan.check_names([arguments.method], METHODS, "method")
    known, about = Results(arguments.raw / "raw.jsonl"), place.read_about(arguments.raw)
    tuned, shared = tuned_options(known, [arguments.method]), place.definitions(arguments.size, arguments.model)
    place.require_same(about, shared, f"what {arguments.raw} holds")
    pool, cells = _pool(arguments), plan.main(tuned, [arguments.seed])[arguments.method]
    with place.alone(arguments.out):
        place.note(arguments.out, shared, pool.gpus)
        _require_done(pool.prepare([arguments.seed]))
        shutil.rmtree(arguments.out / "repeated", ignore_errors=True)  # an old run is no repetition
        results = Results(arguments.out / "repeated")
        _require_done(pool.run(arguments.method, cells, results))
    text, inside = compared(arguments.method, results.of(cells)[0], known, tuned)
    print(text)
    return 0 if inside else 1


def _require_done(failed: list[str]) -> None:
    if failed:
        raise ToolError("; ".join(failed))


def _list(results: Results) -> int:
    print("methods:     " + " ".join(METHODS))
    for name, text in plan.EXPERIMENTS.items():
        print(f"{name:12} {text}")
    kinds = [result["measure"] for result in results.all()]
    done = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    print(f"cells done, by what they measure: {done or 'none'} ({results.path})")
    return 0


def _pool(arguments: argparse.Namespace) -> Pool:
    plan.check_names([arguments.size], plan.SIZES, "size")
    gpus = place.visible_gpus()
    jobs = arguments.jobs or len(gpus) or os.cpu_count() or 1
    return Pool(Path(arguments.out).resolve(), plan.SIZES[arguments.size], arguments.model.resolve(), jobs, gpus)
