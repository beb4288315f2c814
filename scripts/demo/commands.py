"""What scripts/demo.py does, one function a command. Each takes the parsed arguments and prints where to look."""

import argparse
import json
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

from PIL import Image

from .benchmarks import data_config, write_benchmarks
from .checkpoint import train_checkpoint
from .exam import accuracy, exam, mark, paired_difference, read_records, wilson, write_records
from .generate import Answerer
from .habits import careless_answer
from .noise import Noise
from .pairs import write_sampled_pairs
from .questions import KINDS, ask
from .rule import judge
from .scene import SIDE, draw
from .writers import scenes, write_whole


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
    write_records(arguments.out / "questions.jsonl", lines)
    print(f"{arguments.count} scenes: {arguments.out / 'sheet.png'}")
    print(f"{len(lines)} questions with the scores of a few answers: {arguments.out / 'questions.jsonl'}")


def sft(arguments: argparse.Namespace) -> None:
    """Make the start checkpoint and examine it."""
    checkpoint = train_checkpoint(arguments.out, arguments.scale, arguments.seed)
    arguments.model, arguments.split, arguments.pairs = checkpoint, "test", None
    arguments.out = arguments.out / "accuracy.json"
    evaluate(arguments)
    print(f"checkpoint: {checkpoint}")


def pairs(arguments: argparse.Namespace) -> None:
    """Sample, score and label preference pairs."""
    counts = write_sampled_pairs(
        arguments.model,
        arguments.out,
        arguments.train,
        arguments.val,
        arguments.samples,
        arguments.temperature,
        Noise(arguments.score_std, arguments.ambiguous, arguments.mislabelled),
        arguments.seed,
    )
    for name, count in counts.items():
        rows = json.loads((arguments.out / f"{name}.json").read_text(encoding="utf-8"))
        labels = {label: sum(row["label"] == label for row in rows) for label in ("clear", "ambiguous", "mislabelled")}
        shown = ", ".join(f"{number} {label}" for label, number in labels.items())
        print(f"{name}: {count} pairs ({shown}) in {arguments.out / name}.json")


def evaluate(arguments: argparse.Namespace) -> None:
    """Examine a model; write accuracies as JSON, answers and ranked pairs as JSONL."""
    answerer = Answerer(arguments.model)
    questions = exam(arguments.split, arguments.per_kind, arguments.seed)
    answers = [texts[0] for texts in answerer.answers([(question.text, image) for question, image in questions])]
    records = mark([question for question, _ in questions], answers)
    write_records(arguments.out.with_suffix(".jsonl"), records)
    result = {
        "model": str(arguments.model),
        "split": arguments.split,
        "seed": arguments.seed,
        "accuracy": accuracy(records),
        "command": shlex.join(["python", *sys.argv]),
        "versions": versions(),
    }
    if arguments.pairs:
        result["pairs"] = _rank_pairs(answerer, arguments.pairs, arguments.out.with_suffix(".pairs.jsonl"))
    write_whole(arguments.out, lambda file: file.write(json.dumps(result, indent=2) + "\n"))
    for kind, row in result["accuracy"].items():
        print(f"{kind:12} {100 * row['accuracy']:5.1f} % [{100 * row['low']:.1f}, {100 * row['high']:.1f}]", end="")
        print(f"   mean score {row['mean_score']:.2f}   n = {row['n']}")
    print(f"accuracy: {arguments.out}\nanswers:  {arguments.out.with_suffix('.jsonl')}")


def _rank_pairs(answerer: Answerer, folder: Path, out: Path) -> dict:
    """Mean log-probs of both sides of every held-out pair, and how often the chosen side is the likelier."""
    rows = json.loads((folder / "demo_pairs_val.json").read_text(encoding="utf-8"))
    prompts = [
        (row["instruction"].removeprefix("<image>"), Image.open(folder / row["images"][0]).convert("RGB"))
        for row in rows
    ]
    sides = {
        side: answerer.mean_logps([(*prompt, row[side]) for prompt, row in zip(prompts, rows, strict=True)])
        for side in ("chosen", "rejected")
    }
    records = [
        {"chosen_logps": chosen, "rejected_logps": rejected, "kind": row["kind"], "label": row["label"]}
        for chosen, rejected, row in zip(sides["chosen"], sides["rejected"], rows, strict=True)
    ]
    write_records(out, records)
    likelier = wilson(sum(record["chosen_logps"] > record["rejected_logps"] for record in records), len(records))
    return {"n": len(records), "chosen_likelier": likelier.value, "low": likelier.low, "high": likelier.high}


