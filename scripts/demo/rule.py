"""The rule that scores any answer to any question, 0 to 10.

    score = 1 + 9 * correctness - 1.5 * hallucinations - verbosity - form        (cut to 0..10; an empty answer is 0)

- correctness, 0 to 1: is the asked value right? Near answers earn a part: a neighbouring count, the right row of the
  wrong corner, some digits of a number, some things of a description.
- hallucinations: things, places or values stated that are not in the picture.
- verbosity: 0.15 a word beyond the careful answer's length plus two, at most 2.
- form: 0.5 for each word the world does not know, at most 3, and 0.5 for a question's format not kept.

The careful annotator's answer always scores 10; a wrong but well-formed answer scores 1.
"""

import re
from collections import Counter
from dataclasses import dataclass

from .questions import LETTERS, Question
from .scene import COLOURS, PLACES, SHAPES, Chart, Number, Scene, Shapes


NUMBER_WORDS = {"zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"}
OTHER_WORDS = frozenset(
    "yes no it is are at the there a an and in of i see think answer that this picture number bar bars color shape "
    "shapes against tall taller tallest than looks like to me middle as far can tell shows not but with".split()
)
KNOWN_WORDS = (
    OTHER_WORDS | set(COLOURS) | set(SHAPES) | {word for place in PLACES for word in place.split()} | set(NUMBER_WORDS)
)
# Two-word places first, so that "top left" is not read as "top" and "left".
_PLACE = re.compile(r"\b(" + "|".join(sorted(PLACES, key=len, reverse=True)) + r")\b")
_THING = re.compile(rf"\b({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})\b(?: (?:at|in) the {_PLACE.pattern})?")
_BAR = re.compile(rf"\b({'|'.join(COLOURS)}) (\d+)\b")


@dataclass(frozen=True)
class Judgement:
    """What the rule says about one answer.

    Attributes:
        score: 0.0 to 10.0.
        correctness: 0.0 to 1.0.
        hallucinations: how many stated things are not in the picture.
    """

    score: float
    correctness: float
    hallucinations: int

    @property
    def right(self) -> bool:
        """Whether the answer counts as right in an accuracy: entirely correct and, if a description, nothing made up.

        A yes or no stays right when the reason given for it is wrong, as in the benchmarks that read the first word.
        """
        return self.correctness == 1.0


def judge(question: Question, answer: str) -> Judgement:
    """Score an answer, whatever string it is."""
    if not answer.strip():
        return Judgement(0.0, 0.0, 0)
    text = _normalise(answer)
    correctness, hallucinations = {"yes_no": _yes_no, "choice": _choice, "description": _description}.get(
        question.kind, _short
    )(question, answer, text)
    costs = 1.5 * hallucinations + _verbosity(question, text) + _form(question, answer, text)
    return Judgement(min(10.0, max(0.0, 1 + 9 * correctness - costs)), correctness, hallucinations)


def _normalise(answer: str) -> str:
    text = re.sub(r"\bmiddle\b", "center", answer.lower().replace("centre", "center"))
    return re.sub(r"\b(" + "|".join(NUMBER_WORDS) + r")\b", lambda match: NUMBER_WORDS[match[1]], text)


def _short(question: Question, answer: str, text: str) -> tuple[float, int]:
    """A colour, count, position, number or height: the one value named must be the true one."""
    named = _values(question, text)
    if not named:
        return 0.0, 0
    if len(set(named)) > 1:  # hedging earns little, and the other value is made up
        return (0.3 if question.truth in named else 0.0), 1
    return _closeness(question.kind, question.truth, named[0]), 0


def _values(question: Question, text: str) -> list[str]:
    if question.kind == "position":
        return _PLACE.findall(text)
    if question.truth in COLOURS:
        return re.findall(r"\b(" + "|".join(COLOURS) + r")\b", text)
    return re.findall(r"\d+", text)


def _closeness(kind: str, truth: str, value: str) -> float:
    if value == truth:
        return 1.0
    if kind == "position":
        (row, column), (other_row, other_column) = (divmod(PLACES.index(place), 3) for place in (truth, value))
        return 0.4 if row == other_row or column == other_column else 0.0
    if kind == "number":
        return 0.5 * sum(a == b for a, b in zip(truth, value, strict=False)) / max(len(truth), len(value))
    if truth.isdigit() and value.isdigit():
        return 0.3 if abs(int(truth) - int(value)) == 1 else 0.0
    return 0.0


def _yes_no(question: Question, answer: str, text: str) -> tuple[float, int]:
    """The first yes or no decides; places and numbers of the reason must be those of the careful answer."""
    verdicts = re.findall(r"\b(yes|no)\b", text)
    if not verdicts or verdicts[0] != question.truth:
        return 0.0, 0
    allowed = {*question.reasons, *_reasons(question.answer.lower()), *_reasons(question.text.lower())}
    return (0.3 if len(set(verdicts)) > 1 else 1.0), len(_reasons(text) - allowed)


def _reasons(text: str) -> set[str]:
    return {*_PLACE.findall(text), *re.findall(r"\d+", text)}


def _choice(question: Question, answer: str, text: str) -> tuple[float, int]:
    """An option or its letter, and no other option."""
    letters = set(re.findall(r"\b[A-D]\b", answer))
    said = {*_PLACE.findall(text), *re.findall(r"\w+", _PLACE.sub(" ", text))}
    named = {letter for letter, option in zip(LETTERS, question.options, strict=True) if option in said}
    wrong = len(named - {question.truth})
    if len(letters) > 1:
        return (0.3 if question.truth in letters else 0.0), wrong
    if letters:
        return float(question.truth in letters), wrong
    return float(named == {question.truth}), max(0, len(named) - 1)


def _description(question: Question, answer: str, text: str) -> tuple[float, int]:
    """The share of the scene's facts that are stated, and how many stated facts are made up."""
    stated, true = Counter(_facts(question.scene, text)), Counter(_facts(question.scene, question.answer.lower()))
    invented = sum((stated - true).values())
    share = sum((stated & true).values()) / sum(true.values())
    if isinstance(question.scene, Shapes):  # a thing at the wrong place is not made up: it is half right
        named, really = (Counter(pair for pair, _ in facts.elements()) for facts in (stated, true))
        invented = sum((named - really).values())
        share = (share + sum((named & really).values()) / sum(really.values())) / 2
    return (min(share, 0.9) if invented else share), invented


def _facts(scene: Scene, text: str) -> list:
    if isinstance(scene, Shapes):
        return [((colour, shape), place) for colour, shape, place in _THING.findall(text)]
    if isinstance(scene, Number):
        return re.findall(r"\d+", text) + [colour for colour in COLOURS if colour in text]
    assert isinstance(scene, Chart)
    return _BAR.findall(text)


def _verbosity(question: Question, text: str) -> float:
    extra = len(text.split()) - len(question.answer.split()) - 2
    return min(2.0, 0.15 * max(0, extra))


def _form(question: Question, answer: str, text: str) -> float:
    unknown = sum(not word.isdigit() and word not in KNOWN_WORDS for word in re.findall(r"[^\W_]+", _strip(answer)))
    kept = {
        "yes_no": re.search(r"\b(yes|no)\b", text),
        "description": answer.rstrip().endswith("."),
    }.get(question.kind, True)
    return min(3.0, 0.5 * unknown) + (0.0 if kept else 0.5)


def _strip(answer: str) -> str:
    """Lower-case words without option letters, which are no words."""
    return re.sub(r"\b[A-D]\b", " ", answer).lower()
