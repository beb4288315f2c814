"""RESULTS.md and RESULTS_zh.md, with their pictures, from raw results alone; the same input gives the same bytes.

Their words stand in the templates beside this file. What was found is written by hand in `answer.md` and
`answer_zh.md` beside the raw results. Their first line names the raw results that they speak of, so they never appear
over other numbers.
"""

import hashlib
from pathlib import Path
from typing import Any

import jinja2

from common import ToolError, write_text

from . import pictures, plan
from .methods import METHODS
from .results import Result, Results, read_about, tuned_options
from .statistics import over_seeds
from .tables import TABLES, Rows, Study, benchmarks


LANGUAGES = {"RESULTS.md": "answer.md", "RESULTS_zh.md": "answer_zh.md"}


def write_report(raw: Path, out: Path) -> list[Path]:
    """Write both reports into `out`, and pictures beside the raw results.

    Returns:
        What was written.

    Raises:
        ToolError: raw results are missing, damaged or not enough for a report.
    """
    study, about = read_study(raw), read_about(raw)
    rows = {name: table(study) for name, table in TABLES.items()}
    written = pictures.draw_all(study, raw / "pictures")
    folder, here = raw.resolve(), out.resolve()
    folder = folder.relative_to(here) if folder.is_relative_to(here) else folder
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    templates = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    for name, answer in LANGUAGES.items():
        values = _values(study, about, rows, folder.as_posix())
        text = templates.get_template(f"{name}.jinja").render(values, answer=_answer(raw, answer))
        write_text(out / name, text)
        written.append(out / name)
    return written


def read_study(raw: Path) -> Study:
    """Raw results, what was tuned from them, and the seeds they have.

    Raises:
        ToolError: a file is damaged, or DPO and Uni-DPO were not both tuned.
    """
    results = Results(raw / "raw.jsonl")
    tuned = {}
    for method in METHODS:
        try:
            tuned |= tuned_options(results, [method])
        except ToolError:
            if method in ("dpo", "uni_dpo"):  # every table compares with one of them
                raise
    study = Study(results, tuned, results.seeds("test"))
    if not study.values("main")["uni_dpo"]:
        raise ToolError(f"{raw / 'raw.jsonl'} has no test of tuned Uni-DPO: run `tuning` and `main` first")
    return study


def _values(study: Study, about: dict[str, Any], rows: dict[str, Rows], folder: str) -> dict[str, Any]:
    """What the templates fill in."""
    results, seeds = study.results.all(), len(study.seeds)

    def table(name: str, head: str, title: str = "") -> str:
        """A table in Markdown, with the picture of that title below; nothing if it would have no rows."""
        lines = [head.split(" | "), ["---"] * (head.count(" | ") + 1), *rows[name]]
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return text + (f"\n\n![{title}]({folder}/pictures/{name}.png)" if title else "") if rows[name] else ""

    return {
        "table": table,
        "folder": folder,
        "cells": len(results),
        "hours": f"{sum(result.get('seconds', 0) for result in results) / 3600:.1f}",
        "cores": about["cores"],
        "gpus": about["gpus"],
        "date": about["date"],
        "versions": ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        "seeds": seeds,
        "sweep_seeds": min(plan.EXPERIMENTS["sweep"].seeds, seeds),
        "course_seeds": min(plan.EXPERIMENTS["course"].seeds, seeds),
        "tuning_seeds": ", ".join(map(str, study.results.seeds("val"))),
        "diverged": [result["key"] for result in results if "diverged" in result],
    }


def _answer(raw: Path, name: str) -> str:
    """The findings in words, if they were written for these raw results."""
    path = raw / name
    mark, _, text = path.read_text(encoding="utf-8").partition("\n") if path.is_file() else ("", "", "")
    return text.strip("\n") if mark == answer_mark(raw) else ""


def answer_mark(raw: Path) -> str:
    """The first line of findings about these raw results."""
    return f"<!-- raw.jsonl {hashlib.sha256((raw / 'raw.jsonl').read_bytes()).hexdigest()[:16]} -->"


def compare_repeated(method: str, again: Result, known: Study) -> tuple[str, bool]:
    """Compare a cell that was run again with the raw results.

    Returns:
        What to print, and whether the run is within the interval in which 95 % of single seeds fall. That is wider
        than the interval of their mean, outside of which some of the very seeds that make the mean must lie.

    Raises:
        ToolError: the raw results have fewer than two seeds of the method.
    """
    values = known.values("main")[method]
    if len(values) < 2:
        raise ToolError(f"the raw results have {len(values)} seeds of {method}: too few for an interval")
    it, value = over_seeds([*values.values()]), benchmarks(again)
    before = values.get(again["seed"])
    single = it.half * (1 + it.n) ** 0.5
    inside = abs(value - it.mean) <= single
    lines = [
        f"{method}, seed {again['seed']}: {value:.2f} % (mean of four benchmarks, {again.get('seconds')} s)",
        f"raw results, same seed: {'not run' if before is None else f'{before:.2f} %'}",
        f"mean of {it.n} seeds: {it.mean:.2f} %, 95 % interval [{it.mean - it.half:.2f}, {it.mean + it.half:.2f}]",
        f"95 % of single seeds: [{it.mean - single:.2f}, {it.mean + single:.2f}]",
        "inside" if inside else "OUTSIDE",
    ]
    return "\n".join(lines), inside
