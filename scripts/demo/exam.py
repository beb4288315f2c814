"""Held-out questions, the answers a model gives to them, and what the difference between two models is worth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import stats

from .questions import KINDS, Question, ask
from .rule import judge
from .scene import draw
from .writers import scenes


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


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
        asked = {"kind": question.kind, "question": question.text, "expected": question.answer, "answer": answer}
        records.append({**asked, "score": round(judgement.score, 2), "right": judgement.right})
    return records


def accuracy(records: Sequence[dict]) -> dict[str, dict]:
    """Accuracy with its Wilson interval, and mean score, for each kind and for "all"."""
    table = {}
    for name in (*KINDS, "all"):
        group = [record for record in records if name in ("all", record["kind"])]
        share = wilson(sum(record["right"] for record in group), len(group))
        table[name] = {
            "n": len(group),
            "accuracy": round(share.value, 4),
            "low": round(share.low, 4),
            "high": round(share.high, 4),
            "mean_score": round(sum(record["score"] for record in group) / len(group), 3),
        }
    return table


def wilson(right: int, total: int) -> Interval:
    """Wilson's 95 % score interval of a share (ValueError: `total` is 0)."""
    low, high = stats.binomtest(right, total).proportion_ci(method="wilson")
    return Interval(right / total, float(low), float(high))


def paired_difference(before: Sequence[float], after: Sequence[float]) -> Interval:
    """Mean of after - before over the same questions, with its normal 95 % interval.

    Raises:
        ValueError: different lengths, or fewer than two questions.
    """
    changes = np.subtract(after, before)
    if len(changes) < 2:
        raise ValueError("A paired difference needs at least two questions.")
    mean, half = float(changes.mean()), float(stats.norm.ppf(0.975) * stats.sem(changes))
    return Interval(mean, mean - half, mean + half)
