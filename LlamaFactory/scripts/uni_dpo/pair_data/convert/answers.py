"""Reading rows with several answers to one question, with scores or ranks: MM-RLHF's, VLFeedback's and kin."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .dialogue import asked, history_of, images_of, require_question, split_system, text_of, with_placeholders
from .fields import OBJECTS, QUESTION, RANKS, SCORES, Fields, extras_of, first, look, rank_of, refuse_parts, score_of
from .question import Answer, Question, Unusable


ANSWERS = ("responses", "answers", "completions", "candidates", "outputs", "model_outputs", "model_responses")
ANSWERS += ("model_answers", "generations", "replies", "response", "answer", "annotations", "results")
TEXTS = ("response", "text", "answer", "output", "content", "value", "completion", "generation", "model_output")
TEXTS += ("generated_text", "model_response", "model_answer", "prediction", "reply")


def entries(value: Any) -> dict[Any, Any]:
    """Return answers by number or by model, from a list, a dictionary by model, or a dictionary of lists.

    The last is what `datasets` makes of a list of objects.
    """
    if isinstance(value, dict):
        lists = next((value[name] for name in TEXTS if isinstance(value.get(name), list)), None)
        return {n: _nth(value, n) for n in range(len(lists))} if lists is not None else value
    return dict(enumerate(value)) if isinstance(value, list) else {}


def find(row: dict[str, Any], given: Fields) -> Fields | None:
    """Find question, answers, scores and ranks of a row; what is given by name is not looked for.

    Columns with common names go first; failing these, any list of objects with a text and a score or rank is taken.
    """
    question = given.question or first(row, QUESTION)
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
    return replace(max(found, key=filled), question=question, image=given.image)


def filled(fields: Fields) -> int:
    """Return how many fields were found."""
    return sum(map(bool, vars(fields).values()))


def read(row: dict[str, Any], fields: Fields) -> Question:
    """Read a question with its answers; an answer without text is left out.

    Raises:
        Unusable: there are less than two, or the question cannot be trained on.
    """
    dialogue = [*history_of(row), *asked(row, fields)]
    while dialogue and dialogue[-1].role == "assistant":  # one answer of many, about which nothing is known
        dialogue.pop()
    turns, system = split_system(dialogue, row.get("system"))
    images = images_of(row, turns, fields)
    require_question(turns)
    answers = tuple(_answers(row, fields))
    if len(answers) < 2:
        raise Unusable("less than two answers")
    placed = with_placeholders(turns, len(images))
    return Question(placed, answers, tuple(images), system, extras=extras_of(row, images))


def _answers(row: dict[str, Any], fields: Fields) -> Iterator[Answer]:
    for key, entry in entries(look(row, fields.answers)).items():
        text = text_of(look(entry, fields.text) if isinstance(entry, dict) and fields.text else entry)
        if text is not None:
            score, rank = (_about(row, key, entry, path) for path in (fields.score, fields.rank))
            refuse_parts([score])
            yield Answer(text, score_of(score), rank_of(rank))


def _about(row: dict[str, Any], key: Any, entry: Any, path: str) -> Any:
    """Return what a path says about an answer: inside of it, or at its place in a list or dictionary beside."""
    inside = look(entry, path) if path and isinstance(entry, dict) else None
    beside = look(row, path) if path and inside is None else None
    if isinstance(beside, list):
        return beside[key] if isinstance(key, int) and key < len(beside) else None
    return entries(beside).get(key) if isinstance(beside, dict) else inside


def _find_inside(row: dict[str, Any], answer: Any, column: str, given: Fields) -> Fields | None:
    """Find text, score and rank of one answer, None if there is no text."""
    inside = answer if isinstance(answer, dict) else {}
    text = given.text or next((name for name in TEXTS if text_of(inside.get(name)) is not None), "")
    if text_of(look(inside, text) if text and inside else answer) is None:
        return None
    places = [inside, {name: value for name, value in row.items() if name != column}]
    score = given.score or _find_value(places, SCORES, score_of)
    rank = given.rank or _find_value(places, RANKS, rank_of) or _find_value(places, OBJECTS, _inner_rank)
    return Fields(answers=column, text=text, score=score, rank=rank)


def _find_value(places: list[dict[str, Any]], names: tuple[str, ...], read: Any) -> str:
    inside, beside = places
    for name in names:
        if read(inside.get(name)) is not None:
            return name
    for name in names:
        values = entries(beside.get(name)).values()
        if any(read(value) is not None for value in values):
            return name
    return ""


def _inner_rank(value: Any) -> float | None:
    return rank_of(value) if isinstance(value, dict) else None


def _nth(value: Any, number: int) -> Any:
    """Return the part of a dictionary of lists that belongs to one answer."""
    if isinstance(value, dict):
        return {name: _nth(part, number) for name, part in value.items()}
    if isinstance(value, list):
        return value[number] if number < len(value) else None
    return value
