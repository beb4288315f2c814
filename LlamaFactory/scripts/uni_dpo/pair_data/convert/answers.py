"""Reading rows with several answers to one question, with scores or ranks: MM-RLHF's, VLFeedback's and kin."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from .fields import ANSWERS, OBJECTS, QUESTIONS, RANKS, SCORES, TEXTS, Fields, first, look
from .question import Question, asked, make_question, text_of
from .ratings import Answer, is_meant_as_number, leaves_of, rank_of, rated, score_of


CUT = "cut"  # what `data.py sample` says of an answer that did not come to its end
KINDS = {type(None): "missing or null", list: "a list", dict: "an object", bool: "true or false"}


def find(row: dict[str, Any], given: Fields) -> Fields | None:
    """Find question, answers, scores and ranks of a row; what the user names is not looked for.

    Columns with common names go first; failing these, any list of objects with a text and a score or rank is taken.
    """
    question = given.question or first(row, QUESTIONS)
    found = []
    for column in [given.answers] if given.answers else [*ANSWERS, *row]:
        answers = entries(look(row, column))
        if len(answers) < 2 or column == question:
            continue
        inside = [_find_inside(row, answer, column, given) for answer in answers.values()]
        common = column in ANSWERS or given.answers
        found += [one for one in inside if one and (common or (one.text and (one.score or one.rank)))]
    if not found or not question:
        return None
    return replace(max(found, key=lambda fields: len(fields.paths)), question=question, image=given.image)


def read(row: dict[str, Any], fields: Fields) -> Question:
    """Read a question with its answers; one without text has a problem."""
    dialogue = asked(row, fields)
    while dialogue and dialogue[-1].role == "assistant":  # one answer of many, about which nothing is known
        dialogue.pop()
    return make_question(row, fields, dialogue, _answers(row, fields), given=False)


def _answers(row: dict[str, Any], fields: Fields) -> Iterator[Answer]:
    for key, entry in entries(look(row, fields.answers)).items():
        value = look(entry, fields.text) if isinstance(entry, dict) and fields.text else entry
        text = text_of(value)
        if isinstance(entry, dict) and entry.get(CUT) is True:
            yield Answer(text or "", problem="cut at the limit of its length")
        elif text is None:
            yield Answer("", problem=f"the text is {KINDS.get(type(value), 'a number')}")
        else:
            score, rank = (_about(row, key, entry, path) for path in (fields.score, fields.rank))
            yield rated(text, score, rank, fields.parts)


def with_mean(rows: Iterable[dict[str, Any]], fields: Fields, given: bool) -> Fields:
    """Say of which numbers a score is the mean, by the first rows; if the user named the score, of all of them."""
    found: dict[str, None] = {}
    for row in rows:
        for key, entry in entries(look(row, fields.answers)).items() if fields.score else ():
            leaves = leaves_of(_about(row, key, entry, fields.score))
            found |= {name: None for name, leaf in leaves.items() if is_meant_as_number(leaf)}
    if not found.keys() - {""}:
        return replace(fields, parts={"": fields.score}) if given else fields
    paths = [path.strip() for path in fields.score.split(",")]
    several = len(paths) > 1 and found.keys() <= set(map(str, range(len(paths))))
    parts = {
        name: paths[int(name)] if several else "/".join(f"{path}.{name}".rstrip(".") for path in paths)
        for name in found
    }
    named = f"score = mean of {', '.join(parts.values())}" if len(parts) > 1 else ""
    if named and not given:
        named += " (of those that are numbers)"
    return replace(fields, parts=parts if given else {}, mean=named)


def _about(row: dict[str, Any], key: Any, entry: Any, path: str) -> Any:
    """Return what a path says about an answer: inside of it, or at its place in a list or dictionary beside."""
    inside = look(entry, path) if path and isinstance(entry, dict) else None
    if "," in path and not any(part is not None for part in inside or []):
        inside = None
    beside = look(row, path) if path and inside is None else None
    if isinstance(beside, list):
        return beside[key] if isinstance(key, int) and key < len(beside) else None
    return entries(beside).get(key) if isinstance(beside, dict) else inside


def entries(value: Any) -> dict[Any, Any]:
    """Return answers by number or by model, from a list, a dictionary by model, or a dictionary of lists.

    The last is what `datasets` makes of a list of objects.
    """
    if isinstance(value, dict):
        lists = next((value[name] for name in TEXTS if isinstance(value.get(name), list)), None)
        return {n: _nth(value, n) for n in range(len(lists))} if lists is not None else value
    return dict(enumerate(value)) if isinstance(value, list) else {}


def _nth(value: Any, number: int) -> Any:
    """Return the part of a dictionary of lists that belongs to one answer."""
    if isinstance(value, dict):
        return {name: _nth(part, number) for name, part in value.items()}
    if isinstance(value, list):
        return value[number] if number < len(value) else None
    return value


def _find_inside(row: dict[str, Any], answer: Any, column: str, given: Fields) -> Fields | None:
    """Find text, score and rank of one answer, None if there is no text."""
    inside = answer if isinstance(answer, dict) else {}
    text = given.text or next((name for name in TEXTS if text_of(inside.get(name)) is not None), "")
    if text_of(look(inside, text) if text and inside else answer) is None:
        return None
    beside = {name: value for name, value in row.items() if name != column}

    def find_number(names: list[str], read: Callable[[Any], float | None]) -> str:
        within = (name for name in names if read(inside.get(name)) is not None)
        around = (name for name in names if any(read(one) is not None for one in entries(beside.get(name)).values()))
        return next(within, "") or next(around, "")

    rank = given.rank or find_number(RANKS, rank_of)
    rank = rank or find_number(OBJECTS, lambda value: rank_of(value) if isinstance(value, dict) else None)
    return Fields(answers=column, text=text, score=given.score or find_number(SCORES, score_of), rank=rank)
