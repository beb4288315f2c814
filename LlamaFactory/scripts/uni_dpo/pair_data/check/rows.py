"""What is wrong with a row, looked at alone."""

import math
import re
from collections.abc import Iterator
from typing import Any

from ..pairs import FLOAT32_MAX, Pair, RowError
from ..sources import Source
from .findings import Problem


PLACEHOLDERS = {"<image>": "images", "<video>": "videos", "<audio>": "audios"}  # LlamaFactory's
# Of Qwen's models that see or hear; others have other tokens, which --model or --config know.
MEDIA_TOKENS = re.compile(r"<\|(?:(?:image|video|audio|vision)_(?:pad|start|end|bos|eos)|IMAGE|VIDEO|AUDIO)\|>")
SPECIAL_TOKENS = re.compile(r"<\|[A-Za-z0-9_]{2,30}\|>")


def check_scores(row: dict[str, Any], source: Source) -> list[Problem]:
    """Look at both scores, and at which of them is higher."""
    chosen, problems = _score(row, source.columns["score_chosen"])
    rejected, more = _score(row, source.columns["score_rejected"])
    problems += more
    column = source.columns["score_chosen"]
    if chosen == rejected:
        problems.append(("score-equal", column, f"both are {chosen:g}"))
    elif chosen < rejected:
        problems.append(("score-reversed", column, f"{chosen:g} is less than {rejected:g}"))
    return problems


def _score(row: dict[str, Any], column: str) -> tuple[float, list[Problem]]:
    """Read a score; NaN where there is none that training could use."""
    value = row.get(column)
    if value is None:
        return math.nan, [("score-missing", column, "there is no score")]
    if isinstance(value, bool):
        return math.nan, [("score-boolean", column, f"{value} is not a number")]
    try:
        score = float(value)
    except OverflowError:
        score = math.inf
    except (TypeError, ValueError):
        return math.nan, [("score-text", column, f"{_excerpt(value)} is not a number")]
    if not abs(score) <= FLOAT32_MAX:
        return math.nan, [("score-not-finite", column, f"{_excerpt(value)} is not finite in float32")]
    return score, [("score-numeric-text", column, f"{value!r} is text")] if isinstance(value, str) else []


def explain_row_error(error: RowError, row: dict[str, Any], source: Source) -> Problem:
    """Find the kind of what kept a pair from being read."""
    column, columns = error.column, source.columns
    kind = "column-type"
    if column == columns.get("images"):
        kind = "image-entry"
    elif column in (columns.get("chosen", "chosen"), columns.get("rejected", "rejected")):
        kind = "answer-missing" if row.get(column) is None else "column-type"
    elif column == columns.get("messages"):
        kind = "messages"
    elif column == columns.get("prompt", "prompt") and not row.get(column):
        kind = "question-empty"
    return kind, column, str(error)


def check_pair(pair: Pair, source: Source) -> Iterator[Problem]:
    """Look at the texts of a pair, and at the number of its images."""
    columns = source.columns
    asked = columns.get("prompt" if source.formatting == "alpaca" else "messages")
    question = pair.messages[-1][1]
    if not question.strip():
        yield "question-empty", asked, "there is no question"
    elif not re.sub("|".join(PLACEHOLDERS), "", question).strip():
        yield "question-only-images", asked, f"{_excerpt(question)} is all there is"
    for side, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        if not answer.strip():
            yield "answer-empty", columns[side], "the answer is empty" if not answer else "white space only"
        for placeholder in PLACEHOLDERS:
            if placeholder in answer:
                yield "placeholder-in-answer", columns[side], f"{placeholder} in the answer"
    if pair.chosen == pair.rejected or (pair.chosen.strip() and pair.chosen.strip() == pair.rejected.strip()):
        yield "answers-identical", columns["rejected"], f"both are {_excerpt(pair.chosen)}"
    for placeholder, use in PLACEHOLDERS.items():
        count, places = len(getattr(pair, use)), sum(text.count(placeholder) for _, text in pair.messages)
        if places != count:
            noun = placeholder[1:-1] + ("" if count == 1 else "s")
            kind = "image-count" if use == "images" else "media-count"
            yield kind, asked, f"{places} {placeholder} in the question, {count} {noun} in the row"
    texts = [(asked, pair.prompt), (columns["chosen"], pair.chosen), (columns["rejected"], pair.rejected)]
    beside = [(columns.get("system", asked), pair.system), (columns.get("tools"), pair.tools)]
    for column, text in beside:
        if found := next((placeholder for placeholder in PLACEHOLDERS if placeholder in text), None):
            yield "placeholder-elsewhere", column, f"{found} in the system prompt or the tools"
    for column, text in [*texts, *beside]:
        if "<|" not in text:
            continue
        if found := MEDIA_TOKENS.search(text):
            yield "media-token", column, f"{found[0]} in the text"
        elif found := SPECIAL_TOKENS.search(text):
            yield "special-token", column, f"{found[0]} in the text"


def _excerpt(value: Any, length: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= length else text[:length] + "..."
