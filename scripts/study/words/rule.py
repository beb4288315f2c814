"""The rule that marks an answer to an instruction: 0 to 10 points, in parts, so that better answers get more.

It is a rule as `data.py score --rule` takes them, in a file that needs no other of ours.
"""

import json
import re
from typing import Any


RIGHT = 9.99
FEW_WORDS, WORDS_OF_AN_ITEM = 6, 3

Wanted = dict[str, Any]


def score(answer: str, row: dict[str, Any]) -> float:
    """Mark an answer for `data.py score`; the row has what is wanted as JSON."""
    return points(json.loads(row["wanted"]), answer)


def points(wanted: Wanted, answer: str) -> float:
    """Mark an answer.

    Args:
        wanted: of the instruction, see `questions.Instruction`.
        answer: any text.

    Returns:
        10 if it is as asked, else the sum of its right parts; 0 for nothing.
    """
    answer = answer.strip()
    marks = next(mark for name, mark in MARKS.items() if name in wanted)
    return round(10 * sum(marks(wanted, answer)), 3) if answer else 0.0


def _number(wanted: Wanted, answer: str) -> tuple[float, ...]:
    """The right number at the end (0.5), nothing but a number (0.3), few words (0.2)."""
    numbers = re.findall(r"-?\d+", answer)
    alone = re.fullmatch(r"-?\d+\.?", answer) is not None
    return 0.5 * (bool(numbers) and int(numbers[-1]) == wanted["number"]), 0.3 * alone, 0.2 * _is_short(answer)


def _word(wanted: Wanted, answer: str) -> tuple[float, ...]:
    """The right word and none of the wrong ones (0.5), one word only (0.3), few words (0.2)."""
    words = _words(answer)
    wrong = {word.lower() for word in wanted["not"]} - {wanted["word"].lower()}
    right = wanted["word"].lower() in words and not wrong & set(words)
    return 0.5 * right, 0.3 * (len(words) == 1), 0.2 * _is_short(answer)


def _text(wanted: Wanted, answer: str) -> tuple[float, ...]:
    """The wanted text is in it (0.4), nothing else (0.4), few words (0.2)."""
    bare = answer.strip("\"'.` ")
    return 0.4 * (wanted["text"] in answer), 0.4 * (bare == wanted["text"]), 0.2 * _is_short(answer)


def _lines(wanted: Wanted, answer: str) -> tuple[float, ...]:
    """As many lines as asked (0.4), the share with a dash (0.3), and the share of short ones, none twice (0.3)."""
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    items = {line.lstrip("- ").lower() for line in lines if len(_words(line)) <= WORDS_OF_AN_ITEM}
    dashed = sum(line.startswith("- ") for line in lines) / len(lines)
    return 0.4 * (len(lines) == wanted["lines"]), 0.3 * dashed, 0.3 * len(items) / len(lines)


def _items(wanted: Wanted, answer: str) -> tuple[float, ...]:
    """As many parts between commas as asked (0.4), in one line (0.3), the share of short ones, none twice (0.3)."""
    items = [item.strip(" .\n").lower() for item in answer.split(",")]
    short = {item for item in items if 0 < len(item.split()) <= WORDS_OF_AN_ITEM}
    return 0.4 * (len(items) == wanted["items"]), 0.3 * ("\n" not in answer), 0.3 * len(short) / len(items)


def _sentence(wanted: Wanted, answer: str) -> tuple[float, ...]:
    """One sentence (0.3) that is short enough (0.4, less for each word too many), about the right thing (0.3).

    Where it is to begin with certain words, these are half of it.
    """
    ends = len(re.findall(r"[.!?]+(?:\s|$)", answer))
    over = max(0, len(_words(answer)) - wanted["most"])
    about = wanted["about"] in answer.lower()
    parts = 0.3 * (ends == 1), 0.4 * max(0.0, 1 - over / wanted["most"]), 0.3 * about
    if "begins" not in wanted:
        return parts
    return 0.5 * answer.startswith(wanted["begins"]), *(0.5 * part for part in parts)


def _is_short(answer: str) -> bool:
    return len(_words(answer)) <= FEW_WORDS


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text.lower().replace("- ", ""))


# By what an instruction wants.
MARKS = {
    "number": _number,
    "word": _word,
    "text": _text,
    "lines": _lines,
    "items": _items,
    "most": _sentence,
}
