"""Reading rows with two answers and a column that says which one won, as votes of an arena do.

Who won is said in words: a column's name, or its ending, as in `a`, `model_a`, `Response B`. A bare number is refused,
as 1 is the first for some and the second for others.
"""

import re
from dataclasses import replace
from typing import Any

from . import preferences
from .fields import QUESTIONS, Fields, first, look
from .question import Question
from .ratings import Unusable


ENDINGS = ("a", "b"), ("A", "B"), ("1", "2")
NAMES = "conversation response answer completion output generation assistant".split()
WINNERS = "winner preferred preference better better_response better_answer human_preference vote".split()
NOBODY = re.compile(r".*\b(tie|tied|both|neither|equal|draw|same)\b.*")


def find(row: dict[str, Any], given: Fields) -> Fields | None:
    """Find both answers, the winner and the question, which may be in the answers if these are dialogues."""
    answers, winner = given.answers or _find_answers(row), given.winner or first(row, WINNERS)
    question = given.question or first(row, QUESTIONS)
    sides = look(row, answers) if answers.count(",") == 1 else [None]
    if None in sides or not winner or not (question or all(isinstance(side, list) for side in sides)):
        return None
    try:
        _place(look(row, winner), answers)
    except Unusable as error:
        if not error.understood and not given.winner:
            return None
    return Fields(question, given.image, answers, score=given.score, rank=given.rank, winner=winner)


def read(row: dict[str, Any], fields: Fields) -> Question:
    """Read a row as one whose first answer is preferred."""
    if _place(look(row, fields.winner), fields.answers):
        paths = {use: _two_paths(row, getattr(fields, use)) for use in ("answers", "score", "rank")}
        fields = replace(fields, **{use: ",".join(reversed(both)) for use, both in paths.items()})
    return preferences.read(row, fields)


def _two_paths(row: dict[str, Any], path: str) -> list[str]:
    """Return the paths of both sides, also where one column holds a list of two."""
    both = path.split(",")
    inside = look(row, path) if path and len(both) == 1 else None
    return [f"{path}.0", f"{path}.1"] if isinstance(inside, list) else both


def _find_answers(row: dict[str, Any]) -> str:
    pairs = ([name + joint + end for end in ends] for name in NAMES for joint in ("_", "") for ends in ENDINGS)
    return next((",".join(pair) for pair in pairs if None not in map(row.get, pair)), "")


def _place(won: Any, answers: str) -> int:
    """Return 0 if the first of two answers won, 1 if the second did.

    Raises:
        Unusable: neither did, or it is not said in words.
    """
    said = re.sub(r"[\s_-]+", "_", str(won).strip().lower())
    if NOBODY.fullmatch(said.replace("_", " ")):
        raise Unusable("a tie", understood=True)
    known = [_called(path.strip().lower()) for path in answers.split(",")]
    fitting = [place for place in range(2) if said in known[place] and not said.isdigit()]
    if len(fitting) != 1:
        raise Unusable(f"the winner is none of {answers.replace(',', ', ')}, nor a tie: write the column that won")
    return fitting[0]


def _called(path: str) -> set[str]:
    """Return what an answer may be called; a place in a list says nothing, as some count from 0 and some from 1."""
    name = path.rpartition(".")[2]
    return {path} if name.isdigit() else {path, name, name[-1], *(f"{word}_{name[-1]}" for word in ("model", *NAMES))}
