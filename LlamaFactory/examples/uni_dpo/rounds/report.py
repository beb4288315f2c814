"""One table and one picture over all rounds."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pair_data.writing import whole_file

from .validation import Estimate


@dataclass(frozen=True)
class Row:
    """What is known of a round; round 0 is the start model."""

    number: int
    model: str
    validation: Estimate
    unanswered: int = 0  # validation questions
    gain: Estimate | None = None  # against the best before it, by question
    total: Estimate | None = None  # against the start model
    pairs: dict[str, Any] | None = None  # what `data.py pairs` said of its pairs
    benchmarks: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the table calls it."""
        return f"round {self.number}" if self.number else "start"


def write(rows: Sequence[Row], best: int, why: str, output: Path) -> None:
    """Write table.md, table.json and rounds.png."""
    sets = list(dict.fromkeys(name for row in rows for name in row.benchmarks))
    with whole_file(output / "table.md") as file:
        file.write(markdown(rows, best, why, sets))
    content = {"rounds": [asdict(row) for row in rows], "best": best, "model": rows[best].model, "ended": why}
    with whole_file(output / "table.json") as file:
        json.dump(content, file, indent=1, default=str)
    with whole_file(output / "rounds.png", "wb") as file:
        draw(rows, sets, file)


def markdown(rows: Sequence[Row], best: int, why: str, sets: Sequence[str]) -> str:
    """Return the table with what is to be said about it."""
    head = [
        "",
        "pairs",
        "margin",
        "w_qual",
        "good",
        "validation [95 %]",
        "against the best before",
        "against the start",
    ]
    lines = [head + list(sets), ["---"] * (len(head) + len(sets))]
    for row in rows:
        found = (row.pairs or {}).get("all") or {}
        weight = found.get("w_qual") or {}
        cells = [
            row.name + (" (best)" if row.number == best else ""),
            str(row.pairs["pairs"]) if row.pairs else "",
            f"{found['margin']['median']:.2f}" if found.get("margin") else "",
            f"{weight['mean']:.2f}" if weight else "",
            f"{found['good']:.0%}" if found.get("good") is not None else "",
            f"{row.validation}{f' ({row.unanswered} unanswered)' if row.unanswered else ''}",
            str(row.gain or ""),
            str(row.total or ""),
        ]
        cells += [_benchmark(row.benchmarks.get(name)) for name in sets]
        lines.append(cells)
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = [
        f"{rows[0].validation.n} validation questions, one likeliest answer each; means of scores, and of differences "
        "by question, with 95 % intervals over questions",
        "margin: median; w_qual: mean; good: share of chosen answers at or above tau_good",
        *(["unanswered questions count with the lowest score"] if any(row.unanswered for row in rows) else []),
        why,
        f"the best model is {rows[best].model}",
    ]
    if sets:
        notes.insert(2, "benchmarks: per cent or points, and the difference to the start with its 95 % interval")
    return table + "\n\n" + "".join(f"- {note}\n" for note in notes)


def _benchmark(found: dict[str, float] | None) -> str:
    if not found:
        return ""
    change = f" ({found['difference']:+.1f} [{found['low']:+.1f}, {found['high']:+.1f}])" if "low" in found else ""
    return f"{found['value']:.1f}{change}"


def read_benchmarks(file: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Return, by round and benchmark, value and difference of the table that summarize_eval.py made."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for entry in json.loads(file.read_text(encoding="utf-8"))["results"]:
        kept = {name: entry[name] for name in ("value", "difference", "low", "high") if name in entry}
        if "value" in kept:
            found.setdefault(entry["checkpoint"], {})[entry["benchmark"]] = kept
    return found


def draw(rows: Sequence[Row], sets: Sequence[str], file: Any) -> None:
    """Draw validation over rounds with its intervals, and each benchmark's difference to the start."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    width = 1 + len(sets)
    figure, axes = plt.subplots(1, width, figsize=(4 * width, 3.2), layout="constrained", squeeze=False)
    numbers = [row.number for row in rows]
    estimates = [row.validation for row in rows]
    errors = [[it.mean - it.low for it in estimates], [it.high - it.mean for it in estimates]]
    axes[0][0].errorbar(numbers, [it.mean for it in estimates], errors, marker="o", capsize=3)
    axes[0][0].set_title("validation: mean score")
    for axis, name in zip(axes[0][1:], sets, strict=True):
        known = [(row.number, row.benchmarks[name]) for row in rows if name in row.benchmarks]
        values = [found.get("difference", 0.0) for _, found in known]
        below = [value - found.get("low", value) for value, (_, found) in zip(values, known, strict=True)]
        above = [found.get("high", value) - value for value, (_, found) in zip(values, known, strict=True)]
        axis.errorbar([number for number, _ in known], values, [below, above], marker="o", capsize=3)
        axis.axhline(0, color="0.7", linewidth=1)
        axis.set_title(f"{name}: against the start")
    for axis in axes[0]:
        axis.set_xticks(numbers)
        axis.set_xlabel("round")
    figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
    plt.close(figure)
