"""How each benchmark's metric file is read: which file, which row, which scale.

VLMEvalKit writes shares of one for multiple choice, per cent for yes/no and open questions, and points for MME and
OCRBench. The `primary_metric` of its status.json is not used: for MME it is the score of a single category, and its
scales are mixed. Here a score is always on the scale that papers print, and `raw` keeps the file's own number.
"""

import csv
import json
import math
from collections.abc import Callable, Sequence
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

Rows = Sequence[dict[str, str]]


@dataclass(frozen=True)
class Score:
    """A headline number.

    Attributes:
        value: on the scale of its rule, 0 to `Rule.full`.
        raw: as VLMEvalKit wrote it.
        details: every other number of the same row, by column.
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
        suffix: what the metric file's name ends with.
        full: the best possible score.
        unit: "%" or "points".
        split: the row that is the headline, where a file has several.
    """

    kind: str
    suffix: str
    full: float = 100.0
    unit: str = "%"
    split: str | None = None

    def read(self, path: Path) -> Score:
        """Read the headline number of a metric file.

        Raises:
            ToolError: the file cannot be read, or does not have the row or the numbers of its kind.
        """
        try:
            score = _HEADLINES.get(self.kind, _overall)(self, read_rows(path))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, csv.Error) as error:
            raise ToolError(f"{path} is no such metric file ({reason_of(error)})") from error
        if not math.isfinite(score.value):
            raise ToolError(f"{path} holds {score.raw}, not a number: no row was scored")
        return score


def rule_for(data: str, path: Path) -> Rule:
    """The rule of a data set by its name; for one we do not know (your own), by what its metric file looks like.

    Raises:
        ToolError: it looks like none.
    """
    if data in RULES:
        return RULES[data]
    try:
        columns = set(read_rows(path)[0])
    except (OSError, ValueError, LookupError, AttributeError, RecursionError, csv.Error) as error:
        raise ToolError(f"{path} cannot be read ({reason_of(error)})") from error
    if {"perception", "reasoning"} <= columns:
        return RULES["MME"]
    if "Final Score" in columns:
        return RULES["OCRBench"]
    if {"split", "Overall", "precision", "recall"} <= columns:
        return RULES["POPE"]
    if "Overall" in columns and path.stem.endswith("_score"):
        return Rule("yes_no", "_score")
    if {"split", "Overall"} <= columns:
        return Rule("choice", "_acc")
    if "Overall" in columns:
        return Rule(next((kind for part, kind in _OPEN if part in data), "mean"), "_acc")
    raise ToolError(f"{path} has no column Overall: no rule for {data}; add one to eval_table/rules.py")


def read_rows(path: Path) -> Rows:
    """The rows of a metric file, CSV or JSON, every value as text.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is not what its name says.
    """
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            return list(csv.DictReader(file))
        content = json.load(file)
    rows = content if isinstance(content, list) else [content]
    return [{key: str(value) for key, value in row.items()} for row in rows]


def _choice(rule: Rule, rows: Rows) -> Score:
    """Shares of one, a row for each split; a file of one row has one whatever its split is called."""
    row = _row(rows, rule.split or "none")
    share = float(row["Overall"])
    return Score(100 * share, share, _numbers(row))


def _overall(rule: Rule, rows: Rows) -> Score:
    """Per cent: the only row, or the one for everything."""
    row = _row(rows, rule.split)
    per_cent = float(row["Overall"])
    return Score(per_cent, per_cent, _numbers(row))


def _row(rows: Rows, split: str | None) -> dict[str, str]:
    if len(rows) == 1:
        return rows[0]
    by_split = {row["split"]: row for row in rows}
    if split not in by_split:
        raise ValueError(f"splits {', '.join(by_split)}: say in summarize_eval/rules.py which is the headline")
    return by_split[split]


def _mme(rule: Rule, rows: Rows) -> Score:
    points = float(rows[0]["perception"]) + float(rows[0]["reasoning"])
    return Score(points, points, _numbers(rows[0]))


def _ocrbench(rule: Rule, rows: Rows) -> Score:
    points = float(rows[0]["Final Score"])
    return Score(points, points, _numbers(rows[0]))


def _numbers(row: dict[str, str]) -> dict[str, float]:
    found = {}
    for column, text in row.items():
        try:
            number = float(text)
        except (TypeError, ValueError):
            continue
        if math.isfinite(number):
            found[column] = number
    return found


_HEADLINES: dict[str, Callable[[Rule, Rows], Score]] = {"choice": _choice, "mme": _mme, "ocrbench": _ocrbench}
# How VLMEvalKit scores open questions goes by these parts of a name, in this order.
_OPEN = (("TextVQA", "mean"), ("ChartQA", "best"), ("OCRVQA", "best"), ("DocVQA", "anls"), ("InfoVQA", "anls"))

RULES = {
    "ChartQA_TEST": Rule("best", "_acc"),
    "MMBench_DEV_CN": Rule("choice", "_acc", split="dev"),
    "MMBench_DEV_EN": Rule("choice", "_acc", split="dev"),
    "MME": Rule("mme", "_score", full=2800.0, unit="points"),
    "OCRBench": Rule("ocrbench", "_score", full=1000.0, unit="points"),
    "POPE": Rule("f1", "_score", split="Overall"),
    "ScienceQA_TEST": Rule("choice", "_acc", split="test"),
    "SEEDBench_IMG": Rule("choice", "_acc"),
    "TextVQA_VAL": Rule("mean", "_acc"),
    "InfoVQA_VAL": Rule("anls", "_acc"),
    "RealWorldQA": Rule("choice", "_acc"),
}
