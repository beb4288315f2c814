"""What the scores of several answers to a question say: whether there is something to choose from."""

from array import array
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np


MOST_TIED = 0.5  # share of questions whose answers all tie, from which something is said


@dataclass
class Group:
    """The scores of the answers to some questions, and what follows from them."""

    scores: array = field(default_factory=partial(array, "d"))
    spreads: array = field(default_factory=partial(array, "d"))  # best minus worst of each question with two or more
    questions: int = 0

    def add(self, *scores: float | None) -> None:
        """Take in a question by the scores of its answers; None where there is none."""
        known = [score for score in scores if score is not None]
        self.scores.extend(known)
        self.questions += 1
        if len(known) > 1:
            self.spreads.append(max(known) - min(known))

    def summary(self) -> dict[str, Any]:
        """Return counts, means and SDs as JSON takes them; None where there is nothing to compute one from."""
        scores, spreads = np.asarray(self.scores), np.asarray(self.spreads)
        return {
            "questions": self.questions,
            "answers": len(scores),
            "different": len(np.unique(scores)),
            "mean": float(scores.mean()) if len(scores) else None,
            "sd": float(scores.std(ddof=1)) if len(scores) > 1 else None,
            "with_several": len(spreads),
            "tied": int((spreads == 0).sum()),
            "spread": float(spreads.mean()) if len(spreads) else None,
        }


def table(summaries: dict[str, dict[str, Any]]) -> list[str]:
    """Return lines for people."""
    width = max(map(len, summaries))
    lines = ["scores of answers: mean and SD; of questions with several: best minus worst, and how many all tie"]
    lines.append(f"{'':{width}} questions  answers           score    spread     tied")
    for name, one in summaries.items():
        score = "-" if one["mean"] is None else f"{one['mean']:.2f} +- {one['sd'] or 0:.2f}"
        spread = "-" if one["spread"] is None else f"{one['spread']:.2f}"
        lines.append(
            f"{name:{width}} {one['questions']:9,} {one['answers']:8,} {score:>15} {spread:>9} {one['tied']:8,}"
        )
    return lines


def hints(summary: dict[str, Any]) -> list[str]:
    """Say in words what stands out in a summary of all questions."""
    found = []
    if summary["answers"] > 1 and summary["different"] == 1:
        found.append("All answers have the same score, so no pair can be made of them: is the scorer right?")
    elif summary["with_several"] and summary["tied"] >= MOST_TIED * summary["with_several"]:
        share = summary["tied"] / summary["with_several"]
        found.append(
            f"The answers to {share:.0%} of the questions that have several all tie, and give no pair: the model "
            "finds these all easy or all hard, or the scale is too coarse."
        )
    return found