def benchmarks(arguments: argparse.Namespace) -> None:
    """Write VLMEvalKit's data and a config that names it."""
    paths = write_benchmarks(arguments.out, arguments.rows, arguments.seed, arguments.split)
    model = {"class": "UniDPOQwen2VL", "model_path": "$MODEL", "max_new_tokens": 64}
    config = {"judge": "exact_matching", "model": {"checkpoint": model}, "data": data_config()}
    path = arguments.out / "config.json"
    write_whole(path, lambda file: file.write(json.dumps(config, indent=2) + "\n"))
    print(f"{len(paths)} benchmarks of {arguments.rows} questions in {arguments.out}, with {path.name}. To run them:")
    print(f"LMUData={arguments.out} python -m vlmeval.uni_dpo --config {path} --model NAME=CHECKPOINT ...")


def compare(arguments: argparse.Namespace) -> None:
    """Print accuracies before and after, and the differences paired by question."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in (arguments.before, arguments.after)]
    before, after = (read_records(path.with_suffix(".jsonl")) for path in (arguments.before, arguments.after))
    if [record["question"] for record in before] != [record["question"] for record in after]:
        raise ValueError(f"{arguments.before} and {arguments.after} answer different questions: evaluate both alike.")
    lines = ["held-out answers   before   after   difference, 95 % interval paired by question"]
    for kind in (*KINDS, "all"):
        rights = [
            [float(record["right"]) for record in records if kind in ("all", record["kind"])]
            for records in (before, after)
        ]
        change = paired_difference(*rights)
        shares = [100 * result["accuracy"][kind]["accuracy"] for result in results]
        lines.append(f"  {kind:14} {shares[0]:6.1f} % {shares[1]:6.1f} %   {_points(change)}")
    scores = [[record["score"] for record in records] for records in (before, after)]
    means, change = [sum(values) / len(values) for values in scores], paired_difference(*scores)
    interval = f"[{change.low:+.2f}, {change.high:+.2f}]"
    lines.append(f"  mean score     {means[0]:6.2f}   {means[1]:6.2f}     {change.value:+.2f} {interval} of 10")
    lines += _compare_pairs(arguments.before, arguments.after)
    print("\n".join(lines))
    if arguments.out:
        write_whole(arguments.out, lambda file: file.write("\n".join(lines) + "\n"))


def _compare_pairs(before_path: Path, after_path: Path) -> list[str]:
    paths = [path.with_suffix(".pairs.jsonl") for path in (before_path, after_path)]
    if not all(path.is_file() for path in paths):
        return []
    before, after = (read_records(path) for path in paths)
    margins = [
        [record["chosen_logps"] - record["rejected_logps"] for record in records] for records in (before, after)
    ]
    likelier = [[float(margin > 0) for margin in side] for side in margins]
    change = paired_difference(*likelier)
    gained = sum(late > early for early, late in zip(*margins, strict=True))
    shares = [100 * sum(side) / len(side) for side in likelier]
    return [
        f"held-out pairs (n = {len(before)}, noisy labels)",
        f"  chosen likelier{shares[0]:6.1f} % {shares[1]:6.1f} %   {_points(change)}",
        f"  reward accuracy   none   {wilson(gained, len(before))}   (before training every reward is zero)",
    ]


def _points(change) -> str:
    return f"{100 * change.value:+5.1f} points [{100 * change.low:+.1f}, {100 * change.high:+.1f}]"


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    packages = ("torch", "transformers", "llamafactory", "tokenizers", "pillow")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


COMMANDS = {
    "world": world,
    "sft": sft,
    "pairs": pairs,
    "eval": evaluate,
    "benchmarks": benchmarks,
    "compare": compare,
}
