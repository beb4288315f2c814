"""The demo world from the command line: look at it, make the checkpoint, sample pairs, examine a model, compare two.

    python scripts/demo.py world                                     pictures, questions and what answers score
    python scripts/demo.py sft                                       remake the shipped checkpoint (long)
    python scripts/demo.py pairs --model data/demo/checkpoint        preference pairs sampled from a model
    python scripts/demo.py eval --model DIR --out answers.json       accuracy by kind of question, held-out scenes
    python scripts/demo.py benchmarks                                held-out questions as VLMEvalKit's TSV files
    python scripts/demo.py compare BEFORE.json AFTER.json            what training changed, with intervals

Everything is written below outputs/demo unless told otherwise. Each command explains itself: demo.py COMMAND --help.
"""

import argparse
import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]
OUTPUTS = ROOT / "outputs" / "demo"
CHECKPOINT = ROOT / "data" / "demo" / "checkpoint"


def main(argv: list[str] | None = None) -> int:
    """Run one command; bad input is one line on stderr and exit status 2."""
    arguments = _parser().parse_args(argv)
    from demo.commands import COMMANDS  # torch and transformers take seconds to import; --help should not

    try:
        COMMANDS[arguments.command](arguments)
    except (FileNotFoundError, ValueError) as error:
        print(f"demo.py {arguments.command}: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, formatter_class=_Help)
        made.add_argument("--seed", type=int, default=0, help="seed of everything random in this command")
        return made

    world = command("world", "Draw a sheet of scenes and list their questions, answers and scores.")
    world.add_argument("--out", type=Path, default=OUTPUTS / "world", help="folder for sheet.png and questions.jsonl")
    world.add_argument("--count", type=int, default=32, help="scenes to draw")

    sft = command("sft", "Build the tiny Qwen2-VL and train it with LlamaFactory's sft stage.")
    sft.add_argument(
        "--out",
        type=Path,
        default=OUTPUTS / "sft",
        help="working folder; checkpoint/, train_log.jsonl and accuracy.json are made in it",
    )
    sft.add_argument("--scale", type=float, default=1.0, help="share of the rows of every stage, to try it out")
    sft.add_argument("--per-kind", type=int, default=250, help="test questions of each kind, for accuracy.json")

    pairs = command("pairs", "Sample answers from a model and make scored preference pairs of them.")
    pairs.add_argument("--model", type=Path, default=CHECKPOINT, help="checkpoint whose answers are compared")
    pairs.add_argument("--out", type=Path, default=OUTPUTS / "pairs", help="folder for the data sets")
    pairs.add_argument("--train", type=int, default=1600, help="questions about training scenes")
    pairs.add_argument("--val", type=int, default=320, help="questions about validation scenes")
    pairs.add_argument("--samples", type=int, default=6, help="answers sampled for each question")
    pairs.add_argument("--temperature", type=float, default=1.0, help="of the sampling")
    pairs.add_argument("--score-std", type=float, default=0.5, help="error of the judge's scores, in points of 10")
    pairs.add_argument("--ambiguous", type=float, default=0.2, help="share of pairs of nearly equal answers")
    pairs.add_argument("--mislabelled", type=float, default=0.08, help="share of pairs with exchanged scores")

    examine = command("eval", "Ask a model held-out questions and mark its greedy answers.")
    examine.add_argument("--model", type=Path, required=True, help="checkpoint to examine")
    examine.add_argument("--out", type=Path, required=True, help="FILE.json for accuracies; answers go to FILE.jsonl")
    examine.add_argument("--split", choices=("train", "val", "test"), default="test", help="which scenes")
    examine.add_argument("--per-kind", type=int, default=100, help="questions of each of the eight kinds")
    examine.add_argument("--pairs", type=Path, help="folder of `pairs`: also rank its held-out pairs")

    files = command("benchmarks", "Write held-out questions as benchmarks for VLMEvalKit, and a config to run them.")
    files.add_argument("--out", type=Path, default=OUTPUTS / "benchmarks", help="folder to use as LMUData")
    files.add_argument("--rows", type=int, default=200, help="questions of each of the four benchmarks")
    files.add_argument("--split", choices=("train", "val", "test"), default="test", help="which scenes")

    compare = command("compare", "Show two results of `eval` side by side, differences paired by question.")
    compare.add_argument("before", type=Path, help="FILE.json of the start")
    compare.add_argument("after", type=Path, help="FILE.json of the trained model")
    compare.add_argument("--out", type=Path, help="also write the table to this file")
    return parser


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    pass
