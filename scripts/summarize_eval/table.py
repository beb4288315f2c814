"""The table, for terminal, Markdown, CSV and JSON, beside the published numbers if wanted."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

from .results import LEVEL, Result, Results


# The published numbers of Qwen2-VL-2B. "~" marks what was measured in the picture; the others are printed there.
MODELS = ("base", "DPO", "SimPO", "Uni-DPO")
PAPER_NOTE = (
    "paper: Qwen2-VL-2B, read off the poster's radar chart (arXiv 2506.10054); ~ measured in the picture, "
    "+-3 % of the axis; its MMBench, of unnamed language, is beside MMBench_DEV_EN"
)
PAPER = {
    "ChartQA_TEST": ("~5.2", "~6.5", "11.7", "13.8"),
    "OCRBench": ("~669", "677", "~635", "709"),
    "TextVQA_VAL": ("~50.3", "~52.8", "60.6", "73.2"),
    "POPE": ("~79.0", "80.4", "~78.1", "86.0"),
    "MME": ("~1745", "~1800", "1813", "1905"),
    "MMBench_DEV_EN": ("~50.1", "~43.7", "54.4", "63.8"),
    "SEEDBench_IMG": ("~54.1", "~50.8", "59.6", "70.8"),
    "ScienceQA_TEST": ("~65.5", "~62.9", "66.8", "68.1"),
    "InfoVQA_VAL": ("~37.9", "~39.8", "41.5", "45.3"),
    "RealWorldQA": ("~53.9", "54.8", "~54.0", "55.3"),
}
INTERVAL = "paired percentile bootstrap"
CSV_COLUMNS = (
    *("checkpoint", "benchmark", "state", "value", "unit", "full_scale", "raw", "questions", "unanswered"),
    *("baseline", "difference", "low", "high", "note"),
)


@dataclass(frozen=True)
class Table:
    """Everything that is shown."""

    checkpoints: Sequence[str]  # columns
    data: Sequence[str]  # rows
    results: Results
    baseline: str | None  # the checkpoint others are compared with
    resamples: int
    seed: int
    with_paper: bool  # whether the published numbers stand beside ours

    @property
    def complete(self) -> bool:
        """Whether every cell has a number from answers of the model."""
        return all(result.complete for result in self.results.values())

    def compared(self) -> list[str]:
        """The checkpoints that have a column of differences."""
        return [name for name in self.checkpoints if self.baseline is not None and name != self.baseline]


def terminal(table: Table) -> str:
    """Aligned text with all notes below."""
    head, *lines = _lines(table)
    return "\n".join([tabulate(lines, head, "simple", disable_numparse=True), "", *_notes(table)])


def markdown(table: Table) -> str:
    """The same for a README."""
    head, *lines = _lines(table)
    align = ["left", *["right"] * (len(head) - 1)]
    body = tabulate(lines, head, "github", disable_numparse=True, colalign=align)
    return "\n".join([body, "", *(f"- {note}" for note in _notes(table))]) + "\n"


def comma_separated(table: Table) -> str:
    """One line for each checkpoint and data set, at full precision."""
    columns = [*CSV_COLUMNS, *(f"paper_{name}" for name in MODELS if table.with_paper)]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for entry in _entries(table):
        writer.writerow(entry | {f"paper_{name}": number for name, number in entry.get("paper", {}).items()})
    return text.getvalue()


def as_json(table: Table) -> str:
    """The same with every other number of the metric files, and how the intervals were made."""
    content = {
        "checkpoints": list(table.checkpoints),
        "benchmarks": list(table.data),
        "baseline": table.baseline,
        "interval": dict(kind=INTERVAL, level=LEVEL, resamples=table.resamples, seed=table.seed),
        "results": _entries(table),
        **({"paper": PAPER_NOTE} if table.with_paper else {}),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _lines(table: Table) -> list[list[str]]:
    """The head and a line for each data set."""
    head = ["benchmark", "n"]
    for name in table.checkpoints:
        head += [name, f"vs {table.baseline} [95 %]"] if name in table.compared() else [name]
    lines = [head + [f"paper: {name}" for name in MODELS if table.with_paper]]
    for data in table.data:
        results = {name: table.results[name, data] for name in table.checkpoints}
        rows = dict.fromkeys(str(result.samples.rows) for result in results.values() if result.samples)
        line = [data, "/".join(rows)]
        for name, result in results.items():
            line += [_value(result), _difference(result)] if name in table.compared() else [_value(result)]
        lines.append(line + (list(PAPER.get(data, ("",) * len(MODELS))) if table.with_paper else []))
    return lines


def _value(result: Result) -> str:
    if result.score is None:
        return result.state
    return f"{result.score.value:.1f}" + ("" if result.complete else " !") + (" ?" if result.unasked else "")


def _difference(result: Result) -> str:
    change = result.difference
    if change is None:
        return ""
    return f"{change.value:+.1f} [{change.low:+.1f}, {change.high:+.1f}]" + (" *" if change.clear else "  ")


def _notes(table: Table) -> list[str]:
    points = {"MME", "OCRBench"} & set(table.data)
    notes = ["per cent, except MME (of 2800) and OCRBench (of 1000)" if points else "per cent"]
    if table.compared():
        notes.append(
            "[95 %]: difference, and its interval by paired bootstrap over questions (MME: images), "
            f"{table.resamples} resamples, seed {table.seed}; * the interval excludes 0"
        )
    if table.with_paper:
        notes.append(PAPER_NOTE)
    for (checkpoint, data), result in table.results.items():
        if result.note:
            mark = "! " if not result.complete else "? " if result.unasked else ""
            notes.append(f"{mark}{checkpoint}, {data}: {result.state}; {result.note}")
    return notes


def _entries(table: Table) -> list[dict]:
    entries = []
    for (checkpoint, data), result in table.results.items():
        entry = {"checkpoint": checkpoint, "benchmark": data, "state": result.state}
        if result.score:
            full = result.rule.full
            entry |= {"value": result.score.value, "unit": "%" if full == 100 else "points", "full_scale": full}
            entry |= {"raw": result.score.raw, "details": result.score.details}
        if result.samples:
            entry |= {"questions": result.samples.rows, "unanswered": result.samples.failed}
        if change := result.difference:
            entry |= {"baseline": table.baseline, "difference": change.value, "low": change.low, "high": change.high}
        if table.with_paper and data in PAPER:
            entry["paper"] = dict(zip(MODELS, PAPER[data], strict=True))
        entries.append({**entry, "note": result.note})
    return entries
