"""What the scores say of the preference that was given with the pairs."""

import math
from array import array
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np


Z = 1.959963984540054  # of a normal distribution, for 95 %
UNSURE = 0.2  # width of an interval from which a share is not known well enough to speak of


@dataclass
class Group:
    """The scores of some pairs, and what follows from them."""

    chosen: array = field(default_factory=partial(array, "d"))
    rejected: array = field(default_factory=partial(array, "d"))

    def add(self, chosen: float, rejected: float) -> None:
        """Take in a pair by its two scores."""
        self.chosen.append(chosen)
        self.rejected.append(rejected)

    def summary(self) -> dict[str, Any]:
        """Return counts, shares, means and SDs as JSON takes them; None where there is nothing to compute one from."""
        chosen, rejected = np.asarray(self.chosen), np.asarray(self.rejected)
        agree, disagree = int((chosen > rejected).sum()), int((chosen < rejected).sum())
        decided = agree + disagree
        counts = {"pairs": len(chosen), "agree": agree, "disagree": disagree, "ties": len(chosen) - decided}
        shares = {
            "agreement": agree / decided if decided else None,
            "agreement_95": _wilson(agree, decided) if decided else None,
        }
        sides = {"chosen": chosen, "rejected": rejected, "margin": chosen - rejected}
        numbers = {
            name: {"mean": float(values.mean()), "sd": float(values.std(ddof=1)) if len(values) > 1 else None}
            for name, values in sides.items()
        }
        return counts | shares | numbers


def _wilson(successes: int, trials: int) -> list[float]:
    """Return the 95 % interval of a share.

    Source: E. B. Wilson, Journal of the American Statistical Association 22 (1927), 209-212.
    """
    share, spread = successes / trials, Z * Z / trials
    middle = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return [max(0.0, middle - half), min(1.0, middle + half)]


def hints(summary: dict[str, Any]) -> list[str]:
    """Say in words what stands out in a summary of all pairs."""
    found = []
    if summary["ties"] > summary["pairs"] / 2:
        found.append(
            "More than half of the pairs are ties: the scorer's scale is too coarse to weigh them (w_qual 0.5 each)."
        )
    low, high = summary["agreement_95"] or (1, 1)
    if high < 0.5:
        found.append(
            "The scores contradict the given preference more often than not: chosen and rejected are swapped, or this "
            "scorer prefers what the labels reject. Look at some pairs before training."
        )
    elif low <= 0.5:
        decided = summary["agree"] + summary["disagree"]
        advice = "As weights these scores say next to nothing: take another scorer or rubric."
        advice = "Score more pairs to see." if high - low > UNSURE else advice
        found.append(f"The agreement in {decided:,} pairs without a tie cannot be told from a coin's. {advice}")
    return found


def table(summaries: dict[str, dict[str, Any]]) -> list[str]:
    """Return lines for people: agreement and scores of each group."""
    width = max(map(len, summaries))
    lines = ["how often the chosen answer has the higher score, ties apart; means and SDs of scores"]
    lines += [f"{'':{width}}    pairs     ties  agreement (95 %)        chosen        rejected      margin"]
    for name, one in summaries.items():
        agreement = "-"
        if one["agreement"] is not None:
            low, high = one["agreement_95"]
            agreement = f"{one['agreement']:.1%} ({low:.1%}-{high:.1%})"
        sides = (one[side] for side in ("chosen", "rejected", "margin"))
        numbers = "  ".join(f"{side['mean']:.2f} +- {side['sd'] or 0:.2f}" for side in sides)
        lines.append(f"{name:{width}} {one['pairs']:8,} {one['ties']:8,}  {agreement:22}  {numbers}")
    return lines
