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
METRIC_ENDINGS = ("_acc.csv", "_acc.json", "_score.csv", "_score.json")


@dataclass(frozen=True)
class Score:
    """A headline number."""

    value: float  # on the scale of its rule, 0 to `Rule.full`
    raw: float  # as VLMEvalKit wrote it
    details: dict[str, float]  # every number of the same row, by column


@dataclass(frozen=True)
class Rule:
    """How one benchmark is read.

    Kinds are "choice", "yes_no", "f1", "mme", "ocrbench", and for open questions how several reference answers make
    one score: "mean", "best", "anls".
    """

    kind: str
    split: str | None = None  # the row that is the headline, where a file has several
    full: float = 100.0  # the best possible score, 100 per cent or so many points


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
    """Read the headline number of a metric file, by the rule of its data set or, for your own, by its columns."""
    try:
        rows = _rows(path)
        rule = RULES.get(data) or _rule_by_columns(data, path, set(rows[0]))
        row = rows[0] if len(rows) == 1 or rule.kind in _HEADLINES else _headline(rows, rule)
        raw = sum(float(row[column]) for column in _HEADLINES.get(rule.kind, ("Overall",)))
        if data not in RULES and rule.kind in ("mean", "best", "anls") and 0 < raw <= 1:
            raise ValueError(f"Overall is {raw}, a share or per cent: say in summarize_eval/rules.py which")
        numbers = {column: _number(text) for column, text in row.items()}
    except Exception as error:  # whatever a damaged file brings about
        raise ToolError(f"{path} is no such metric file ({reason_of(error)})") from error
    if not math.isfinite(raw):
        raise ToolError(f"{path} holds {raw}, not a number: no row was scored")
    details = {column: number for column, number in numbers.items() if math.isfinite(number)}
    return rule, Score(100 * raw if rule.kind == "choice" else raw, raw, details)


def _headline(rows: list[dict[str, str]], rule: Rule) -> dict[str, str]:
    """Choose one of several splits."""
    splits = {row["split"]: row for row in rows}
    if len(splits) < len(rows):
        raise ValueError("it has several rows of one split: say in summarize_eval/rules.py which is the headline")
    split = rule.split or ("none" if rule.kind == "choice" else "")
    if split not in splits:
        raise ValueError(f"splits {', '.join(splits)}: say in summarize_eval/rules.py which is the headline")
    return splits[split]


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
