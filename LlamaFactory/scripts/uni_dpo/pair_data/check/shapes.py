"""Which types the values of a column have: the loader wants one, at every level of nesting."""

from array import array
from dataclasses import dataclass, field
from typing import Any


NUMBER, TEXT, BOOLEAN, LIST, OBJECT, BYTES = "numbers", "text", "true/false", "lists", "objects", "bytes"
INT64_MIN, UINT64_MAX = -(1 << 63), (1 << 64) - 1

_NAMES = {str: TEXT, int: NUMBER, float: NUMBER, bool: BOOLEAN, list: LIST, dict: OBJECT, bytes: BYTES}


@dataclass
class Shape:
    """The types seen in one place: a column, the elements of its lists, or a field of its objects.

    Attributes:
        rows: for each type, the rows it was seen in.
        elements: the shape of what is in the lists.
        fields: the shapes of what is in the objects.
    """

    rows: dict[str, array] = field(default_factory=dict)
    elements: "Shape | None" = None
    fields: "dict[str, Shape]" = field(default_factory=dict)

    def see(self, value: Any, row: int) -> None:
        """Take note of a value; null fits anything."""
        if value is None:
            return
        name = _NAMES.get(type(value)) or type(value).__name__
        rows = self.rows.get(name)
        if rows is None:
            rows = self.rows[name] = array("I")
        if not rows or rows[-1] != row:
            rows.append(row)
        if name == LIST:
            if self.elements is None:
                self.elements = Shape()
            for element in value:
                self.elements.see(element, row)
        elif name == OBJECT:
            self.see_fields(value, row)

    def see_fields(self, value: dict[str, Any], row: int) -> None:
        """Take note of the fields of an object."""
        for key, part in value.items():
            shape = self.fields.get(key)
            if shape is None:
                shape = self.fields[key] = Shape()
            shape.see(part, row)

    def conflicts(self, name: str = "") -> list[tuple[str, dict[str, array]]]:
        """Return every place with more than one type: its name, and the rows of each type, most frequent first."""
        found = []
        if len(self.rows) > 1:
            found.append((name, dict(sorted(self.rows.items(), key=lambda item: -len(item[1])))))
        if self.elements is not None:
            found += self.elements.conflicts(f"{name}[]")
        for key, shape in self.fields.items():
            found += shape.conflicts(f"{name}.{key}" if name else key)
        return found


def unloadable(value: Any, keeps_large: bool) -> tuple[str, str] | None:
    """Find a part of a value that the loader refuses whatever the others are.

    Args:
        value: any value of a row.
        keeps_large: whether the loader makes a float of a whole number that is too large, as it does for JSONL.

    Returns:
        The kind of finding and what is wrong, or None.
    """
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                return "text-not-unicode", f"{value[error.start : error.end]!r} at character {error.start}"
    elif isinstance(value, int):
        if not keeps_large and not INT64_MIN <= value <= UINT64_MAX:
            return "number-too-large", f"{str(value)[:30]}... does not fit into 64 bits"
    elif isinstance(value, (list, dict)):
        parts = value if isinstance(value, list) else [*value, *value.values()]
        return next(filter(None, (unloadable(part, keeps_large) for part in parts)), None)
    return None
