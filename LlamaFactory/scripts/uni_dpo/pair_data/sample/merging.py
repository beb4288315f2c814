"""Answers to one question that say the same, put together."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from ..convert.question import MEDIA
from ..errors import DataError
from ..plain import stripped
from .asked import Drawn


NUMBERS = re.compile(r"\d+(?:[.,]\d+)*")
AROUND = " \t\n.!\"'*_`"  # what may stand around an answer without changing what it says


@dataclass
class Group:
    """Answers that say the same."""

    said: tuple[str, ...]  # their words
    numbers: list[str]
    texts: Counter[str]
    first: dict[str, Drawn]  # of each text

    def row(self) -> dict[str, Any]:
        """Return them as one answer of the output: in the words that came most often, the first of these."""
        text = max(self.texts, key=self.texts.get)
        drawn = self.first[text]
        return {"text": text, "times": self.texts.total(), "tokens": drawn.tokens, "cut": not drawn.ended}


def merged(answers: list[Drawn], similar: float, left: Counter[str], exact: bool = False) -> list[dict[str, Any]]:
    """Return the distinct answers, in the order in which they came.

    Two say the same if nothing but upper and lower case, spaces, and marks around the whole differ. With `similar`
    below 1 also if so large a share of their words is alike, unless their numbers differ.

    Args:
        answers: to one question.
        similar: share of words, by Levenshtein's distance.
        left: gets the answers that are left out, by reason: training has no use for them.
        exact: whether case, spaces and marks make a difference, as they do where a rule marks the form.
    """
    groups: list[Group] = []
    for answer in answers:
        reason = "empty" if not answer.text.strip() else "with <image>, <video> or <audio>"
        if not answer.text.strip() or any(mark in answer.text for mark in MEDIA):
            left[reason] += 1
            continue
        said = tuple(stripped(answer.text.casefold(), AROUND).split()) if not exact else (answer.text.strip(),)
        numbers = NUMBERS.findall(answer.text)
        alike = next((one for one in groups if _alike(one, said, numbers, similar)), None)
        if alike is None:
            groups.append(alike := Group(said, numbers, Counter(), {}))
        text = answer.text.strip()
        alike.texts[text] += 1
        known = alike.first.setdefault(text, answer)
        if answer.ended and not known.ended:
            alike.first[text] = answer
    return [group.row() for group in groups]


def _alike(group: Group, said: tuple[str, ...], numbers: list[str], similar: float) -> bool:
    if group.said == said:
        return True
    if similar >= 1 or group.numbers != numbers:
        return False
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.normalized_similarity(group.said, said) >= similar


def require_rapidfuzz(similar: float) -> None:
    """Refuse --similar where nothing can tell how alike two texts are."""
    if similar < 1:
        try:
            import rapidfuzz  # noqa: F401
        except ImportError as error:
            raise DataError(f"--similar needs rapidfuzz ({error}): pip install rapidfuzz, or leave it out") from error
