"""The table, for terminal, Markdown, CSV and JSON."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

from . import paper
from .results import Result, Results


SCALE_NOTE = "per cent, except MME (of 2800) and OCRBench (of 1000)"


@dataclass(frozen=True)
class Table:
    """Everything that is shown.

    Attributes:
        checkpoints: columns, in order.
        data: rows, in order.
        results: by checkpoint and data set.
        baseline: the checkpoint others are compared with; None without comparison.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        with_paper: whether the published numbers stand beside ours.
    """

    checkpoints: Sequence[str]
    data: Sequence[str]
    results: Results
    baseline: str | None
    resamples: int
    seed: int
    with_paper: bool

    @property
    def complete(self) -> bool:
        """Whether every cell has a number from answers of the model."""
        return all(result.complete for result in self.results.values())

    def compared(self) -> list[str]:
        """The checkpoints that have a column of differences."""
        return [name for name in self.checkpoints if self.baseline is not None and name != self.baseline]


def terminal(table: Table) -> str:
    """Aligned text with all notes below."""
    return "\n".join([tabulate(_cells(table), _head(table), "simple", disable_numparse=True), "", *_notes(table)])


def markdown(table: Table) -> str:
    """The same for a README."""
    head = _head(table)
    align = ["left", *["right"] * (len(head) - 1)]
    body = tabulate(_cells(table), head, "github", disable_numparse=True, colalign=align)
    return "\n".join([body, "", *(f"- {note}" for note in _notes(table))]) + "\n"


def comma_separated(table: Table) -> str:
    """One line for each checkpoint and data set, at full precision."""
    columns = [
        *("checkpoint", "benchmark", "state", "value", "unit", "full_scale", "raw", "questions", "unanswered"),
        *("baseline", "difference", "low", "high", "note"),
    ]
    if table.with_paper:
        columns += [f"paper_{name}" for name in paper.MODELS]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for entry in _entries(table):
        published = {f"paper_{name}": number for name, number in entry.pop("paper", {}).items()}
        writer.writerow({**entry, **published})
    return text.getvalue()


def as_json(table: Table) -> str:
    """The same with every other number of the metric files, and how the intervals were made."""
    how = {"kind": "paired percentile bootstrap", "level": 0.95, "resamples": table.resamples, "seed": table.seed}
    content = {
        "checkpoints": list(table.checkpoints),
        "benchmarks": list(table.data),
        "baseline": table.baseline,
        "interval": how,
        "results": _entries(table),
    }
    if table.with_paper:
        content["paper"] = paper.NOTE
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _head(table: Table) -> list[str]:
    head = ["benchmark", "n"]
    for name in table.checkpoints:
        head.append(name)
        if name in table.compared():
            head.append(f"vs {table.baseline} [95 %]")
    return head + ([f"paper: {name}" for name in paper.MODELS] if table.with_paper else [])


def _cells(table: Table) -> list[list[str]]:
    lines = []
    for data in table.data:
        results = [table.results[name, data] for name in table.checkpoints]
        line = [data, "/".join(dict.fromkeys(str(result.samples.rows) for result in results if result.samples))]
        for name, result in zip(table.checkpoints, results, strict=True):
            line.append(_value(result))
            if name in table.compared():
                line.append(_difference(result))
        if table.with_paper:
            line += paper.NUMBERS.get(data, ("",) * len(paper.MODELS))
        lines.append(line)
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
    notes = [SCALE_NOTE] if {"MME", "OCRBench"} & set(table.data) else ["per cent"]
    if table.compared():
        notes.append(
            "[95 %]: difference, and its interval by paired bootstrap over questions (MME: images), "
            f"{table.resamples} resamples, seed {table.seed}; * the interval excludes 0"
        )
    if table.with_paper:
        notes.append(paper.NOTE)
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
            entry |= {"value": result.score.value, "unit": result.rule.unit, "full_scale": result.rule.full}
            entry |= {"raw": result.score.raw, "details": result.score.details}
        if result.samples:
            entry |= {"questions": result.samples.rows, "unanswered": result.samples.failed}
        if result.difference:
            change = result.difference
            entry |= {"baseline": table.baseline, "difference": change.value, "low": change.low, "high": change.high}
        if table.with_paper and data in paper.NUMBERS:
            entry["paper"] = dict(zip(paper.MODELS, paper.NUMBERS[data], strict=True))
        entries.append({**entry, "note": result.note})
    return entries
