"""Means over seeds with their intervals, and differences paired by seed.

A seed is the unit that is repeated: it has its own last stage of supervised training, pairs, training order and test
questions, so an interval over seeds covers all of these. What all seeds share is the model before that stage.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats


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
    def low(self) -> float:
        """Lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """Upper end."""
        return self.mean + self.half

    @property
    def clear(self) -> bool:
        """Whether the interval of a difference leaves zero out."""
        return self.low > 0 or self.high < 0


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of one value a seed.

    Raises:
        ValueError: there is none.
    """
    if not values:
        raise ValueError("There is no mean of nothing.")
    mean, n = sum(values) / len(values), len(values)
    if n == 1:
        return Estimate(mean, math.inf, 1)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    return Estimate(mean, float(stats.t.ppf(0.975, n - 1)) * deviation / math.sqrt(n), n)


def difference(ours: dict[int, float], theirs: dict[int, float]) -> Estimate:
    """The mean of ours - theirs over the seeds that both have.

    Raises:
        ValueError: they share no seed.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    changes = [ours[seed] - theirs[seed] for seed in seeds]
    estimate = over_seeds(changes)
    if estimate.n < 2 or estimate.half < 1e-9:  # equal on every seed: there is no scatter to test against
        return estimate
    p = float(stats.ttest_rel([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]).pvalue)
    return Estimate(estimate.mean, estimate.half, estimate.n, p)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's p values for several tests made together, in the order given."""
    adjusted, highest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda index: ps[index])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = highest
    return adjusted
