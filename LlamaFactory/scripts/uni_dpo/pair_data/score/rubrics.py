"""What a judge is asked, a text with a place for question and answer, and the number in what it says."""

import re
from pathlib import Path

from ..errors import DataError
from .requests import PLACEHOLDER, Request


YES_NO = """\
Here is a question and an answer that somebody gave to it.

Question:
{question}

Answer:
{answer}

Is this a good answer: correct, true to the image if there is one, complete, and without inventions? \
Answer Yes or No."""

NUMBER = """\
Grade an answer to a question. What counts, in this order: that it is correct and true to the image, if there is one; \
that nothing in it is invented; that it answers all of the question, in the form that was asked for; that it is \
clear. Length is no merit.

Question:
{question}

Answer:
{answer}

Say in one or two sentences what is right and wrong with the answer. Then end with a line of this form, N being a \
number from {low} (useless or false) to {high} (could not be better):
Score: N"""

# After the number may come what it is out of, and nothing that would make it another number: "7-8", "7 to 8", "75%".
_NUMBER = r"(?P<number>[-+]?\d+(?:[.,]\d+)?)(?:\s*(?:/|out\s+of)\s*(?P<of>\d+(?:\.\d+)?))?"
_NUMBER += r"(?![\w%]|[.,]\d|\s*(?:[-–—~/]|to\b|or\b)\s*\d)"
_MARKS = r"[\s*_`\"']*"
_LABEL = re.compile(rf"\bscore{_MARKS}(?:\([^)\n]*\))?{_MARKS}[:=]", re.I)
_AFTER_LABEL = re.compile(_MARKS + _NUMBER, re.I)
_ALONE = re.compile(rf"{_MARKS}{_NUMBER}{_MARKS}\.?\s*$", re.I)


def read_rubric(path: Path | None, default: str) -> str:
    """Read a rubric from a file, a text with {question} and {answer}; None stands for the default."""
    if path is None:
        return default
    try:
        rubric = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the rubric {path}: {error}") from error
    absent = [name for name in ("{question}", "{answer}") if name not in rubric]
    if absent:
        raise DataError(f"the rubric {path} lacks {' and '.join(absent)}, which stand for a pair's texts.")
    if PLACEHOLDER in rubric:
        raise DataError(f"the rubric {path} has {PLACEHOLDER}. Images come with the question; leave it out.")
    return rubric


def fill(rubric: str, request: Request, **values: object) -> str:
    """Put a dialogue and an answer into a rubric; braces that mean something else stay as they are.

    A question alone stands there as it is, turns before it with their speakers.
    """
    turns = [("system", request.system)] if request.system else []
    turns += request.messages
    spoken = "\n\n".join(f"{role.capitalize()}: {text}" for role, text in turns)
    values |= {"question": spoken if len(turns) > 1 else turns[0][1], "answer": request.answer}
    return re.sub(r"\{(\w+)\}", lambda found: str(values.get(found[1], found[0])), rubric)


def read_score(reply: str | None, low: float, high: float) -> float | None:
    """Find the score in a reply, None if there is none, if it is out of range, or if it could be read in two ways.

    The last "Score: 7" counts, also as "**Score:** 7/10" or `{"score": 7}`; else a reply that is nothing but a number.
    What is thought aloud before a closing `</think>` does not count.
    """
    text = (reply or "").rpartition("</think>")[2]
    if "<think>" in text:  # cut off before it came to its reply
        return None
    *_, label = [None, *_LABEL.finditer(text)]
    found = _AFTER_LABEL.match(text, label.end()) if label else _ALONE.match(text)
    if not found or (found["of"] and float(found["of"]) != high):
        return None
    score = float(found["number"].replace(",", "."))
    return score if low <= score <= high else None
