"""RESULTS.md and RESULTS_zh.md, with their pictures, from raw results alone; the same input gives the same bytes.

Their words stand in the templates beside this file. What was found is written by hand in `answer.md` and
`answer_zh.md` beside the raw results. Their first line is a hash of the tables that they speak of, so they never
appear over other numbers.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import jinja2

from common import ToolError, write_text

from . import pictures, plan
from .methods import METHODS
from .outcomes import Study
from .results import Result, Results, read_about, tuned_options
from .tables import TABLES, Rows
from .texts import point
from .words.plan import points
from .words.tables import TABLES as WORDS
from .words.tables import Words, read_words


LANGUAGES = {"RESULTS.md": "answer.md", "RESULTS_zh.md": "answer_zh.md"}


def write_report(raw: Path, words: Path, out: Path) -> list[Path]:
    """Write both reports into `out`, and pictures beside the raw results.

    Args:
        raw: raw results of the demo world, with the findings in words.
        words: those of the world of words; it need not be there.
        out: where the reports go.

    Returns:
        What was written.

    Raises:
        ToolError: raw results are missing, damaged or not enough for a report.
    """
    study, about = read_study(raw), read_about(raw)
    other = read_words(words)
    rows = all_tables(study, other)
    written = pictures.draw_all(study, raw / "pictures")
    folder, here = raw.resolve(), out.resolve()
    folder = folder.relative_to(here) if folder.is_relative_to(here) else folder
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    templates = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    for name, answer in LANGUAGES.items():
        values = _values(study, about, rows, folder.as_posix()) | {"words": _about_words(other, words)}
        values["words_grid"] = " | ".join(map(point, points("dpo")))
        text = templates.get_template(f"{name}.jinja").render(values, answer=_answer(raw / answer, answer_mark(rows)))
        write_text(out / name, text)
        written.append(out / name)
    return written


def all_tables(study: Study, other: Words) -> dict[str, Rows]:
    """The rows of all tables, by name."""
    rows = {name: table(study) for name, table in TABLES.items()}
    return rows | {name: table(other) for name, table in WORDS.items()}


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
    results, seeds = study.results.all(), len(study.methods().get("uni_dpo", ()))

    def table(name: str, head: str, title: str = "") -> str:
        """A table in Markdown, with the picture of that title below; nothing if it would have no rows."""
        lines = [head.split(" | "), ["---"] * (head.count(" | ") + 1), *rows[name]]
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return text + (f"\n\n![{title}]({folder}/pictures/{name}.png)" if title else "") if rows[name] else ""

    return {
        "table": table,
        "folder": folder,
        "cells": len(results),
        "hours": _hours(results),
        "cores": about["cores"],
        "gpus": about["gpus"],
        "date": about["date"],
        "versions": _versions(about),
        "seeds": seeds,
        "sweep_seeds": min(plan.EXPERIMENTS["sweep"].seeds, seeds),
        "course_seeds": min(plan.EXPERIMENTS["course"].seeds, seeds),
        "tuning_seeds": ", ".join(map(str, study.results.seeds("val"))),
        "omitted": [name for name in METHODS if name not in study.tuned],
        "diverged": [result["key"] for result in results if "diverged" in result],
    }


def _about_words(study: Words, raw: Path) -> dict[str, Any]:
    """What the templates say of the world of words; empty if nothing was run there."""
    if not len(study.results):
        return {}
    about = read_about(raw)
    return {
        "cells": len(study.results),
        "hours": _hours(study.results.all()),
        "seeds": len(study.seeds),
        "date": about["date"],
        "versions": _versions(about),
    }


def _hours(results: list[Result]) -> str:
    return f"{sum(result.get('seconds', 0) for result in results) / 3600:.1f}"


def _versions(about: dict[str, Any]) -> str:
    """Versions, and of cells that were made with others how many, when, and what differed."""
    now, told = about["versions"], []
    for it in about.get("earlier", []):
        others = {name: version for name, version in it["versions"].items() if now.get(name) != version}
        told.append(f"{it['cells']} cells {it['date']}: {_listed(others)}")
    return "; ".join([_listed(now), *told])


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _answer(path: Path, mark: str) -> str:
    """The findings in words, if they were written for these tables; else a word about what to do."""
    if not path.is_file():
        return ""
    first, _, text = path.read_text(encoding="utf-8").partition("\n")
    if first == mark:
        return text.strip("\n")
    print(
        f"{path} is about other tables and left out; once it is right about these, it begins: {mark}", file=sys.stderr
    )
    return ""


def answer_mark(rows: dict[str, Rows]) -> str:
    """The first line of findings about these tables."""
    return f"<!-- tables {hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]} -->"
