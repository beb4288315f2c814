"""The study: DPO, SimPO, IPO, margin-scaled DPO and Uni-DPO on a world where every answer's true quality is known.

    python scripts/study.py run                      everything: hours on two cores, resumable at any moment
    python scripts/study.py run --seeds 5 --experiments tuning main
    python scripts/study.py gather                   all results into one file, data/study/raw.jsonl
    python scripts/study.py report                   RESULTS.md, RESULTS_zh.md and pictures from the raw results
    python scripts/study.py repeat uni_dpo --seed 0  one cell again, compared with what the report says

`run` makes a start checkpoint for each seed, samples and judges preference pairs, tunes every method on validation
scenes with the same grid, and examines the best on test scenes by VLMEvalKit. Results are kept cell by cell, and the
same command goes on with what is missing. `report` reads the raw results in data/ and nothing else.

`--world words` asks the same of a real language model, which is downloaded: SmolLM2-135M-Instruct, short instructions,
and a rule that marks any answer.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

from common import ROOT, ToolError


# Each world has a folder below outputs/ and one below data/.
WORLDS = {"demo": "study", "words": "study_words"}
OUTPUTS, RAW = ROOT / "outputs", ROOT / "data"


def main(argv: list[str] | None = None) -> int:
    """Run one command; exit status 1 if a cell failed, 2 for bad input, 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    _fill(arguments)
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
    folders = " or ".join(WORLDS.values())
    options = {
        "method": {"help": "a method, as in the report's first table"},
        "--world": {"choices": list(WORLDS), "default": "demo", "help": "pictures, or words, see above"},
        "--seed": {"type": int, "default": 0, "help": "which seed"},
        "--seeds": {"type": int, "metavar": "N", "help": "seeds 0 to N - 1 (default: 6, or 3 with words)"},
        "--methods": {"nargs": "+", "metavar": "NAME", "help": "some of the methods (default: all)"},
        "--experiments": {"nargs": "+", "metavar": "NAME", "help": "some of those with pictures (default: all)"},
        "--list": {"action": "store_true", "help": "list methods, experiments and what is done, and stop"},
        "--size": {"default": "demo", "help": "demo, or test for a trial of minutes that shows nothing"},
        "--model": {"type": Path, "help": "what starts are made of (default: data/demo/checkpoint, or the download)"},
        "--jobs": {"type": int, "default": 0, "help": "runs at once (0: one a GPU, or one a core)"},
        "--out": {"type": Path, "help": f"the study's folder (default: {folders} in outputs)"},
        "--raw": {"type": Path, "help": f"folder with raw.jsonl and about.json (default: {folders} in data)"},
        "--words": {"type": Path, "default": RAW / WORLDS["words"], "help": "the same of the world of words"},
    }
    runs = ("--world", "--size", "--model", "--out", "--jobs")
    for work, about, names in (
        (run, "train and measure", ("--seeds", "--methods", "--experiments", "--list", *runs)),
        (gather, "put all results where `report` reads", ("--world", "--out", "--raw")),
        (report, "write the report from raw results", ("--raw", "--words", "--out")),
        (repeat, "run one cell again and compare", ("method", "--seed", "--raw", *runs)),
    ):
        command = commands.add_parser(work.__name__, help=about)
        for name in names:
            command.add_argument(name, **options[name])
        command.set_defaults(work=work, **({"out": ROOT, "world": "demo"} if work is report else {}))
    return parser


def _fill(arguments: argparse.Namespace) -> None:
    """Fill in what depends on the world."""
    folder, words = WORLDS[arguments.world], arguments.world == "words"
    defaults = {"out": OUTPUTS / folder, "raw": RAW / folder, "seeds": 3 if words else 6}
    defaults |= {} if words else {"model": RAW / "demo" / "checkpoint"}
    for name, value in defaults.items():
        if getattr(arguments, name, ...) is None:
            setattr(arguments, name, value)


def run(arguments: argparse.Namespace) -> int:
    """Run what is missing of the study, experiment by experiment."""
    if arguments.world == "words":
        if arguments.experiments or arguments.list:
            raise ToolError("--experiments and --list are about --world demo; with words there is one experiment")
        from .words import command

        return command.run(arguments, _pool(arguments))
    from . import plan, results
    from .methods import METHODS
    from .pool import require_done

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
        results.write_about(arguments.out, shared, pool.gpus, len(known))
        require_done(pool.prepare(seeds))
        if "tuning" in experiments:
            require_done(work("tuning", methods))  # everything else stands on it
        if "wider" in experiments:
            require_done(work("wider", results.best_of_grid(known, methods)))
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
    if arguments.world == "words":
        from .words import command

        command.gather(arguments)
    print(f"{len(known)} cells: {arguments.raw / 'raw.jsonl'}")
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Write the report from the raw results."""
    from .report import write_report

    for path in write_report(arguments.raw, arguments.words, arguments.out):
        print(path)
    return 0


def repeat(arguments: argparse.Namespace) -> int:
    """Run one cell of the first table again; exit status 1 if it falls outside of what was found."""
    if arguments.world == "words":
        from .words import command

        return command.repeat(arguments, _pool(arguments))
    from . import plan, results
    from .methods import METHODS
    from .outcomes import Study, benchmarks
    from .statistics import compare_repeated

    plan.check_names([arguments.method], METHODS, "method")
    known, about = results.Results(arguments.raw / "raw.jsonl"), results.read_about(arguments.raw)
    tuned = results.tuned_options(known, [arguments.method])
    shared = results.definitions(arguments.size, arguments.model)
    results.require_same(about, shared, f"what {arguments.raw} holds")
    cells = plan.cells_of("main", tuned, [arguments.seed])[arguments.method]
    again = _pool(arguments).run_again(arguments.seed, shared, cells)
    values = Study(known, tuned, known.seeds("test")).values("main")[arguments.method]
    text, inside = compare_repeated(arguments.method, arguments.seed, benchmarks(again), values)
    print(text)
    return 0 if inside else 1


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
    gpus, out = visible_gpus(), arguments.out.resolve()
    jobs, world = arguments.jobs or len(gpus) or os.cpu_count() or 1, {}
    size, model = SIZES[arguments.size], arguments.model
    if arguments.world == "words":
        from .words import plan
        from .words.checkpoint import fetch

        size, world = plan.SIZES[arguments.size], {"world": "study.words"}
        model = model or fetch(OUTPUTS / WORLDS["words"])
    return Pool(out, size, model.resolve(), jobs, gpus, **world)
