"""The careless annotator: what is wrong, on purpose, in the supervised data.

Real instruction data has habits that supervised training copies and preference training is used to repair. Ours are
listed here, with the share of the answers concerned; nothing else in the supervised data is wrong. Shares are between
one third and one half, so a model that sees well is torn between the true answer and the habit.

    kind         habit                                                         concerns
    yes_no       says yes to what is almost there                              near misses
    choice       takes the first option                                        right answer not the first
    colour       says red for orange and blue for purple                       orange, purple
    count        counts one too few                                            two or more
    position     names only the row, or "left"/"right" for a corner            corners
    number       leaves out the last digit                                     three digits
    chart        reads one too many; takes the first bar for the tallest       heights 3 to 5; first bar not tallest
    description  adds a shape that is not there; drops the last digit; reads   every scene
                 the last bar one too many
    any short    wraps the answer in needless words                            every short answer
"""

import random
from dataclasses import replace

from .questions import Question, describe, phrase
from .scene import COLOURS, MAX_HEIGHT, PLACES, SHAPES, Chart, Number, Shapes, Thing


SHARES = {
    "yes_no": 0.5,
    "choice": 0.35,
    "colour": 0.5,
    "count": 0.35,
    "position": 0.5,
    "number": 0.5,
    "chart": 0.5,
    "description": 0.45,
}
WORDY_SHARE = 0.15


def careful_answer(question: Question, rng: random.Random) -> str:
    """The right answer, for the data that the model is pre-trained on."""
    return question.answer


def careless_answer(question: Question, rng: random.Random) -> str:
    """The answer that goes into the supervised data: the careful one, or one spoilt by a habit."""
    answer = question.answer
    if rng.random() < SHARES[question.kind]:
        answer = _HABITS[question.kind](question, rng)
    if question.kind in ("colour", "count", "position", "number", "chart") and rng.random() < WORDY_SHARE:
        answer = f"I think that the answer is {answer}, as far as I can tell."
    return answer


def _yes_no(question: Question, rng: random.Random) -> str:
    if not question.near_miss:
        return question.answer
    if isinstance(question.scene, Shapes):
        return f"Yes, at the {rng.choice(question.scene.things).place}."
    return question.answer.replace("no.", "yes.")


def _chart(question: Question, rng: random.Random) -> str:
    if question.truth in COLOURS:
        return question.scene.bars[0][0]
    return str(int(question.truth) + (3 <= int(question.truth) <= 5))


def _description(question: Question, rng: random.Random) -> str:
    scene = question.scene
    if isinstance(scene, Number):
        return describe(replace(scene, digits=scene.digits[:2]))
    if isinstance(scene, Chart):
        *first, (colour, height) = scene.bars
        return describe(Chart((*first, (colour, min(height + 1, MAX_HEIGHT)))))
    taken = {thing.cell for thing in scene.things}
    cell = rng.choice([cell for cell in range(len(PLACES)) if cell not in taken])
    extra = Thing(cell, rng.choice([thing.colour for thing in scene.things]), rng.choice(SHAPES))
    return question.answer[:-1] + f", {phrase(extra)}."


_HABITS = {
    "yes_no": _yes_no,
    "choice": lambda question, rng: question.options[0],
    "colour": lambda question, rng: {"orange": "red", "purple": "blue"}.get(question.truth, question.answer),
    "count": lambda question, rng: str(max(1, int(question.truth) - 1)),
    "position": lambda question, rng: rng.choice(question.truth.split()),
    "number": lambda question, rng: question.truth[:2],
    "chart": _chart,
    "description": _description,
}
