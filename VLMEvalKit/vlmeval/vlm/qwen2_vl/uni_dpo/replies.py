"""Sampled answers: what a backend returns besides the text."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Reply:
    """One sampled answer.

    Attributes:
        text: What was said, up to where a stop string begins.
        tokens: How many tokens were drawn, what ends an answer aside.
        ended: Whether the model ended it, or a stop string; False for one that was cut at the limit.
    """

    text: str
    tokens: int
    ended: bool


def up_to(text: str, stop: Iterable[str]) -> str:
    """Return what comes before the first of some strings in a text; all of it if it has none of them."""
    return text[: min((place for place in map(text.find, stop) if place >= 0), default=len(text))]
