"""One table of checkpoints and benchmarks from what VLMEvalKit left.

    python scripts/summarize_eval.py outputs/eval                            all models evaluated there
    python scripts/summarize_eval.py start=eval/a dpo=eval/b unidpo=eval/c   three work folders, with names
    python scripts/summarize_eval.py outputs/eval --baseline dpo --paper     compared with one, beside the paper

WORK_DIR is what --work-dir was, a model's folder in it, or one run's folder T<time>. Every number is the one that
VLMEvalKit wrote, read by the rule of its benchmark (shares of one are shown in per cent). Differences to the baseline
get intervals from the results of single questions, paired by question. Sets that are missing or failed are named.

Exit status: 0 every cell has a number, 1 the table was written but some cells have none, 2 bad input.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from common import ROOT, ToolError


OUT = ROOT / "outputs" / "eval_table"


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        table = _table(arguments)
        paths = _write(arguments.out, table)
    except (ToolError, OSError) as error:
        print(f"summarize_eval.py: {error}", file=sys.stderr)
        return 2
    from .table import terminal

    print(terminal(table))
    print("\nwritten: " + "  ".join(map(str, paths)))
    return 0 if table.complete else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work_dirs", nargs="+", metavar="[LABEL=]WORK_DIR", help="where VLMEvalKit wrote its results")
    parser.add_argument("--data", nargs="+", metavar="NAME", help="rows of the table (default: all that are found)")
    baseline = "the column others are compared with (default: the first; none: no comparison)"
    parser.add_argument("--baseline", metavar="LABEL", help=baseline)
    parser.add_argument("--paper", action="store_true", help="show the published numbers beside ours")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for table.* (default: %(default)s)")
    parser.add_argument("--resamples", type=int, default=2000, help="bootstrap resamples (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: %(default)s)")
    return parser


def _table(arguments: argparse.Namespace):
    from .folders import find_checkpoints
    from .results import collect, compare, data_sets
    from .table import Table

    if arguments.resamples < 100:
        raise ToolError(f"--resamples {arguments.resamples} is too few for the ends of an interval: 100 or more")
    checkpoints = find_checkpoints(arguments.work_dirs)
    names = [checkpoint.label for checkpoint in checkpoints]
    baseline = arguments.baseline or names[0]
    if baseline not in (*names, "none"):
        raise ToolError(f"--baseline {baseline} is none of the checkpoints found: {', '.join(names)}")
    checkpoints.sort(key=lambda checkpoint: checkpoint.label != baseline)
    data = data_sets(checkpoints, arguments.data)
    results = collect(checkpoints, data)
    baseline = None if baseline == "none" or len(names) == 1 else baseline
    if baseline:
        compare(results, baseline, arguments.resamples, arguments.seed)
    labels = [checkpoint.label for checkpoint in checkpoints]
    return Table(labels, data, results, baseline, arguments.resamples, arguments.seed, arguments.paper)


def _write(out: Path, table) -> list[Path]:
    """Write all four files beside the old ones, then put all in place."""
    from .picture import draw
    from .table import as_json, comma_separated, markdown

    out.mkdir(parents=True, exist_ok=True)
    texts = {"table.md": markdown(table), "table.csv": comma_separated(table), "table.json": as_json(table)}
    with tempfile.TemporaryDirectory(dir=out, prefix=".part-") as part:
        for name, text in texts.items():
            (Path(part) / name).write_text(text, encoding="utf-8")
        draw(table, Path(part) / "table.png")
        for name in (*texts, "table.png"):
            os.replace(Path(part) / name, out / name)
    return [out / name for name in (*texts, "table.png")]
