"""Answers with what was said about them: scores, also those that are means of several numbers, and ranks."""

import math
import re
from dataclasses import dataclass
from typing import Any

from .fields import RANKS, SCORES, first


PART = re.compile(r"[-+\d.,]+\s*(?:/|out of|of|%).*")
DECIMAL = re.compile(r"[-+]?[\d.,]+")  # a number, or 3,5


class Unusable(ValueError):
    """A row of which nothing can be made.

    Attributes:
        reason: what is wrong, in the same words for all rows alike; they are counted by it.
        understood: whether the row is as it should be, and left out all the same (a video, a tie).
    """

    def __init__(self, reason: str, understood: bool = False):
        """Say why."""
        super().__init__(reason)
        self.reason, self.understood = reason, understood


class TooFew(Unusable):
    """A row with too few answers for a pair."""


@dataclass(frozen=True)
class Answer:
    """One answer; a higher score is better, rank 1 is best, None is unknown; `problem` is why it cannot be used."""

    text: str
    score: float | None = None
    rank: float | None = None
    problem: str = ""


def rated(text: str, score: Any, rank: Any, parts: dict[str, str]) -> Answer:
    """Return an answer with what was said about it; a score of so much of so much would be taken for missing.

    Of a score that is the mean of `parts` (see `Fields`), each has to be there.
    """
    if parts and (isinstance(score, (dict, list)) or (score is not None and "" not in parts)):
        leaves = leaves_of(score)
        numbers = {name: number(leaves.get(name)) for name in parts}
        lacking = next((name for name, value in numbers.items() if value is None), None)
        if lacking is not None:
            mean = ", of which the score is a mean" if len(parts) > 1 else ""
            text_instead = " (3,5 or 4/5 is none)" if is_meant_as_number(leaves.get(lacking)) else ""
            return Answer(text, problem=f"no number in {parts[lacking]}{mean}{text_instead}")
        score = sum(numbers.values()) / len(numbers)
    if isinstance(score, str) and PART.fullmatch(score.strip()):
        raise Unusable("a score such as 8/10 or 80 %: write the number alone")
    return Answer(text, score_of(score), rank_of(rank))


def number(value: Any) -> float | None:
    """Return a finite number, also from text; None for all else."""
    try:
        read = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return read if math.isfinite(read) else None


def score_of(value: Any) -> float | None:
    """Return a score: the mean of all numbers in it."""
    ratings = [rating for rating in map(number, leaves_of(value).values()) if rating is not None]
    return sum(ratings) / len(ratings) if ratings else None


def leaves_of(value: Any, path: str = "") -> dict[str, Any]:
    """Return what a score is made of, by dotted names, also what is no number; an object may name its score."""
    if isinstance(value, dict):
        named = first(value, SCORES)
        parts = {named: value[named]} if named else {name: part for name, part in value.items() if name not in RANKS}
    elif isinstance(value, list):
        parts = dict(enumerate(value))
    else:
        return {path: value}
    inside = (leaves_of(part, f"{path}.{name}".lstrip(".")) for name, part in parts.items())
    return {name: leaf for leaves in inside for name, leaf in leaves.items()}


def is_meant_as_number(value: Any) -> bool:
    """Tell numbers, also those that cannot be read as one: NaN, 3,5 or 4/5."""
    if isinstance(value, str):
        return any(pattern.fullmatch(value.strip()) for pattern in (DECIMAL, PART))
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def rank_of(value: Any) -> float | None:
    """Return a rank: a number, or the one that an object names."""
    return number(value.get(first(value, RANKS))) if isinstance(value, dict) else number(value)
