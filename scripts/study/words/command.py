"""`study.py` in the world of words: `run`, `gather` and `repeat` there.

Sampled answers differ from machine to machine in their last bits, so the pairs are kept with the raw results, and who
repeats a cell trains on them.
"""

import argparse
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import yaml

from common import ROOT

from ..plan import check_names
from ..pool import Pool, require_done
from ..results import Results, describe, locked, read_about, require_same, write_about
from ..statistics import compare_repeated
from . import plan, seeds
from .conditions import BASE, CONDITIONS


SHIPPED = ROOT / "data" / "study_words"


def run(arguments: argparse.Namespace, pool: Pool) -> int:
    """Run what is missing: the start, every method at every point, and each at its best under every condition."""
    methods = arguments.methods or list(plan.METHODS)
    check_names(methods, plan.METHODS, "method")
    known, among = Results(arguments.out / "cells"), range(arguments.seeds)
    shared = definitions(arguments.size, pool.model)
    with locked(arguments.out):
        write_about(arguments.out, shared, pool.gpus, len(known))
        _bring_pairs(SHIPPED, arguments.out, shared)
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
    with locked(arguments.out):  # pairs go nowhere where another study is
        write_about(arguments.out, shared, pool.gpus, len(Results(arguments.out / "cells")))
        _bring_pairs(arguments.raw, arguments.out, shared)
    again = pool.run_again(arguments.seed, shared, wanted)
    text, inside = compare_repeated(arguments.method, arguments.seed, plan.exam(again), values)
    print(text)
    return 0 if inside else 1


def gather(arguments: argparse.Namespace) -> None:
    """Copy the pairs of all seeds to where the raw results are."""
    for pairs in arguments.out.glob(f"seeds/*/data/{seeds.PAIRS}"):
        shutil.copy(pairs, arguments.raw / _shipped(int(pairs.parts[-3])))


def _bring_pairs(raw: Path, out: Path, shared: dict) -> None:
    """Take the pairs of earlier results, if those are of the same model and settings."""
    if not (raw / "about.json").is_file() or any(read_about(raw).get(name) != it for name, it in shared.items()):
        return
    for file in raw.glob(_shipped("*")):
        pairs = out / "seeds" / file.stem.split("_")[-1] / "data" / seeds.PAIRS
        if not pairs.exists():
            pairs.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, pairs)
            print(f"pairs of seed {pairs.parts[-3]} are those of {file}", file=sys.stderr)


def _shipped(seed: int | str) -> str:
    return f"pairs_{seed}.json"


def definitions(size: str, model: Path) -> dict:
    """What all cells have to share (ToolError: `model` has no weights)."""
    recipe = yaml.safe_load(seeds.RECIPE.read_text(encoding="utf-8"))
    settings = [asdict(plan.SIZES[size]), seeds.SETTINGS, recipe, seeds.RULE.read_text(encoding="utf-8")]
    return describe(size, model, settings, {name: asdict(it) for name, it in CONDITIONS.items()})


def _all(table: dict) -> list:
    return [cell for cells in table.values() for cell in cells]
