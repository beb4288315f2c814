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
import json
import platform
import shlex
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

from PIL import Image

from common import ROOT, write_json, write_text

from .exam import Interval, accuracy, exam, mark, paired_difference, wilson
from .habits import careless_answer
from .questions import KINDS, ask
from .rule import judge
from .scene import SIDE, SPLITS, draw
from .writers import scenes


OUTPUTS = ROOT / "outputs" / "demo"
CHECKPOINT = ROOT / "data" / "demo" / "checkpoint"
PACKAGES = ("torch", "transformers", "llamafactory", "tokenizers", "pillow")


def main(argv: list[str] | None = None) -> int:
    """Run one command; bad input is one line on stderr and exit status 2."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.work(arguments)
    except (FileNotFoundError, ValueError) as error:
        print(f"demo.py {arguments.command}: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, work, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        made.add_argument("--seed", type=int, default=0, help="seed of everything random in this command")
        made.set_defaults(work=work)
        return made

    it = command("world", world, "Draw a sheet of scenes and list their questions, answers and scores.")
    it.add_argument("--out", type=Path, default=OUTPUTS / "world", help="folder for sheet.png and questions.jsonl")
    it.add_argument("--count", type=int, default=32, help="scenes to draw")

    it = command("sft", sft, "Build the tiny Qwen2-VL and train it with LlamaFactory's sft stage.")
    contents = "checkpoint/, train_log.jsonl and accuracy.json are made in it"
    it.add_argument("--out", type=Path, default=OUTPUTS / "sft", help=f"working folder; {contents}")
    it.add_argument("--scale", type=float, default=1.0, help="share of the rows of every stage, to try it out")
    it.add_argument("--per-kind", type=int, default=250, help="test questions of each kind, for accuracy.json")

    it = command("pairs", pairs, "Sample answers from a model and make scored preference pairs of them.")
    it.add_argument("--model", type=Path, default=CHECKPOINT, help="checkpoint whose answers are compared")
    it.add_argument("--out", type=Path, default=OUTPUTS / "pairs", help="folder for the data sets")
    it.add_argument("--train", type=int, default=1600, help="questions about training scenes")
    it.add_argument("--val", type=int, default=320, help="questions about validation scenes")
    it.add_argument("--samples", type=int, default=6, help="answers sampled for each question")
    it.add_argument("--temperature", type=float, default=1.0, help="of the sampling")
    it.add_argument("--score-std", type=float, default=0.5, help="error of the judge's scores, in points of 10")
    it.add_argument("--ambiguous", type=float, default=0.2, help="share of pairs of nearly equal answers")
    it.add_argument("--mislabelled", type=float, default=0.08, help="share of pairs with exchanged scores")

    it = command("eval", evaluate, "Ask a model held-out questions and mark its greedy answers.")
    it.add_argument("--model", type=Path, required=True, help="checkpoint to examine")
    it.add_argument("--out", type=Path, required=True, help="FILE.json for accuracies; answers go to FILE.jsonl")
    it.add_argument("--split", choices=SPLITS, default="test", help="which scenes")
    it.add_argument("--per-kind", type=int, default=100, help="questions of each of the eight kinds")
    it.add_argument("--pairs", type=Path, help="folder of `pairs`: also rank its held-out pairs")

    it = command("benchmarks", benchmarks, "Write held-out questions as benchmarks for VLMEvalKit, and a config.")
    it.add_argument("--out", type=Path, default=OUTPUTS / "benchmarks", help="folder to use as LMUData")
    it.add_argument("--rows", type=int, default=200, help="questions of each of the four benchmarks")
    it.add_argument("--split", choices=SPLITS, default="test", help="which scenes")

    it = command("compare", compare, "Show two results of `eval` side by side, differences paired by question.")
    it.add_argument("before", type=Path, help="FILE.json of the start")
    it.add_argument("after", type=Path, help="FILE.json of the trained model")
    it.add_argument("--out", type=Path, help="also write the table to this file")
    return parser


def world(arguments: argparse.Namespace) -> None:
    """Draw a sheet of scenes and list their questions."""
    columns = 8
    sheet = Image.new("RGB", (columns * SIDE, -(-arguments.count // columns) * SIDE), "white")
    lines = []
    for index, (scene, rng) in enumerate(scenes("train", arguments.count, arguments.seed, "world")):
        sheet.paste(draw(scene, rng), (index % columns * SIDE, index // columns * SIDE))
        for question in ask(scene, rng):
            answers = [question.answer, careless_answer(question, rng), "I like turtles.", ""]
            scores = {answer: round(judge(question, answer).score, 2) for answer in answers}
            lines.append({"scene": index, "kind": question.kind, "question": question.text, "scores": scores})
    arguments.out.mkdir(parents=True, exist_ok=True)
    sheet.save(arguments.out / "sheet.png")
    _write_lines(arguments.out / "questions.jsonl", lines)
    print(f"{arguments.count} scenes: {arguments.out / 'sheet.png'}")
    print(f"{len(lines)} questions with the scores of a few answers: {arguments.out / 'questions.jsonl'}")


def sft(arguments: argparse.Namespace) -> None:
    """Make the start checkpoint and examine it."""
    from .checkpoint import train_checkpoint

    arguments.model = train_checkpoint(arguments.out, arguments.scale, arguments.seed)
    arguments.split, arguments.pairs, arguments.out = "test", None, arguments.out / "accuracy.json"
    evaluate(arguments)
    print(f"checkpoint: {arguments.model}")


def pairs(arguments: argparse.Namespace) -> None:
    """Sample, score and label preference pairs."""
    from .pairs import Noise, write_sampled_pairs

    asked = (arguments.train, arguments.val, arguments.samples, arguments.temperature)
    noise = Noise(arguments.score_std, arguments.ambiguous, arguments.mislabelled)
    datasets = write_sampled_pairs(arguments.model, arguments.out, *asked, noise, arguments.seed)
    for name, rows in datasets.items():
        labels = Counter(row["label"] for row in rows)
        shown = ", ".join(f"{labels[label]} {label}" for label in ("clear", "ambiguous", "mislabelled"))
        print(f"{name}: {len(rows)} pairs ({shown}) in {arguments.out / name}.json")


def evaluate(arguments: argparse.Namespace) -> None:
    """Examine a model; write accuracies as JSON, answers and ranked pairs as JSONL."""
    from .generate import Answerer

    answerer = Answerer(arguments.model)
    questions = exam(arguments.split, arguments.per_kind, arguments.seed)
    answers = [texts[0] for texts in answerer.answers([(question.text, image) for question, image in questions])]
    records = mark([question for question, _ in questions], answers)
    _write_lines(arguments.out.with_suffix(".jsonl"), records)
    result = {
        "model": str(arguments.model),
        "split": arguments.split,
        "seed": arguments.seed,
        "accuracy": accuracy(records),
        "command": shlex.join(["python", *sys.argv]),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
    if arguments.pairs:
        result["pairs"] = _rank_pairs(answerer, arguments.pairs, arguments.out.with_suffix(".pairs.jsonl"))
    write_json(arguments.out, result, indent=2)
    for kind, row in result["accuracy"].items():
        print(f"{kind:12} {100 * row['accuracy']:5.1f} % [{100 * row['low']:.1f}, {100 * row['high']:.1f}]", end="")
        print(f"   mean score {row['mean_score']:.2f}   n = {row['n']}")
    print(f"accuracy: {arguments.out}\nanswers:  {arguments.out.with_suffix('.jsonl')}")


def _rank_pairs(answerer, folder: Path, out: Path) -> dict:
    """Mean log-probs of both sides of every held-out pair, and how often the chosen side is the likelier."""
    rows = json.loads((folder / "demo_pairs_val.json").read_text(encoding="utf-8"))
    images = [Image.open(folder / row["images"][0]).convert("RGB") for row in rows]
    asked = [(row["instruction"].removeprefix("<image>"), image) for row, image in zip(rows, images, strict=True)]
    chosen, rejected = (
        answerer.mean_logps([(*question, row[side]) for question, row in zip(asked, rows, strict=True)])
        for side in ("chosen", "rejected")
    )
    records = [
        {"chosen_logps": first, "rejected_logps": second, "kind": row["kind"], "label": row["label"]}
        for first, second, row in zip(chosen, rejected, rows, strict=True)
    ]
    _write_lines(out, records)
    likelier = wilson(sum(record["chosen_logps"] > record["rejected_logps"] for record in records), len(records))
    return {"n": len(records), "chosen_likelier": likelier.value, "low": likelier.low, "high": likelier.high}


def benchmarks(arguments: argparse.Namespace) -> None:
    """Write VLMEvalKit's data and a config for it."""
    from .benchmarks import write_benchmarks, write_config

    paths = write_benchmarks(arguments.out, arguments.rows, arguments.seed, arguments.split)
    path = write_config(arguments.out)
    print(f"{len(paths)} benchmarks of {arguments.rows} questions in {arguments.out}, with {path.name}. To run them:")
    print(f"LMUData={arguments.out} python -m vlmeval.uni_dpo --config {path} --model NAME=CHECKPOINT ...")


