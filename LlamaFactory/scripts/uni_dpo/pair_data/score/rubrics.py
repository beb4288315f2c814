"""What a judge is asked: a text with a place for the question and one for the answer."""

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


def read_rubric(path: Path | None, default: str) -> str:
    """Read a rubric from a file.

    Args:
        path: a text with {question} and {answer}; None for the default.
        default: what is asked otherwise.

    Raises:
        DataError: the file cannot be read, or lacks one of the two.
    """
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
    """Put a dialogue and an answer into a rubric; braces that mean something else stay as they are."""
    values |= {"question": dialogue(request), "answer": request.answer}
    return re.sub(r"\{(\w+)\}", lambda found: str(values.get(found[1], found[0])), rubric)


def dialogue(request: Request) -> str:
    """Write a dialogue as one text: a question alone as it is, turns before it with their speakers."""
    if len(request.messages) == 1 and not request.system:
        return request.messages[0][1]
    turns = [("system", request.system)] if request.system else []
    return "\n\n".join(f"{role.capitalize()}: {text}" for role, text in [*turns, *request.messages])
