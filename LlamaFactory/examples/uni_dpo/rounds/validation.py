"""How good a model is on held-out questions, and whether it is better than another one."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pair_data.errors import DataError
from pair_data.rows import read_rows


Z = 1.959963984540054  # of a normal distribution, for 95 %
Scores = dict[str, float | None]  # by question; None where there is no answer that could be scored


@dataclass(frozen=True)
class Estimate:
    """A mean over questions and its 95 % interval, by the normal approximation."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        """Write it as a table has it."""
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def read_scores(file: Path) -> Scores:
    """Read the score of each validation question, one answer each; equal questions are told apart by their number."""
    scores: Scores = {}
    for row in read_rows(file):
        name = json.dumps([row.get(part) for part in ("instruction", "history", "system", "images", "reference")])
        for number in range(len(scores) + 1):
            if (key := f"{name} {number}") not in scores:
                break
        scores[key] = row["answers"][0]["score"] if row["answers"] else None
    if unanswered(scores) == len(scores):
        raise DataError(f"{file} has no scored answer: nothing can be validated.")
    return scores


def unanswered(scores: Scores) -> int:
    """Count the questions without an answer that could be scored. They count with the lowest score of all others."""
    return list(scores.values()).count(None)


def mean(scores: Scores) -> Estimate:
    """Return the mean score."""
    return _estimate(_filled(scores, list(scores), scores))


def gain(before: Scores, after: Scores) -> Estimate:
    """Return the mean of after - before by question."""
    shared = [name for name in after if name in before]
    if not shared:
        raise DataError("two rounds have no validation question in common.")
    return _estimate(_filled(after, shared, before, after) - _filled(before, shared, before, after))


def _filled(scores: Scores, names: list[str], *among: Scores) -> np.ndarray:
    lowest = min(score for them in among for score in them.values() if score is not None)
    return np.array([lowest if scores[name] is None else scores[name] for name in names])


def _estimate(values: np.ndarray) -> Estimate:
    middle = float(values.mean())
    half = Z * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return Estimate(middle, middle - half, middle + half, len(values))
