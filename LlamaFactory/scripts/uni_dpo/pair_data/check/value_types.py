"""The types of the values in a file, and the rows that they are in."""

from array import array
from bisect import bisect_left
from typing import Any


NUMBER, TEXT, BOOLEAN, LIST, OBJECT, BYTES = "numbers", "text", "true/false", "lists", "objects", "bytes"
_NAMES = {str: TEXT, int: NUMBER, float: NUMBER, bool: BOOLEAN, list: LIST, dict: OBJECT, bytes: BYTES}
ELEMENT = None  # stands for the elements of a list in a place

Place = tuple[str | None, ...]  # a column, and the way from there into its lists and objects


class Types:
    """For each place, the rows in which each type was seen; a place with nothing but nulls has no types."""

    def __init__(self):
        """Start empty."""
        self.rows: dict[Place, dict[str, array]] = {}

    def see(self, place: Place, value: Any, row: int) -> tuple[str, str] | None:
        """Take a value in; return what the loader refuses in it whatever the others are: kind and message."""
        types = self.rows.setdefault(place, {})
        if value is None:  # fits anything
            return None
        name = _NAMES.get(type(value)) or type(value).__name__
        if name not in types:
            types[name] = array("I")
        if not types[name] or types[name][-1] != row:
            types[name].append(row)
        if name == TEXT:
            return not_unicode(value)
        if name == NUMBER and isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
            return "number-too-large", f"{str(value)[:30]}... does not fit into 64 bits"
        if name == OBJECT:
            problems = [not_unicode(key) or self.see((*place, key), part, row) for key, part in value.items()]
        else:
            problems = [self.see((*place, ELEMENT), part, row) for part in (value if name == LIST else ())]
        return next(filter(None, problems), None)

    @property
    def columns(self) -> list[str]:
        """The names of all columns."""
        return [place[0] for place in self.rows if len(place) == 1]

    @property
    def filled(self) -> dict[str, None]:
        """The names of the columns with more than nulls and empty lists."""
        return {place[0]: None for place, types in self.rows.items() if types.keys() - {LIST}}

    def mixed(self) -> dict[Place, dict[str, array]]:
        """Return every place with more than one type, and the rows of each type, the most frequent first."""
        mixed = {place: types for place, types in self.rows.items() if len(types) > 1}
        return {place: dict(sorted(types.items(), key=lambda one: -len(one[1]))) for place, types in mixed.items()}

    def first_row(self, column: str, start: int) -> int:
        """Return the first row, from `start` on, that has something in a column."""
        places = ((rows, bisect_left(rows, start)) for rows in self.rows.get((column,), {}).values())
        return min((rows[at] for rows, at in places if at < len(rows)), default=start)

    def arrow_type(self, place: Place = ()) -> Any:
        """Return the type that Arrow has for what is in a place; for all of it, the names and types of its columns."""
        import pyarrow

        inside = [(other[-1], self.arrow_type(other)) for other in self.rows if other[:-1] == place]
        name = next(iter(self.rows.get(place, {})), None)
        if not place or name == OBJECT:
            return pyarrow.struct(inside) if place else inside
        if name == LIST:
            return pyarrow.list_(inside[0][1] if inside else pyarrow.null())
        types = {TEXT: pyarrow.string(), NUMBER: pyarrow.float64(), BOOLEAN: pyarrow.bool_(), BYTES: pyarrow.binary()}
        return types.get(name, pyarrow.null())


def named(place: Place) -> str:
    """Return what messages call a place: meta.id, images[]."""
    return "".join("[]" if part is ELEMENT else f".{part}" for part in place)[1:]


def not_unicode(text: str) -> tuple[str, str] | None:
    """Return the kind of finding and a message if a text cannot be written in any encoding."""
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError as error:
        return "text-not-unicode", f"{text[error.start : error.end]!r} at character {error.start}"
    return None
