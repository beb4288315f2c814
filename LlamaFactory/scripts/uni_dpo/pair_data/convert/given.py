"""Whether what options name is in the data at all: a typing error would have no effect, and nothing would say so."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from .answers import entries
from .fields import Fields, look
from .question import text_of
from .ratings import rank_of, score_of


LOOKED_AT = 64  # rows by which a source is recognised, and whose names are told
NAMED = 40  # names in a message
EXAMPLE = 60  # characters
NONE = "none"
ABOUT_ANSWERS = ("text", "score", "rank")
FITS = {  # what a value has to be, and how messages say it
    "question": (lambda value: value is not None, "a question"),
    "image": (lambda value: value is not None, "images"),
    "answers": (lambda value: sum(one is not None for one in entries(value).values()) > 1, "two answers"),
    "text": (lambda value: text_of(value) is not None, "text"),
    "score": (lambda value: score_of(value) is not None, "a number"),
    "rank": (lambda value: rank_of(value) is not None, "a number"),
    "winner": (lambda value: value is not None, "a winner"),
}


class Given:
    """The fields that options name, until each has been seen in some row."""

    def __init__(self, given: Fields):
        """Look for all that are given; several joined by commas one by one, but for answers."""
        several = {use: [path] if use == "answers" else path.split(",") for use, path in given.paths.items()}
        self.missing = {(use, path.strip()): None for use, paths in several.items() for path in paths}
        self.first: list[tuple[dict[str, Any], list[Any]]] = []  # rows, with their answers

    def look_for(self, row: Any, answers: str) -> None:
        """Look for what is missing so far in a row, whose answers are there if that is known."""
        if not self.missing or not isinstance(row, dict):
            return
        within = [
            one for part in ([look(row, answers)] if answers else row.values()) for one in entries(part).values()
        ]
        if len(self.first) < LOOKED_AT:
            self.first.append((row, within))
        for (use, path), odd in list(self.missing.items()):
            values = [value for value in _values(row, within, use, path) if value is not None]
            if any(map(FITS[use][0], values)):
                del self.missing[use, path]
            elif values and odd is None:
                shown = json.dumps(values[0], ensure_ascii=False, default=repr)
                self.missing[use, path] = shown if len(shown) <= EXAMPLE else f"{shown[:EXAMPLE]}..."

    def wrong(self) -> str:
        """Return a line for each option whose field no row has, and the names that there are; "" if there is none."""
        lines, names = [], names_in(row for row, _ in self.first)
        within = names_in(one for _, answers in self.first for one in answers if isinstance(one, dict))
        lost = ABOUT_ANSWERS if any(use == "answers" for use, _ in self.missing) else ()  # cannot be there either
        for (use, path), odd in self.missing.items():
            problem = f"no row has {FITS[use][1]} there, the first has {odd}" if odd else "no row has anything there"
            inside = use in ABOUT_ANSWERS and within != NONE
            there = f"Within an answer: {within}; in all" if inside else "There are"
            lines += [f"--{use} {path}: {problem}. {there}: {names}."] if use not in lost else []
        return "\n".join(lines)


def names_in(rows: Iterable[Any]) -> str:
    """Return the names in some rows with dots for those inside of others, [] after that of a list of objects.

    Those that are no more than the start of another are left out.
    """
    names = list(dict.fromkeys(name for row in rows for name in _names(row)))
    starts = {name[:end] for name in names for end in range(len(name)) if name[end] in ".["}
    names = [name for name in names if name not in starts]
    return ", ".join(names[:NAMED] + ([f"{len(names) - NAMED} more"] if len(names) > NAMED else [])) or NONE


def _names(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _names(part, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for item in value:
            yield from _names(item, f"{path}[]") if isinstance(item, dict) else ()
    else:
        yield path


def _values(row: dict[str, Any], within: list[Any], use: str, path: str) -> Iterator[Any]:
    """Yield what a row has where a path may lead: in an answer, or in the row itself."""
    if use in ABOUT_ANSWERS:
        yield from (look(answer, path) for answer in within if isinstance(answer, dict))
    if use != "text":
        value = look(row, path)
        yield value
        yield from entries(value).values() if use == "rank" else ()
