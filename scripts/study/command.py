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
import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]
OUTPUTS = ROOT / "outputs" / "study"
RAW = ROOT / "data" / "study"


def main(argv: list[str] | None = None) -> int:
    """Run one command; exit status 1 if a cell failed, 2 for bad input, 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    from common import ToolError
    from study import commands

    try:
        return getattr(commands, arguments.command)(arguments)
    except (ToolError, OSError) as error:
        print(f"study.py {arguments.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shape = argparse.ArgumentDefaultsHelpFormatter

    run = commands.add_parser("run", help="train and measure", formatter_class=shape)
    run.add_argument("--seeds", type=int, default=6, metavar="N", help="seeds 0 to N - 1")
    run.add_argument("--methods", nargs="+", metavar="NAME", help="some of the methods (default: all)")
    run.add_argument("--experiments", nargs="+", metavar="NAME", help="some of the experiments (default: all)")
    run.add_argument("--list", action="store_true", help="list methods, experiments and what is done, and stop")
    _places(run)

    gather = commands.add_parser("gather", help="put all results where `report` reads", formatter_class=shape)
    gather.add_argument("--out", type=Path, default=OUTPUTS, help="the study's folder")
    gather.add_argument("--raw", type=Path, default=RAW, help="folder for raw.jsonl and about.json")

    report = commands.add_parser("report", help="write the report from raw results", formatter_class=shape)
    report.add_argument("--raw", type=Path, default=RAW, help="folder with raw.jsonl and about.json")
    report.add_argument("--out", type=Path, default=ROOT, help="folder for RESULTS.md and RESULTS_zh.md")

    repeat = commands.add_parser("repeat", help="run one cell again and compare", formatter_class=shape)
    repeat.add_argument("method", help="a method, as in the report's first table")
    repeat.add_argument("--seed", type=int, default=0, help="which seed")
    repeat.add_argument("--raw", type=Path, default=RAW, help="folder with the raw results to compare with")
    _places(repeat)
    return parser


def _places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", default="demo", help="demo, or test for a trial of minutes that shows nothing")
    parser.add_argument(
        "--model", type=Path, default=ROOT / "data" / "demo" / "checkpoint", help="what starts are made of"
    )
    parser.add_argument("--out", type=Path, default=OUTPUTS, help="folder for everything")
    parser.add_argument("--jobs", type=int, default=0, help="runs at once (0: one a GPU, or one a core)")
