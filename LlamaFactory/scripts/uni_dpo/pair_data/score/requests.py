"""One answer with its question: what a scorer scores, and what it is called in the cache."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import DataError
from ..pairs import Pair, RowError
from ..sources import Source


PLACEHOLDER = "<image>"
KEY_BYTES = 16


@dataclass(frozen=True)
class Request:
    """An answer to be scored.

    Attributes:
        key: its name in the cache, `KEY_BYTES` long: the same for the same scorer, dialogue, answer and images.
        messages: the dialogue up to the question, its last message: (role, text).
        answer: the answer.
        images: one for each `<image>` in the messages, in order.
        system: the system prompt, empty if there is none.
    """

    key: bytes
    messages: tuple[tuple[str, str], ...]
    answer: str
    images: tuple[Any, ...]
    system: str = ""


@dataclass(frozen=True)
class Unscored:
    """What stands for the score of an answer that could not be scored.

    Attributes:
        reason: why not.
    """

    reason: str


Scored = list[tuple[Request, float | Unscored]]


class Scorer(Protocol):
    """What gives scores.

    Attributes:
        identity: everything that its scores depend on, as JSON takes it.
        reads_images: whether it can look at images.
    """

    identity: dict[str, Any]
    reads_images: bool

    def score(self, requests: Iterable[Request]) -> Iterator[Scored]:
        """Score answers, in whatever order, and yield them as soon as they are scored."""


def scorer_key(scorer: Scorer) -> bytes:
    """Hash everything that scores depend on besides the answer."""
    return hashlib.blake2b(json.dumps(scorer.identity, sort_keys=True).encode()).digest()


def request_key(scorer: bytes, pair: Pair, answer: str, images: Iterable[bytes]) -> bytes:
    """Return the name of an answer in the cache.

    Args:
        scorer: from `scorer_key`.
        pair: the dialogue.
        answer: one of its two answers.
        images: a hash of the content of each image.
    """
    text = json.dumps([pair.system, pair.messages, answer])
    return hashlib.blake2b(scorer + b"".join(images) + text.encode(), digest_size=KEY_BYTES).digest()


def check_readable(pair: Pair, source: Source) -> None:
    """Refuse a pair that training would refuse, as every image needs its `<image>`, or that no scorer sees whole.

    Raises:
        RowError: it is one.
    """
    for use, what in {"videos": "videos", "audios": "sounds", "tools": "descriptions of tools"}.items():
        if getattr(pair, use):
            raise RowError(source.columns[use], f"the scorers here see no {what}, and would judge without")
    count = sum(text.count(PLACEHOLDER) for _, text in pair.messages)
    if count != len(pair.images):
        column = source.columns.get("prompt") or source.columns.get("messages", "prompt")
        raise RowError(column, f"{count} {PLACEHOLDER} in its text for {len(pair.images)} images")
    for side, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        if PLACEHOLDER in answer:
            raise RowError(source.columns.get(side, side), f"{PLACEHOLDER} in an answer, where no image can be")


def parts(text: str) -> list[dict[str, str]]:
    """Cut a text at its images, into the parts that chat templates take: `{"type": "text" or "image", ...}`."""
    found: list[dict[str, str]] = []
    for number, piece in enumerate(text.split(PLACEHOLDER)):
        found += [{"type": "image"}] if number else []
        found += [{"type": "text", "text": piece}] if piece else []
    return found


def refuse_images(row: int) -> DataError:
    """Say that a scorer cannot look at a pair's images."""
    return DataError(
        f"row {row} (the first is 0) has images, and this model reads text only: its scores would be guesses. Take a "
        "vision-language model (--kind yes-no, or --endpoint)."
    )
