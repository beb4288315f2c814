"""Held-out questions, the answers a model gives to them, and what the difference between two models is worth."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .questions import KINDS, Question, ask
from .rule import judge
from .scene import draw
from .writers import scenes, write_whole


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval, all as shares."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """In per cent: "71.3 % [68.0, 74.4]"."""
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def exam(split: str, per_kind: int, seed: int) -> list[tuple[Question, Image.Image]]:
    """`per_kind` questions of every kind, each about a scene of its own, in the order of `KINDS`."""
    wanted = {kind: [] for kind in KINDS}
    # Endless in effect: every family of scenes keeps coming until all kinds are served.
    for scene, rng in scenes(split, 1000 * per_kind, seed, "exam"):
        image, questions = draw(scene, rng), ask(scene, rng)
        open_kinds = [kind for kind in {question.kind: None for question in questions} if len(wanted[kind]) < per_kind]
        if open_kinds:
            kind = min(open_kinds, key=lambda kind: len(wanted[kind]))
            question = rng.choice([question for question in questions if question.kind == kind])
            wanted[kind].append((question, image))
        if all(len(items) == per_kind for items in wanted.values()):
            break
    return [item for items in wanted.values() for item in items]


def mark(questions: Sequence[Question], answers: Sequence[str]) -> list[dict]:
    """One record an answer: kind, question, truth, answer, score and whether it is right."""
    records = []
    for question, answer in zip(questions, answers, strict=True):
        judgement = judge(question, answer)
        records.append(
            {
                "kind": question.kind,
                "question": question.text,
                "expected": question.answer,
                "answer": answer,
                "score": round(judgement.score, 2),
                "right": judgement.right,
            }
        )
    return records


def accuracy(records: Sequence[dict]) -> dict[str, dict]:
    """Accuracy with its Wilson interval, and mean score, for each kind and for "all"."""
    groups = {kind: [record for record in records if record["kind"] == kind] for kind in KINDS}
    table = {}
    for name, group in {**groups, "all": list(records)}.items():
        interval = wilson(sum(record["right"] for record in group), len(group))
        table[name] = {
            "n": len(group),
            "accuracy": round(interval.value, 4),
            "low": round(interval.low, 4),
            "high": round(interval.high, 4),
            "mean_score": round(sum(record["score"] for record in group) / len(group), 3),
        }
    return table


def wilson(right: int, total: int) -> Interval:
    """Wilson's 95 % score interval of a share.

    Raises:
        ValueError: `total` is 0.
    """
    if total == 0:
        raise ValueError("There is no share of nothing: total is 0.")
    z2 = 1.96**2
    share = right / total
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = 1.96 * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    return Interval(share, middle - half, middle + half)


def paired_difference(before: Sequence[float], after: Sequence[float]) -> Interval:
    """Mean of after - before over the same questions, with its normal 95 % interval.

    Raises:
        ValueError: different lengths, or fewer than two questions.
    """
    changes = [b - a for a, b in zip(before, after, strict=True)]
    if len(changes) < 2:
        raise ValueError("A paired difference needs at least two questions.")
    mean = sum(changes) / len(changes)
    variance = sum((change - mean) ** 2 for change in changes) / (len(changes) - 1)
    half = 1.96 * math.sqrt(variance / len(changes))
    return Interval(mean, mean - half, mean + half)


def write_records(path: Path, records: Sequence[dict]) -> None:
    """Write records as JSON lines."""
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    write_whole(path, lambda file: file.writelines(lines))


def read_records(path: Path) -> list[dict]:
    """Read JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
