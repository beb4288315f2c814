"""How each benchmark's metric file is read: which row, which column, which scale.

VLMEvalKit writes shares of one for multiple choice, per cent for yes/no and open questions, and points for MME and
OCRBench. The `primary_metric` of its status.json is not used: for MME it is the score of a single category, and its
scales are mixed. Here a score is always on the scale that papers print, and `raw` keeps the file's own number.
"""

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path

from common import ToolError, reason_of


NINE = (
    "ChartQA_TEST",
    "MMBench_DEV_CN",
    "MMBench_DEV_EN",
    "MME",
    "OCRBench",
    "POPE",
    "ScienceQA_TEST",
    "SEEDBench_IMG",
    "TextVQA_VAL",
)
POSTER = ("InfoVQA_VAL", "RealWorldQA")
METRIC_SUFFIXES = ("_acc", "_score")
METRIC_FORMATS = (".csv", ".json")


@dataclass(frozen=True)
class Score:
    """A headline number.

    Attributes:
        value: on the scale of its rule, 0 to `Rule.full`.
        raw: as VLMEvalKit wrote it.
        details: every number of the same row, by column.
    """

    value: float
    raw: float
    details: dict[str, float]


@dataclass(frozen=True)
class Rule:
    """How one benchmark is read.

    Attributes:
        kind: "choice", "yes_no", "f1", "mme", "ocrbench", or for open questions how several reference answers make
            one score: "mean", "best", "anls".
        split: the row that is the headline, where a file has several.
        full: the best possible score, 100 per cent or so many points.
    """

    kind: str
    split: str | None = None
    full: float = 100.0


RULES = {
    "ChartQA_TEST": Rule("best"),
    "MMBench_DEV_CN": Rule("choice", "dev"),
    "MMBench_DEV_EN": Rule("choice", "dev"),
    "MME": Rule("mme", full=2800.0),
    "OCRBench": Rule("ocrbench", full=1000.0),
    "POPE": Rule("f1", "Overall"),
    "ScienceQA_TEST": Rule("choice", "test"),
    "SEEDBench_IMG": Rule("choice"),
    "TextVQA_VAL": Rule("mean"),
    "InfoVQA_VAL": Rule("anls"),
    "RealWorldQA": Rule("choice"),
}
_HEADLINES = {"mme": ("perception", "reasoning"), "ocrbench": ("Final Score",)}
# How VLMEvalKit scores open questions goes by these parts of a name, in this order.
_OPEN = (("TextVQA", "mean"), ("ChartQA", "best"), ("OCRVQA", "best"), ("DocVQA", "anls"), ("InfoVQA", "anls"))


def read_score(data: str, path: Path) -> tuple[Rule, Score]:
    """Read the headline number of a metric file, by the rule of its data set or, for your own, by its columns.

    Raises:
        ToolError: the file cannot be read, or does not have the row or the numbers that it should.
    """
    try:
        rows = _rows(path)
        rule = RULES.get(data) or _rule_by_columns(data, path, set(rows[0]))
        row = rows[0]
        if len(rows) > 1 and rule.kind not in _HEADLINES:
            splits, split = (
                {row["split"]: row for row in rows},
                rule.split or ("none" if rule.kind == "choice" else ""),
            )
            if split not in splits:
                raise ValueError(f"splits {', '.join(splits)}: say in summarize_eval/rules.py which is the headline")
            row = splits[split]
        raw = sum(float(row[column]) for column in _HEADLINES.get(rule.kind, ("Overall",)))
        numbers = {column: _number(text) for column, text in row.items()}
    except Exception as error:  # whatever a damaged file brings about
        raise ToolError(f"{path} is no such metric file ({reason_of(error)})") from error
    if not math.isfinite(raw):
        raise ToolError(f"{path} holds {raw}, not a number: no row was scored")
    details = {column: number for column, number in numbers.items() if math.isfinite(number)}
    return rule, Score(100 * raw if rule.kind == "choice" else raw, raw, details)


def _rule_by_columns(data: str, path: Path, columns: set[str]) -> Rule:
    if {"perception", "reasoning"} <= columns:
        return RULES["MME"]
    if "Final Score" in columns:
        return RULES["OCRBench"]
    if {"split", "Overall", "precision", "recall"} <= columns:
        return RULES["POPE"]
    if "Overall" not in columns:
        raise ValueError(f"it has no column Overall: no rule for {data}; add one to summarize_eval/rules.py")
    if path.stem.endswith("_score"):
        return Rule("yes_no")
    return Rule("choice" if "split" in columns else next((kind for part, kind in _OPEN if part in data), "mean"))


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of a metric file, CSV or JSON, every value as text."""
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            return list(csv.DictReader(file))
        content = json.load(file)
    rows = content if isinstance(content, list) else [content]
    return [{key: str(value) for key, value in row.items()} for row in rows]


def _number(text: str | list | None) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan
