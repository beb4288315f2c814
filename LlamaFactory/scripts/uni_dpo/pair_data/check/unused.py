"""Columns that say something about the pairs and that training does not read."""

from collections.abc import Iterable, Iterator

from ..sources import Source
from .shapes import LIST, Shape


COMMON = ("system", "tools", "images", "videos", "audios")
ALPACA = ("input", "history")
# As in ms-swift's rejected_images.
SIDED = ("image", "images", "video", "videos", "audio", "audios", "system", "tools", "objects")


def unused_columns(source: Source, shapes: Iterable[Shape]) -> Iterator[tuple[str, str]]:
    """Yield columns with something in them, and what is the matter.

    Args:
        source: a data set.
        shapes: the types of its columns, by file.
    """
    read = set(source.columns.values())
    meant = {*COMMON, *(ALPACA if source.formatting == "alpaca" else ())}
    sided = {f"{side}_{name}" for side in ("chosen", "rejected") for name in SIDED}
    filled = dict.fromkeys(name for shape in shapes for name, part in shape.fields.items() if _has_something(part))
    for name in filled:
        if name in meant - read:
            yield name, 'training does not see it, as "columns" in dataset_info.json do not name it'
        elif name in sided - read:
            yield name, "training shows both answers the same, and does not read it"


def _has_something(part: Shape) -> bool:
    return bool(part.rows) and (set(part.rows) != {LIST} or bool(part.elements and part.elements.rows))
