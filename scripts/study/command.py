"""The study: DPO, SimPO, IPO, margin-scaled DPO and Uni-DPO on a world where every answer's true quality is known.

    python scripts/study.py run                      everything: hours on two cores, resumable at any moment
    python scripts/study.py run --seeds 5 --experiments tuning main
    python scripts/study.py gather                   all results into one file, data/study/raw.jsonl
    python scripts/study.py report                   RESULTS.md, RESULTS_zh.md and pictures from the raw results
    python scripts/study.py repeat uni_dpo --seed 0  one cell again, compared with what the report says

`run` makes a start checkpoint for each seed, samples and judges preference pairs, tunes every method on validation
scenes with the same grid, and examines the best on test scenes by VLMEvalKit. Results are kept cell by cell, and the
same command goes on with what is missing. `report` reads data/study/raw.jsonl and nothing else.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

from common import ROOT, ToolError


OUTPUTS = ROOT / "outputs" / "study"
RAW = ROOT / "data" / "study"


def main(argv: list[str] | None = None) -> int:
    """Run one command; exit status 1 if a cell failed, 2 for bad input, 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.work(arguments)
    except (ToolError, OSError) as error:
        print(f"study.py {arguments.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    model = ROOT / "data" / "demo" / "checkpoint"
    options = {
        "method": {"help": "a method, as in the report's first table"},
        "--seed": {"type": int, "default": 0, "help": "which seed"},
        "--seeds": {"type": int, "default": 6, "metavar": "N", "help": "seeds 0 to N - 1"},
        "--methods": {"nargs": "+", "metavar": "NAME", "help": "some of the methods (default: all)"},
        "--experiments": {"nargs": "+", "metavar": "NAME", "help": "some of the experiments (default: all)"},
        "--list": {"action": "store_true", "help": "list methods, experiments and what is done, and stop"},
        "--size": {"default": "demo", "help": "demo, or test for a trial of minutes that shows nothing"},
        "--model": {"type": Path, "default": model, "help": "what starts are made of"},
        "--jobs": {"type": int, "default": 0, "help": "runs at once (0: one a GPU, or one a core)"},
        "--out": {"type": Path, "default": OUTPUTS, "help": "the study's folder"},
        "--raw": {"type": Path, "default": RAW, "help": "folder with raw.jsonl and about.json"},
    }
    runs = ("--size", "--model", "--out", "--jobs")
    for work, about, names in (
        (run, "train and measure", ("--seeds", "--methods", "--experiments", "--list", *runs)),
        (gather, "put all results where `report` reads", ("--out", "--raw")),
        (report, "write the report from raw results", ("--raw", "--out")),
        (repeat, "run one cell again and compare", ("method", "--seed", "--raw", *runs)),
    ):
        shape = argparse.ArgumentDefaultsHelpFormatter
        command = commands.add_parser(work.__name__, help=about, formatter_class=shape)
        for name in names:
            command.add_argument(name, **options[name])
        command.set_defaults(work=work, **({"out": ROOT} if work is report else {}))
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Run what is missing of the study, experiment by experiment."""
    from . import plan, results
    from .methods import METHODS

    methods = arguments.methods or list(METHODS)
    experiments = arguments.experiments or list(plan.EXPERIMENTS)
    plan.check_names(methods, METHODS, "method")
    plan.check_names(experiments, plan.EXPERIMENTS, "experiment")
    if "uni_dpo" not in methods and set(experiments) - {"tuning", "wider", "main"}:
        raise ToolError(
            "only `tuning`, `wider` and `main` can do without uni_dpo: name it, or --experiments tuning main"
        )
    pool, shared = _pool(arguments), results.definitions(arguments.size, arguments.model)
    known, seeds = results.Results(arguments.out / "cells"), range(arguments.seeds)
    if arguments.list:
        return _list(known)

    def work(name: str, tuned) -> list[str]:
        cells = plan.cells_of(name, tuned, seeds).values()
        return pool.run(name, [cell for variant in cells for cell in variant], known)

    with results.locked(arguments.out):
        results.write_about(arguments.out, shared, pool.gpus)
        _require_done(pool.prepare(seeds))
        if "tuning" in experiments:
            _require_done(work("tuning", methods))  # everything else stands on it
        if "wider" in experiments:
            _require_done(work("wider", results.best_of_grid(known, methods)))
        tuned, failed = results.tuned_options(known, methods), []
        for name in [name for name in plan.EXPERIMENTS if name in experiments and name not in ("tuning", "wider")]:
            failed += work(name, tuned)
        print(f"{len(known)} cells are done, {len(failed)} failed: {known.path}")
    return 1 if failed else 0


def gather(arguments: argparse.Namespace) -> int:
    """Put all results of a study into the folder that the report reads."""
    from .results import Results, read_about

    known = Results(arguments.out / "cells")
    if not len(known):
        raise ToolError(f"{known.path} holds no results: `study.py run` makes them")
    read_about(arguments.out)
    known.gather(arguments.raw / "raw.jsonl")
    shutil.copy(arguments.out / "about.json", arguments.raw / "about.json")
    print(f"{len(known)} cells: {arguments.raw / 'raw.jsonl'}")
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Write the report from the raw results."""
    from .report import write_report

    for path in write_report(arguments.raw, arguments.out):
        print(path)
    return 0


def repeat(arguments: argparse.Namespace) -> int:
    """Run one cell of the first table again; exit status 1 if it falls outside of what was found."""
    from . import plan, results
    from .methods import METHODS
    from .report import compare_repeated
    from .tables import Study

    plan.check_names([arguments.method], METHODS, "method")
    known, about = results.Results(arguments.raw / "raw.jsonl"), results.read_about(arguments.raw)
    tuned = results.tuned_options(known, [arguments.method])
    shared = results.definitions(arguments.size, arguments.model)
    results.require_same(about, shared, f"what {arguments.raw} holds")
    pool, cells = _pool(arguments), plan.cells_of("main", tuned, [arguments.seed])[arguments.method]
    with results.locked(arguments.out):
        results.write_about(arguments.out, shared, pool.gpus)
        _require_done(pool.prepare([arguments.seed]))
        shutil.rmtree(arguments.out / "repeated", ignore_errors=True)  # an old run is no repetition
        repeated = results.Results(arguments.out / "repeated")
        _require_done(pool.run(arguments.method, cells, repeated))
    study = Study(known, tuned, known.seeds("test"))
    text, inside = compare_repeated(arguments.method, repeated.of(cells)[0], study)
    print(text)
    return 0 if inside else 1


def _require_done(failed: list[str]) -> None:
    if failed:
        raise ToolError("; ".join(failed))


def _list(known) -> int:
    from .methods import METHODS
    from .plan import EXPERIMENTS

    print("methods:     " + " ".join(METHODS))
    for name, experiment in EXPERIMENTS.items():
        print(f"{name:12} {experiment.about}")
    kinds = [result["measure"] for result in known.all()]
    done = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    print(f"cells done, by what they measure: {done or 'none'} ({known.path})")
    return 0


def _pool(arguments: argparse.Namespace):
    from .plan import SIZES, check_names
    from .pool import Pool
    from .results import visible_gpus

    check_names([arguments.size], SIZES, "size")
    gpus = visible_gpus()
    jobs = arguments.jobs or len(gpus) or os.cpu_count() or 1
    return Pool(Path(arguments.out).resolve(), SIZES[arguments.size], arguments.model.resolve(), jobs, gpus)