def compare(arguments: argparse.Namespace) -> None:
    """Print accuracies before and after, and the differences paired by question."""
    paths = (arguments.before, arguments.after)
    tables = [json.loads(path.read_text(encoding="utf-8"))["accuracy"] for path in paths]
    before, after = (_read_lines(path.with_suffix(".jsonl")) for path in paths)
    if [record["question"] for record in before] != [record["question"] for record in after]:
        raise ValueError(f"{arguments.before} and {arguments.after} answer different questions: evaluate both alike.")
    lines = ["held-out answers   before   after   difference, 95 % interval paired by question"]
    for kind in (*KINDS, "all"):
        rights = ([it["right"] for it in records if kind in ("all", it["kind"])] for records in (before, after))
        change, shares = _change(*rights), [100 * table[kind]["accuracy"] for table in tables]
        lines.append(f"  {kind:14} {shares[0]:6.1f} % {shares[1]:6.1f} %   {change}")
    scores = [[record["score"] for record in records] for records in (before, after)]
    means, change = [sum(values) / len(values) for values in scores], paired_difference(*scores)
    interval = f"[{change.low:+.2f}, {change.high:+.2f}]"
    lines.append(f"  mean score     {means[0]:6.2f}   {means[1]:6.2f}     {change.value:+.2f} {interval} of 10")
    ranked = [path.with_suffix(".pairs.jsonl") for path in paths]
    if all(path.is_file() for path in ranked):
        lines += _compare_pairs(*map(_read_lines, ranked))
    print("\n".join(lines))
    if arguments.out:
        write_text(arguments.out, "\n".join(lines) + "\n")


def _compare_pairs(before: list[dict], after: list[dict]) -> list[str]:
    margins = [[it["chosen_logps"] - it["rejected_logps"] for it in records] for records in (before, after)]
    likelier = [[margin > 0 for margin in side] for side in margins]
    shares = [100 * sum(side) / len(side) for side in likelier]
    gained = wilson(sum(late > early for early, late in zip(*margins, strict=True)), len(before))
    accuracy = f"{100 * gained.value:.1f} % [{100 * gained.low:.1f}, {100 * gained.high:.1f}]"
    return [
        f"held-out pairs (n = {len(before)}, noisy labels)",
        f"  chosen likelier{shares[0]:6.1f} % {shares[1]:6.1f} %   {_change(*likelier)}",
        f"  reward accuracy   none   {accuracy}   (before training every reward is zero)",
    ]


def _change(before: list[bool], after: list[bool]) -> str:
    it: Interval = paired_difference([float(right) for right in before], [float(right) for right in after])
    return f"{100 * it.value:+5.1f} points [{100 * it.low:+.1f}, {100 * it.high:+.1f}]"


def _write_lines(path: Path, records: list[dict]) -> None:
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def _read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
