"""Means over seeds with their intervals, and differences paired by seed.

A seed is the unit that is repeated: it has its own last stage of supervised training, pairs, training order and test
questions, so an interval over seeds covers all of these. What all seeds share is the model before that stage.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from common import ToolError


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with Student's 95 % interval.

    Attributes:
        mean: of the values.
        half: half the width of the interval; infinite for a single seed.
        n: how many seeds.
        p: of the two-sided paired t test that a difference is zero; 1 where none can be made.
    """

    mean: float
    half: float
    n: int
    p: float = 1.0

    @property
    def deviation(self) -> float:
        """The standard deviation of the values, of which there are two or more."""
        return self.half / float(stats.t.ppf(0.975, self.n - 1)) * self.n**0.5

    @property
    def bar(self) -> float:
        """What a picture shows of `half`: nothing for a single seed."""
        return self.half if self.n > 1 else 0.0


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of one value a seed (ValueError: there is none)."""
    if not values:
        raise ValueError("There is no mean of nothing.")
    mean, n = sum(values) / len(values), len(values)
    half = float(stats.t.ppf(0.975, n - 1) * stats.sem(values)) if n > 1 else math.inf
    return Estimate(mean, half, n)


def difference(ours: dict[int, float], theirs: dict[int, float]) -> Estimate:
    """The mean of ours - theirs over the seeds that both have (ValueError: they share no seed)."""
    seeds = sorted(ours.keys() & theirs.keys())
    it = over_seeds([ours[seed] - theirs[seed] for seed in seeds])
    if it.n < 2 or it.half < 1e-9:  # equal on every seed: there is no scatter to test against
        return it
    p = float(stats.ttest_rel([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]).pvalue)
    return Estimate(it.mean, it.half, it.n, p)


def seen_with(deviation: float, n: int) -> float:
    """The difference that a two-sided test at 5 % finds with a chance of about 80 %.

    Args:
        deviation: standard deviation of a difference over seeds.
        n: how many seeds, two or more.
    """
    return float(stats.t.ppf(0.975, n - 1) + stats.t.ppf(0.8, n - 1)) * deviation / n**0.5


def seeds_for(deviation: float, points: float) -> int:
    """How many seeds it takes to find a difference of so many points with a chance of about 80 %."""
    return next(n for n in range(2, 10_000) if seen_with(deviation, n) <= points)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's p values for several tests made together, in the order given."""
    adjusted, highest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        adjusted[index] = highest = max(highest, min(1.0, (len(ps) - rank) * ps[index]))
    return adjusted


def compare_repeated(method: str, seed: int, value: float, known: dict[int, float]) -> tuple[str, bool]:
    """Compare a run that was made again with the raw results.

    Args:
        method: what was run.
        seed: with which seed.
        value: what came of it, in per cent.
        known: what is known of the method, by seed.

    Returns:
        What to print, and whether the run is within the interval in which 95 % of single seeds fall. That is wider
        than the interval of their mean, outside of which some of the very seeds that make the mean must lie.

    Raises:
        ToolError: there are fewer than two seeds.
    """
    if len(known) < 2:
        raise ToolError(f"the raw results have {len(known)} seeds of {method}: too few for an interval")
    it, before = over_seeds([*known.values()]), known.get(seed)
    single = it.half * (1 + it.n) ** 0.5
    inside = abs(value - it.mean) <= single
    lines = [
        f"{method}, seed {seed}: {value:.2f} %",
        f"raw results, same seed: {'not run' if before is None else f'{before:.2f} %'}",
        f"mean of {it.n} seeds: {it.mean:.2f} %, 95 % interval [{it.mean - it.half:.2f}, {it.mean + it.half:.2f}]",
        f"95 % of single seeds: [{it.mean - single:.2f}, {it.mean + single:.2f}]",
        "inside" if inside else "OUTSIDE",
    ]
    return "\n".join(lines), inside
