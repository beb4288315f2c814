"""What the scores say of the preference that was given with the pairs."""

import math
from dataclasses import dataclass, field
from typing import Any


UNSURE = 0.2  # width of an interval from which a share is not known well enough to speak of
Z = 1.959963984540054  # of a normal distribution, for 95 %


@dataclass
class Group:
    """Sums over some pairs, and what follows from them."""

    agree: int = 0
    disagree: int = 0
    ties: int = 0
    sums: dict[str, list[float]] = field(
        default_factory=lambda: {name: [0, 0.0, 0.0] for name in ("chosen", "rejected", "margin")}
    )

    def add(self, chosen: float, rejected: float) -> None:
        """Count a pair by its two scores."""
        self.agree += chosen > rejected
        self.disagree += chosen < rejected
        self.ties += chosen == rejected
        for name, value in (("chosen", chosen), ("rejected", rejected), ("margin", chosen - rejected)):
            self.sums[name] = _welford(*self.sums[name], value)

    @property
    def pairs(self) -> int:
        """How many pairs were added."""
        return self.agree + self.disagree + self.ties

    def summary(self) -> dict[str, Any]:
        """Return everything as JSON takes it; shares and SDs are None where there is nothing to compute them from."""
        decided = self.agree + self.disagree
        return {
            "pairs": self.pairs,
            "agree": self.agree,
            "disagree": self.disagree,
            "ties": self.ties,
            "agreement": self.agree / decided if decided else None,
            "agreement_95": wilson(self.agree, decided) if decided else None,
            **{name: {"mean": mean, "sd": _sd(count, square)} for name, (count, mean, square) in self.sums.items()},
        }


def wilson(successes: int, trials: int) -> list[float]:
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
    if summary["pairs"] and summary["ties"] > summary["pairs"] / 2:
        found.append(
            "More than half of the pairs are ties: the scorer's scale is too coarse to weigh them (w_qual 0.5 each)."
        )
    if summary["agreement"] is None:
        return found
    low, high = summary["agreement_95"]
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


def table(groups: dict[str, Group]) -> list[str]:
    """Return lines for people: agreement and scores, all pairs first."""
    width = max(len(name) for name in groups)
    lines = [f"{'':{width}}    pairs     ties  agreement (95 %)        chosen        rejected      margin"]
    for name, group in groups.items():
        one = group.summary()
        agreement = "-"
        if one["agreement"] is not None:
            low, high = one["agreement_95"]
            agreement = f"{one['agreement']:.1%} ({low:.1%}-{high:.1%})"
        numbers = "  ".join(f"{one[side]['mean']:.2f} +- {one[side]['sd'] or 0:.2f}" for side in group.sums)
        lines.append(f"{name:{width}} {group.pairs:8,} {group.ties:8,}  {agreement:22}  {numbers}")
    return lines


def _welford(count: float, mean: float, square: float, value: float) -> list[float]:
    """Take one more value into a mean and a sum of squared deviations, without losing digits to large sums."""
    count += 1
    step = value - mean
    mean += step / count
    return [count, mean, square + step * (value - mean)]


def _sd(count: float, square: float) -> float | None:
    return math.sqrt(square / (count - 1)) if count > 1 else None
