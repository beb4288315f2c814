"""Columns about one answer of a pair that say what both answers of our pairs have in common: what is looked at."""

from collections.abc import Iterable, Iterator
from typing import Any

from .fields import AUDIOS, IMAGES, VIDEOS, Fields, first, look
from .question import OTHER_FOR_REJECTED, Unusable


SHARED = (IMAGES, VIDEOS, AUDIOS, ("system",), ("tools",), ("objects",))
PATTERNS = ("{side}_{name}", "{name}_{side}")  # ms-swift has rejected_images


def of_side(side: str, names: Iterable[str]) -> list[str]:
    """Return what columns are called that have some name and are about one side, "chosen" or "rejected"."""
    return [pattern.format(side=side, name=name) for name in names for pattern in PATTERNS]


def one_sided(row: dict[str, Any]) -> Iterator[str]:
    """Yield the columns of a row that `require_same` has looked at."""
    known = {name for names in SHARED for side in ("chosen", "rejected") for name in of_side(side, names)}
    yield from (name for name in row if name in known)


def require_same(row: dict[str, Any], fields: Fields) -> None:
    """Refuse a row whose two answers are about different things.

    Raises:
        Unusable: it is one.
    """
    for names in SHARED:
        both = look(row, fields.image) if names is IMAGES and fields.image else row.get(first(row, names))
        chosen, rejected = (row.get(first(row, of_side(side, names)), both) for side in ("chosen", "rejected"))
        if listed(chosen) != listed(rejected):
            raise Unusable(OTHER_FOR_REJECTED, understood=True)


def listed(value: Any) -> list[Any]:
    """Return a list of one thing or of several, without those that are nothing."""
    return [item for item in (value if isinstance(value, list) else [value]) if item not in (None, "")]
