"""The rows of the report's tables about the world of words, from raw results alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from ..methods import Options
from ..plan import Cell
from ..results import Result, Results
from ..statistics import difference, holm
from ..tables import Rows
from ..texts import interval, point, short, signed
from . import plan
from .conditions import BASE, CONDITIONS


@dataclass(frozen=True)
class Words:
    """Raw results with what was tuned from them.

    Attributes:
        results: all cells.
        tuned: each method's options.
        seeds: those that were tested.
    """

    results: Results
    tuned: Mapping[str, Options]
    seeds: Sequence[int]

    def values(self) -> dict[tuple[str, str], dict[int, float]]:
        """Mean points in per cent by condition and method, and by seed; only of what all seeds have."""
        table = {key: self.of(cells) for key, cells in plan.main(dict(self.tuned), self.seeds).items()}
        return {
            key: {it["seed"]: plan.exam(it) for it in them}
            for key, them in table.items()
            if them and len(them) == len(self.seeds)
        }

    def of(self, cells: Sequence[Cell]) -> list[Result]:
        """The results of those cells that are done."""
        return self.results.of(cells)


def read_words(raw: Path) -> Words:
    """Raw results, none if there is no file (ToolError: it is damaged)."""
    file = raw / "raw.jsonl"
    results = Results(file if file.is_file() else raw / "none")
    return Words(results, plan.best(results, list(plan.METHODS)), results.seeds("test"))


def words(study: Words) -> Rows:
    """The start and every method where labels are right; differences to DPO, starred together."""
    cells = plan.main(dict(study.tuned), study.seeds)
    values = {name: by for (condition, name), by in study.values().items() if condition == BASE}
    dpo, shown = values.get("dpo", {}), {}
    others = [name for name in values if name not in ("start", "dpo") and dpo]
    differences = [difference(values[name], dpo) for name in others]
    for name, it, p in zip(others, differences, holm([it.p for it in differences]), strict=True):
        # Of the seeds that tuned, each method's best run of several is examined again.
        fresh = {seed: value for seed, value in values[name].items() if seed not in plan.TUNED_ON}
        shown[name] = [signed(it, p), signed(difference(fresh, dpo)) if fresh else ""]
    return [
        [
            name,
            point(study.tuned[name]) if name in study.tuned else "",
            interval(values[name]),
            *shown.get(name, ["", ""]),
            *_exam(study.of(cells[BASE, name])),
        ]
        for name in values
    ]


def _exam(results: Sequence[Result]) -> list[str]:
    tests = [result.get("test", {}) for result in results]  # a run that diverged has learned nothing
    right, length = (fmean(it.get(name, 0.0) for it in tests) for name in ("right", "characters"))
    return [f"{100 * right:.1f}", f"{length:.0f}"]


def words_against_dpo(study: Words) -> Rows:
    """Conditions by method: DPO's mean, and what the others add to it; starred together."""
    values = study.values()
    others = [name for name in plan.METHODS if name != "dpo"]
    found = {
        (condition, name): difference(values[condition, name], values[condition, "dpo"])
        for condition in CONDITIONS
        for name in others
        if (condition, name) in values and (condition, "dpo") in values
    }
    adjusted = holm([it.p for it in found.values()])
    texts = {key: short(it, p) for (key, it), p in zip(found.items(), adjusted, strict=True)}
    return [
        [condition, interval(values[condition, "dpo"]), *(texts.get((condition, name), "") for name in others)]
        for condition in CONDITIONS
        if (condition, "dpo") in values
    ]


def words_kinds(study: Words) -> Rows:
    """Kinds of instructions by method, where labels are right: mean points in per cent."""
    cells = plan.main(dict(study.tuned), study.seeds)
    shown = {name: study.of(cells.get((BASE, name), [])) for name in ("start", "dpo", "uni_dpo")}
    if not study.seeds or any(len(results) < len(study.seeds) for results in shown.values()):
        return []
    kinds = shown["start"][0]["test"]["kinds"]
    means = {
        name: {
            kind: fmean(10 * it.get("test", {"kinds": {}})["kinds"].get(kind, 0.0) for it in results) for kind in kinds
        }
        for name, results in shown.items()
    }
    return [[kind, *(f"{means[name][kind]:.0f}" for name in shown)] for kind in kinds]


def words_tuning(study: Words) -> Rows:
    """Points on validation instructions over the grid, in per cent; the best in bold."""
    table, rows = plan.tuning(list(study.tuned)), []
    for method, tuned in study.tuned.items():
        line = [method]
        for number, options in enumerate(plan.points(method)):
            text = f"{plan.exam(study.of(table[method, number])[0], 'val'):.1f}"
            line.append(f"**{text}**" if options == tuned else text)
        rows.append(line)
    return rows


TABLES = {table.__name__: table for table in (words, words_against_dpo, words_kinds, words_tuning)}
