"""One answer with its question: what a scorer scores, what it is called in the cache, and what a scorer is."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from ..pairs import Pair, RowError
from ..sources import Source


PLACEHOLDER = "<image>"


@dataclass(frozen=True)
class Request:
    """An answer to be scored.

    Attributes:
        key: its name in the cache: the same for the same scorer, dialogue, answer and images.
        messages: the dialogue up to the question, its last message: (role, text).
        answer: the answer.
        images: one for each `<image>` in the messages, in order.
        system: the system prompt, empty if there is none.
        reference: right answers, for a scorer that compares.
        row: the whole row, for a scorer that asks for it.
    """

    key: bytes
    messages: tuple[tuple[str, str], ...]
    answer: str
    images: tuple[Any, ...]
    system: str = ""
    reference: tuple[str, ...] = ()
    row: dict[str, Any] | None = None


@dataclass(frozen=True)
class Unscored:
    """What stands for the score of an answer that could not be scored, for a `reason`."""

    reason: str


Scored = list[tuple[Request, float | Unscored]]


class Scorer(Protocol):
    """What gives scores: a model on this machine or behind an address.

    Attributes:
        identity: everything that its scores depend on, as JSON takes it.
        reads_images: whether it can look at images.
        uses_reference: whether scores depend on right answers that rows have.
        uses_row: whether they depend on anything else in a row.
        patient: whether many failures in a row are no reason to stop.
    """

    identity: dict[str, Any]
    reads_images: bool
    uses_reference: bool = False
    uses_row: bool = False
    patient: bool = False

    def score(self, requests: Iterable[Request]) -> Iterator[Scored]:
        """Score answers, in whatever order, and yield them as soon as they are scored."""


def request_key(scorer: bytes, pair: Pair, answer: str, images: Iterable[bytes], also: Iterable[Any] = ()) -> bytes:
    """Return the name of an answer in the cache.

    Args:
        scorer: a hash of the scorer's identity.
        pair: what was asked.
        answer: what is scored.
        images: hashes of the images.
        also: what else the score depends on.
    """
    text = json.dumps([pair.system, pair.messages, answer, *also], default=repr)
    return hashlib.blake2b(scorer + b"".join(images) + text.encode(), digest_size=16).digest()


def check_readable(pair: Pair, source: Source) -> None:
    """Refuse, by a RowError, a pair that no scorer sees whole, or in which images and `<image>` do not match."""
    for use, what in {"videos": "videos", "audios": "sounds", "tools": "descriptions of tools"}.items():
        if getattr(pair, use):
            raise RowError(source.columns[use], f"the scorers here see no {what}, and would judge without")
    count = sum(text.count(PLACEHOLDER) for _, text in pair.messages)
    if count != len(pair.images):
        column = source.columns.get("prompt") or source.columns.get("messages", "prompt")
        raise RowError(column, f"{count} {PLACEHOLDER} in its text for {len(pair.images)} images")
    for use in ("system", "chosen", "rejected"):
        if PLACEHOLDER in getattr(pair, use):
            raise RowError(source.columns.get(use, use), f"{PLACEHOLDER} in a text where no image can be")


def parts(text: str) -> list[dict[str, str]]:
    """Cut a text at its images, into the parts that chat templates take: `{"type": "text" or "image", ...}`."""
    found: list[dict[str, str]] = []
    for number, piece in enumerate(text.split(PLACEHOLDER)):
        found += [{"type": "image"}] if number else []
        found += [{"type": "text", "text": piece}] if piece else []
    return found
