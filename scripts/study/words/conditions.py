"""What is done to the pairs of a seed that the rule has scored; two conditions differ where their names say so."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Condition:
    """What is done to pairs that the rule has scored.

    Attributes:
        wrong: share of pairs whose answers change places.
        told: whether scores stay with their answers then, and so contradict the label; else they stay with the sides.
    """

    wrong: float = 0.0
    told: bool = False


BASE, WRONG = "labels right", "labels 35 %"
CONDITIONS = {
    BASE: Condition(),
    f"{WRONG}, scores right": Condition(0.35, told=True),
    WRONG: Condition(0.35),
}


def rows_of(condition: Condition, pairs: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The pairs of a condition; `weight` is 0 where the scores prefer the rejected answer, as pairs are filtered."""
    rng, rows = random.Random(f"labels {seed}"), []
    for pair in pairs:
        row = dict(pair)
        if rng.random() < condition.wrong:
            row["chosen"], row["rejected"] = pair["rejected"], pair["chosen"]
            if condition.told:
                row["score_chosen"], row["score_rejected"] = pair["score_rejected"], pair["score_chosen"]
        rows.append(row | {"weight": float(row["score_chosen"] >= row["score_rejected"])})
    return rows
