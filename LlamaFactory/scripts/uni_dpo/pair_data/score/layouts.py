"""The two kinds of data sets that get scores: pairs, and questions with the answers that `data.py sample` drew."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from ..pairs import Pair, RowError, read_pair
from ..sources import Source
from . import agreement, spread


ANSWERS = "answers"


class PairRows:
    """Rows with a chosen and a rejected answer, whose scores are columns."""

    whole = True  # a row with an answer that has no score is of no use
    measures: ModuleType = agreement
    columns = ("score_chosen", "score_rejected")
    next = "data.py stats {output}   (tau_good and eta for these scores)"

    def __init__(self, source: Source):
        """Know which columns are what."""
        self.source = source

    def read(self, row: Any) -> tuple[Pair, list[tuple[str, str]]]:
        """Return what was asked, and the answers, each with its name; raises RowError."""
        pair = read_pair(row, self.source)
        return pair, [("chosen", pair.chosen), ("rejected", pair.rejected)]

    def scored(self, row: dict[str, Any]) -> str:
        """Return where the row has a score already, "" if it has none."""
        names = (self.source.columns[column] for column in self.columns)
        return next((f'"{name}"' for name in names if row.get(name) is not None), "")

    def with_scores(self, row: dict[str, Any], scores: Sequence[float | None]) -> dict[str, Any]:
        """Return the row with its scores."""
        names = (self.source.columns[column] for column in self.columns)
        return row | dict(zip(names, scores, strict=True))


class AnswerRows:
    """Rows with a list of answers, each of which gets a score inside; one without a score is left out."""

    whole = False
    measures: ModuleType = spread
    columns = ("score",)
    next = "data.py pairs {output} -o PAIRS.json"

    def __init__(self, source: Source):
        """Know which columns are what."""
        self.source = source

    def read(self, row: Any) -> tuple[Pair, list[tuple[str, str]]]:
        """Return what was asked, and the answers, each with its name; raises RowError."""
        pair = read_pair(row | {"chosen": "", "rejected": ""} if isinstance(row, dict) else row, self.source)
        answers = row.get(ANSWERS)
        if not isinstance(answers, list):
            raise RowError(ANSWERS, "a list of answers expected")
        texts = [answer.get("text") if isinstance(answer, dict) else None for answer in answers]
        odd = next((number for number, text in enumerate(texts) if not isinstance(text, str)), None)
        if odd is not None:
            raise RowError(ANSWERS, f"answer {odd} has no text")
        return pair, [(f"answer {number}", text) for number, text in enumerate(texts)]

    def scored(self, row: dict[str, Any]) -> str:
        """Return where the row has a score already, "" if it has none."""
        known = any(answer.get("score") is not None for answer in row[ANSWERS])
        return f'"score" in its {ANSWERS}' if known else ""

    def with_scores(self, row: dict[str, Any], scores: Sequence[float | None]) -> dict[str, Any]:
        """Return the row with the scores of its answers."""
        scored = zip(row[ANSWERS], scores, strict=True)
        return row | {ANSWERS: [answer | {"score": score} for answer, score in scored if score is not None]}


def layout_of(source: Source) -> PairRows | AnswerRows:
    """Tell by the first row which of the two a data set is."""
    first = next(iter(source.values()), None)
    answers = isinstance(first, dict) and not source.described and isinstance(first.get(ANSWERS), list)
    return AnswerRows(source) if answers and "chosen" not in first else PairRows(source)
