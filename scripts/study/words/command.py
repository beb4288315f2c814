"""`study.py` in the world of words: `run` and `repeat` there."""

import argparse
from dataclasses import asdict
from pathlib import Path

import yaml

from ..plan import check_names
from ..pool import Pool, require_done
from ..results import Results, describe, locked, read_about, require_same, write_about
from ..statistics import compare_repeated
from . import plan, seeds
from .conditions import BASE, CONDITIONS


def run(arguments: argparse.Namespace, pool: Pool) -> int:
    """Run what is missing: the start, every method at every point, and each at its best under every condition."""
    methods = arguments.methods or list(plan.METHODS)
    check_names(methods, plan.METHODS, "method")
    known, among = Results(arguments.out / "cells"), range(arguments.seeds)
    with locked(arguments.out):
        write_about(arguments.out, definitions(arguments.size, pool.model), pool.gpus)
        require_done(pool.prepare(among))
        require_done(pool.run("tuning", _all(plan.tuning(methods)), known))
        failed = pool.run("main", _all(plan.main(plan.best(known, methods), among)), known)
    print(f"{len(known)} cells are done, {len(failed)} failed: {known.path}")
    return 1 if failed else 0


def repeat(arguments: argparse.Namespace, pool: Pool) -> int:
    """Run one cell of the first table again; exit status 1 if it falls outside of what was found."""
    check_names([arguments.method], plan.METHODS, "method")
    known = Results(arguments.raw / "raw.jsonl")
    shared = definitions(arguments.size, pool.model)
    require_same(read_about(arguments.raw), shared, f"what {arguments.raw} holds")
    tuned = plan.best(known, [arguments.method])
    cells = plan.main(tuned, known.seeds("test"))[BASE, arguments.method]
    values = {result["seed"]: plan.exam(result) for result in known.of(cells)}
    wanted = plan.main(tuned, [arguments.seed])[BASE, arguments.method]
    again = pool.run_again(arguments.seed, shared, wanted)
    text, inside = compare_repeated(arguments.method, arguments.seed, plan.exam(again), values)
    print(text)
    return 0 if inside else 1


def definitions(size: str, model: Path) -> dict:
    """What all cells have to share (ToolError: `model` has no weights)."""
    recipe = yaml.safe_load(seeds.RECIPE.read_text(encoding="utf-8"))
    settings = [asdict(plan.SIZES[size]), seeds.SETTINGS, recipe, seeds.RULE.read_text(encoding="utf-8")]
    return describe(size, model, settings, {name: asdict(it) for name, it in CONDITIONS.items()})


def _all(table: dict) -> list:
    return [cell for cells in table.values() for cell in cells]
