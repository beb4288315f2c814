"""Is a difference between two checkpoints more than the luck of which questions were asked?"""

from dataclasses import dataclass

import numpy as np

from common import ToolError

from .samples import Samples


_CELLS = 4_000_000  # how many resampled units are held at once, 32 MB a term


@dataclass(frozen=True)
class Difference:
    """A difference of headline numbers with its interval, on the benchmark's scale."""

    value: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def paired_difference(
    base: Samples, other: Samples, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> Difference:
    """The difference other - base with a paired percentile-bootstrap interval.

    Every resample draws the same questions for both checkpoints, within strata, with replacement (Efron & Tibshirani,
    An Introduction to the Bootstrap, chapter 13).

    Args:
        base: what is compared with.
        other: the same questions, answered by the other checkpoint.
        resamples: how many; the ends of the interval vary by a few hundredths of its width at 2000.
        seed: the interval depends on nothing else.
        level: how often such intervals hold the difference.

    Raises:
        ToolError: the two did not answer the same questions.
    """
    if base.keys != other.keys:
        shared = len(set(base.keys) & set(other.keys))
        raise ToolError(f"not the same questions: {len(base.keys)} and {len(other.keys)}, {shared} in both")
    sums = np.concatenate([base.sums, other.sums], axis=1)
    rng = np.random.default_rng(seed)
    totals = [_resampled(sums[base.strata == stratum], resamples, rng) for stratum in range(base.strata.max() + 1)]
    before, after = np.split(np.stack(totals, axis=1), [base.sums.shape[1]], axis=-1)
    with np.errstate(invalid="ignore"):
        differences = other.statistic(after) - base.statistic(before)
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return Difference(other.value() - base.value(), float(low), float(high))


def _resampled(sums: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Totals of `resamples` draws of as many units as there are: (units, terms) to (resamples, terms)."""
    units = len(sums)
    step = max(1, _CELLS // units)
    totals = []
    for start in range(0, resamples, step):
        drawn = rng.integers(units, size=(min(step, resamples - start), units))
        totals.append(sums[drawn].sum(axis=1))
    return np.concatenate(totals)
