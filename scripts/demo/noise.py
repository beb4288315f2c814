"""Noise of a preference data set, kept apart from the rule: how a judge who is not perfect makes a pair.

Three sources, each with one setting: a judge's scores scatter (`score_std`), some pairs are made of answers that are
about equally good (`ambiguous`), and some labels are simply the wrong way round (`mislabelled`).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Noise:
    """Settings of the judge.

    Attributes:
        score_std: standard deviation of the error of a score, in points of the 0 to 10 scale.
        ambiguous: share of questions for which the two answers closest in score are compared, not best and worst.
        mislabelled: share of pairs whose two scores are exchanged.
    """

    score_std: float = 0.5
    ambiguous: float = 0.2
    mislabelled: float = 0.08

    def __post_init__(self):
        """Check the ranges.

        Raises:
            ValueError: a negative deviation, or a share outside 0 to 1.
        """
        if self.score_std < 0:
            raise ValueError(f"score_std is a standard deviation, it cannot be {self.score_std}.")
        for name in ("ambiguous", "mislabelled"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share, 0 to 1, not {getattr(self, name)}.")


@dataclass(frozen=True)
class Pair:
    """Two answers as the judge labelled them.

    `score_*` are what a data set holds, `true_*` what the rule said. `label` is "mislabelled" if the rule prefers the
    rejected answer, else "ambiguous" below a true margin of `AMBIGUOUS_MARGIN`, else "clear".
    """

    chosen: str
    rejected: str
    score_chosen: float
    score_rejected: float
    true_chosen: float
    true_rejected: float

    @property
    def label(self) -> str:
        """What kind of pair this turned out to be."""
        margin = self.true_chosen - self.true_rejected
        return "mislabelled" if margin < 0 else "ambiguous" if margin < AMBIGUOUS_MARGIN else "clear"


AMBIGUOUS_MARGIN = 2.0


def make_pair(scored: Sequence[tuple[str, float]], noise: Noise, rng: random.Random) -> Pair | None:
    """Choose two answers and label them.

    Args:
        scored: distinct answers to one question with the rule's score.
        noise: the judge.
        rng: its randomness; always the same number of draws, so that pairs do not depend on one another.

    Returns:
        The pair, or None when there are not two answers, or when best and worst are wanted and all score the same.
    """
    rolls = rng.random(), rng.random(), rng.gauss(0, 1), rng.gauss(0, 1)
    ranked = sorted(scored, key=lambda item: (-item[1], item[0]))
    if len(ranked) < 2:
        return None
    if rolls[0] < noise.ambiguous:
        two = min(zip(ranked, ranked[1:], strict=False), key=lambda pair: pair[0][1] - pair[1][1])
    else:
        two = ranked[0], ranked[-1]
        if two[0][1] == two[1][1]:
            return None
    noisy = [score + noise.score_std * error for (_, score), error in zip(two, rolls[2:], strict=True)]
    seen = [min(10.0, max(0.0, score)) for score in noisy]
    if rolls[1] < noise.mislabelled:
        seen.reverse()
    first, second = sorted(zip(seen, two, strict=True), key=lambda item: -item[0])
    return Pair(first[1][0], second[1][0], round(first[0], 2), round(second[0], 2), first[1][1], second[1][1])
