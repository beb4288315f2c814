"""Reading rows that say themselves which answer is preferred: trl, LlamaFactory, ms-swift, RLAIF-V, RLHF-V and kin."""

import json
from typing import Any

from .dialogue import asked, history_of, images_of, require_question, split_system, turns_of, with_placeholders
from .fields import QUESTION, Fields, extras_of, first, look, number, refuse_parts
from .question import OTHER_FOR_REJECTED, Answer, Question, Turn, Unusable


SIDES = (("chosen", "rejected"), ("chosen_response", "rejected_response"), ("preferred", "dispreferred"))
SCORE_PATTERNS = ("score_{}", "{}_score", "{}_rating", "{}-rating", "rating_{}", "{}_reward", "reward_{}")
SCORE_PATTERNS += ("{}_avg_rating", "{}_rm_score")
RANKS = "rank_chosen,rank_rejected"  # what this command itself writes


def find_sides(row: dict[str, Any]) -> str:
    """Return the two columns with the answers, joined by a comma, or the empty string."""
    return next((",".join(sides) for sides in SIDES if all(row.get(side) is not None for side in sides)), "")


def find_scores(row: dict[str, Any]) -> str:
    """Return the two columns with the scores of chosen and rejected, joined by a comma, or the empty string."""
    for pattern in SCORE_PATTERNS:
        sides = [pattern.format(side) for side in SIDES[0]]
        if all(side in row for side in sides):
            return ",".join(sides)
    return ""


def find(row: dict[str, Any], given: Fields) -> Fields | None:
    """Find question, answers and scores of a row; what is given by name is not looked for."""
    answers = given.answers or find_sides(row)
    if answers.count(",") != 1 or None in look(row, answers):
        return None
    question = given.question or first(row, QUESTION)
    score = given.score or find_scores(row)
    return Fields(question, given.image, answers, score=score, rank=given.rank)


def read(row: dict[str, Any], fields: Fields) -> Question:
    """Read a row with a preferred and another answer.

    Raises:
        Unusable: it has none, or the dialogue cannot be trained on.
    """
    chosen, rejected = (turns_of(side, "assistant") for side in look(row, fields.answers))
    prompt = asked(row, fields)
    if not prompt and _is_text(chosen) and _is_text(rejected):
        prompt, chosen, rejected = _shared_text(chosen[0].text, rejected[0].text)
    dialogue, *answers = _whole([*history_of(row), *prompt], chosen, rejected)
    return _question(row, dialogue, answers, fields)


def find_swift(row: dict[str, Any], given: Fields) -> Fields | None:
    """Find the columns of ms-swift."""
    asked = first(row, ("messages",)) or (first(row, ("query", "question")) if row.get("response") else "")
    other = first(row, ("rejected_response", "rejected_messages"))
    score = given.score or find_scores(row)
    return Fields(given.question or asked, given.image, other, score=score) if asked and other else None


def read_swift(row: dict[str, Any], fields: Fields) -> Question:
    """Read a row of ms-swift: the last message is the preferred answer, the other is a column of its own.

    Raises:
        Unusable: as `read`.
    """
    other = look(row, fields.answers)
    if isinstance(other, list) and all(isinstance(text, str) for text in other):
        if len(other) != 1:
            raise Unusable("several rejected answers in one row: make a row of each")
        other = other[0]
    other = turns_of(other, "assistant")
    whole = [*history_of(row), *turns_of(look(row, fields.question)), *turns_of(row.get("response"), "assistant")]
    if len(whole) < 2:
        raise Unusable("there is no question")
    prompt, chosen = whole[:-1], whole[-1:]
    if any(turn.role == "user" for turn in other):
        dialogue, *answers = _whole([], whole, other)
    else:
        dialogue, *answers = _whole(prompt, chosen, other)
    return _question(row, dialogue, answers, fields)


def find_rlhf_v(row: dict[str, Any], given: Fields) -> Fields | None:
    """Find question and answers within the column `text`, an object or JSON."""
    try:
        return find(_opened(row), given)
    except Unusable:
        return None


def read_rlhf_v(row: dict[str, Any], fields: Fields) -> Question:
    """Read a row whose column `text` holds question, chosen and rejected.

    Raises:
        Unusable: as `read`, or `text` holds something else.
    """
    return read(_opened(row), fields)


def _opened(row: dict[str, Any]) -> dict[str, Any]:
    inside = row.get("text")
    try:
        inside = json.loads(inside) if isinstance(inside, str) else inside
    except ValueError:
        inside = None
    if not isinstance(inside, dict):
        raise Unusable('no JSON object in "text"')
    return {name: value for name, value in row.items() if name != "text"} | inside


def _is_text(turns: list[Turn]) -> bool:
    return len(turns) == 1 and turns[0].role == "assistant"


def _shared_text(chosen: str, rejected: str) -> tuple[list[Turn], list[Turn], list[Turn]]:
    """Take what two texts begin with alike for the prompt, less a space at its end, as trl does."""
    shared = _shared(chosen, rejected)
    if shared and chosen[shared - 1] == " ":
        shared -= 1
    answers = ([Turn("assistant", text[shared:])] for text in (chosen, rejected))
    return [Turn("user", chosen[:shared])], *answers


def _shared(one: Any, other: Any) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _whole(prompt: list[Turn], chosen: list[Turn], rejected: list[Turn]) -> tuple[list[Turn], Turn, Turn]:
    """Return the dialogue up to the answers, and these; answers may be whole dialogues, with or without a prompt.

    Raises:
        Unusable: the dialogues part before their last messages.
    """
    if not any(turn.role == "user" for turn in chosen + rejected):
        chosen, rejected = prompt + chosen, prompt + rejected
    if not chosen or not rejected:
        raise Unusable("an answer is missing")
    last = len(chosen) - 1
    if len(rejected) != len(chosen) or chosen[:last] != rejected[:last]:
        raise Unusable("the two dialogues differ before their last answer")
    shown = [[turn.images for turn in side[:last] if turn.images] for side in (chosen, rejected)]
    if all(shown) and shown[0] != shown[1]:
        raise Unusable(OTHER_FOR_REJECTED, understood=True)
    if {chosen[last].role, rejected[last].role} != {"assistant"}:
        raise Unusable("the last message is not an answer")
    return chosen[:last], chosen[last], rejected[last]


def _question(row: dict[str, Any], dialogue: list[Turn], answers: list[Turn], fields: Fields) -> Question:
    turns, system = split_system(dialogue, row.get("system"))
    images = images_of(row, turns, fields)
    require_question(turns)
    given = look(row, fields.score) if fields.score else (None, None)
    refuse_parts(given)
    scores = map(number, given)
    ranks = map(number, look(row, fields.rank or RANKS))
    known = [Answer(turn.text, *about) for turn, *about in zip(answers, scores, ranks, strict=True)]
    placed = with_placeholders(turns, len(images))
    return Question(placed, tuple(known), tuple(images), system, given=True, extras=extras_of(row, images))
