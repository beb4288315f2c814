"""Reading rows that say themselves which answer is preferred: trl, LlamaFactory, ms-swift, RLAIF-V, RLHF-V and kin."""

import json
import os
from collections.abc import Iterator
from typing import Any

from .fields import QUESTIONS, SIDE_RANKS, SIDE_SCORES, SIDES, Fields, first, look
from .question import OTHER_FOR_REJECTED, Question, Turn, asked, make_question, turns_of
from .ratings import Answer, Unusable, rated


def find_sides(row: dict[str, Any]) -> str:
    """Return the two columns with the answers, joined by a comma, or the empty string."""
    return next((",".join(sides) for sides in SIDES if None not in map(row.get, sides)), "")


def find(row: dict[str, Any], given: Fields) -> Fields | None:
    """Find question, answers and scores of a row; what the user names is not looked for."""
    answers = given.answers or find_sides(row)
    if answers.count(",") != 1 or None in look(row, answers):
        return None
    question = given.question or first(row, QUESTIONS)
    return Fields(question, given.image, answers, score=given.score or _find_scores(row), rank=given.rank)


def _find_scores(row: dict[str, Any]) -> str:
    pairs = ([pattern.format(side) for side in SIDES[0]] for pattern in SIDE_SCORES)
    return next((",".join(pair) for pair in pairs if row.keys() >= set(pair)), "")


def read(row: dict[str, Any], fields: Fields) -> Question:
    """Read a row with a preferred and another answer; what two texts without a prompt begin with is the prompt."""
    sides = look(row, fields.answers)
    for side, value in zip(SIDES[0], sides, strict=True):
        if value in (None, []):
            raise Unusable(f"there is no {side} answer")
    prompt = asked(row, fields)
    if (not fields.question or look(row, fields.question) == []) and all(isinstance(side, str) for side in sides):
        shared = os.path.commonprefix(sides).removesuffix(" ")  # as trl splits them
        prompt.append(Turn("user", shared))
        sides = [side.removeprefix(shared) for side in sides]
    return _question(row, fields, prompt, *(turns_of(side, "assistant") for side in sides))


def find_swift(row: dict[str, Any], given: Fields) -> Fields | None:
    """Find the columns of ms-swift, whose preferred answer is a column or the last message."""
    other = first(row, ("rejected_response", "rejected_messages"))
    preferred = first(row, ("response", "messages"))
    question = given.question or (first(row, ("messages", "query", "question")) if preferred == "response" else "")
    if not other or not preferred or not (question or preferred == "messages"):
        return None
    return Fields(question, given.image, f"{preferred},{other}", score=given.score or _find_scores(row))


def read_swift(row: dict[str, Any], fields: Fields) -> Question:
    """Read a row of ms-swift, whose rejected answer may be a list of that one."""
    other = row.get("rejected_response")
    if isinstance(other, list) and all(isinstance(text, str) for text in other):
        if len(other) != 1:
            raise Unusable("several rejected answers in one row: make a row of each")
        row = row | {"rejected_response": other[0]}
    return read(row, fields)


def find_in_text(row: dict[str, Any], given: Fields) -> Fields | None:
    """Find question and answers within the column `text` of RLHF-V, an object or JSON."""
    try:
        return find(opened(row), given)
    except Unusable:
        return None


def opened(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of RLHF-V with what its column `text` holds as columns; raises `Unusable`."""
    inside = row.get("text")
    try:
        inside = json.loads(inside) if isinstance(inside, str) else inside
    except ValueError:
        inside = None
    if not isinstance(inside, dict):
        raise Unusable('no JSON object in "text"')
    return {name: value for name, value in row.items() if name != "text"} | inside


def _question(
    row: dict[str, Any], fields: Fields, prompt: list[Turn], chosen: list[Turn], rejected: list[Turn]
) -> Question:
    """Join a dialogue and its answers, which may be whole dialogues themselves, with or without the prompt."""
    if not chosen or not rejected:
        raise Unusable("an answer is missing")
    prompt = chosen[:-1] if _is_whole(chosen) else prompt
    chosen, rejected = (side if _is_whole(side) else prompt + side for side in (chosen, rejected))
    if len(rejected) != len(chosen) or chosen[:-1] != rejected[:-1]:
        raise Unusable("the two dialogues differ before their last answer")
    shown = [[turn.images for turn in side[:-1] if turn.images] for side in (chosen, rejected)]
    if all(shown) and shown[0] != shown[1]:
        raise Unusable(OTHER_FOR_REJECTED, understood=True)
    if {chosen[-1].role, rejected[-1].role} != {"assistant"}:
        raise Unusable("the last message is not an answer")
    answers = _rated(row, fields, (chosen[-1].text, rejected[-1].text))
    return make_question(row, fields, chosen[:-1], answers, given=True)


def _is_whole(turns: list[Turn]) -> bool:
    return any(turn.role == "user" for turn in turns)


def _rated(row: dict[str, Any], fields: Fields, texts: tuple[str, str]) -> Iterator[Answer]:
    found = [look(row, path) if path else None for path in (fields.score, fields.rank or SIDE_RANKS)]
    scores, ranks = (two if isinstance(two, list) and len(two) == 2 else (None, None) for two in found)
    for text, score, rank in zip(texts, scores, ranks, strict=True):
        yield rated(text, score, rank, fields.parts)
