"""What is wrong with a row, looked at alone."""

import re
from collections.abc import Iterator
from typing import Any

from ..errors import excerpt
from ..pairs import Pair, RowError, read_score
from ..sources import Source
from .findings import Problem


SCORES = ("score_chosen", "score_rejected")
PLACEHOLDERS = {"<image>": "images", "<video>": "videos", "<audio>": "audios"}  # LlamaFactory's
# Of Qwen's models that see or hear; others have other tokens, which --model or --config know.
MEDIA_TOKENS = re.compile(r"<\|(?:(?:image|video|audio|vision)_(?:pad|start|end|bos|eos)|IMAGE|VIDEO|AUDIO)\|>")
SPECIAL_TOKENS = re.compile(r"<\|[A-Za-z0-9_]{2,30}\|>")


def check_scores(row: dict[str, Any], source: Source) -> Iterator[Problem]:
    """Look at both scores, and at which of them is higher."""
    scores = []
    for side in SCORES:
        column = source.columns[side]
        try:
            scores.append(read_score(row, source, side))
        except RowError as error:
            yield error.kind, column, str(error)
            continue
        if isinstance(row[column], str):
            yield "score-numeric-text", column, f"{row[column]!r} is text"
    column = source.columns[SCORES[0]]
    if len(scores) == 2 and scores[0] == scores[1]:
        yield "score-equal", column, f"both are {scores[0]:g}"
    elif len(scores) == 2 and scores[0] < scores[1]:
        yield "score-reversed", column, f"{scores[0]:g} is less than {scores[1]:g}"


def check_weight(row: dict[str, Any], source: Source) -> Iterator[Problem]:
    """Look at the weight of a pair."""
    column = source.columns["weight"]
    try:
        weight = read_score(row, source, "weight")
    except RowError as error:
        yield "weight", column, str(error)
        return
    if weight < 0:
        yield "weight", column, f"{weight:g} is negative"


def check_pair(pair: Pair, source: Source) -> Iterator[Problem]:
    """Look at the texts of a pair, and at the number of its images."""
    columns = source.columns
    asked = columns.get("prompt" if source.formatting == "alpaca" else "messages")
    question = pair.messages[-1][1]
    if not question.strip():
        yield "question-empty", asked, "there is no question"
    elif not re.sub("|".join(PLACEHOLDERS), "", question).strip():
        yield "question-only-images", asked, f"{excerpt(question)} is all there is"
    for side, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        if not answer.strip():
            yield "answer-empty", columns[side], "the answer is empty" if not answer else "white space only"
        for placeholder in PLACEHOLDERS:
            if placeholder in answer:
                yield "placeholder-in-answer", columns[side], f"{placeholder} in the answer"
    if pair.chosen == pair.rejected or (pair.chosen.strip() and pair.chosen.strip() == pair.rejected.strip()):
        yield "answers-identical", columns["rejected"], f"both are {excerpt(pair.chosen)}"
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
