"""RESULTS.md and RESULTS_zh.md, with their pictures, from raw results alone; the same input gives the same bytes.

What was found, in words, is written by hand in `answer.md` and `answer_zh.md` beside the raw results. Their first line
names the raw results that they speak of, so they never appear over other numbers.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from demo_world.writers import write_whole

from . import StudyError, pictures, plan, tables
from .commands import tuned_options
from .methods import METHODS
from .raw import Results
from .tables import Study
from .words import CHINESE, ENGLISH, Words


LANGUAGES = (("RESULTS.md", "answer.md", ENGLISH), ("RESULTS_zh.md", "answer_zh.md", CHINESE))


def write_report(raw: Path, out: Path) -> list[Path]:
    """Write both reports into `out`, and pictures beside the raw results.

    Returns:
        What was written.

    Raises:
        StudyError: raw results are missing, damaged or not enough for a report.
    """
    for name in ("raw.jsonl", "about.json"):
        if not (raw / name).is_file():
            raise StudyError(f"{raw / name} is not there: `study.py run` and `study.py gather` make it")
    study, about = read_study(raw), json.loads((raw / "about.json").read_text(encoding="utf-8"))
    written = pictures.draw_all(study, raw / "pictures")
    for name, answer, words in LANGUAGES:
        text = _text(study, about, words, _answer(raw, answer, words), _relative(raw / "pictures", out))
        write_whole(out / name, lambda file, text=text: file.write(text))
        written.append(out / name)
    return written


def read_study(raw: Path) -> Study:
    """Raw results, what was tuned from them, and the seeds they have.

    Raises:
        StudyError: a file is damaged, or DPO and Uni-DPO were not both tuned.
    """
    results = Results(raw / "raw.jsonl")
    tuned = {}
    for method in METHODS:
        try:
            tuned |= tuned_options(results, [method])
        except StudyError:
            if method in ("dpo", "uni_dpo"):  # every table compares with one of them
                raise
    seeds = sorted({result["seed"] for result in results.all() if result["measure"] == "test"})
    return Study(results, tuned, seeds)


def _text(study: Study, about: dict, words: Words, answer: str, folder: str) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    made = words.made.format(
        cells=len(study.results),
        cores=about["cores"],
        gpus=about["gpus"],
        hours=f"{sum(result.get('seconds', 0) for result in study.results.all()) / 3600:.1f}",
        seeds=len(study.seeds),
        date=about["date"],
        versions=versions,
    )
    sweep_text = words.sweep_text.format(seeds=plan.SWEEP_SEEDS)
    course_text = words.course_text.format(seeds=plan.COURSE_SEEDS)
    sections: list[tuple[str, str, Callable[[Study, Words], str], str]] = [
        (words.main, words.main_text, tables.main_table, "main"),
        (words.ablation, words.ablation_text, tables.ablation_table, "ablation"),
        (words.ablated_published, words.published_text, tables.published_table, ""),
        (words.when, words.when_text, tables.when_table, "when"),
        (words.sweep, sweep_text, tables.sweep_table, "sweep"),
        (words.course, course_text, tables.course_table, "course"),
        (words.tuning, words.tuning_text.format(seeds=plan.TUNING_SEEDS), tables.tuning_tables, ""),
    ]
    parts = [f"# {words.title}", words.other, answer, made]
    for title, text, table, picture in sections:
        shown = table(study, words)
        parts += [f"## {title}", text, shown if shown.count("\n") > 2 else words.missing]
        if picture and shown.count("\n") > 2:
            parts.append(f"![{title}]({folder}/{picture}.png)")
    parts += [f"## {words.repeat}", words.repeat_text]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _answer(raw: Path, name: str, words: Words) -> str:
    """The findings in words, if they were written for these raw results."""
    path = raw / name
    if not path.is_file():
        return words.no_answer
    mark, _, text = path.read_text(encoding="utf-8").partition("\n")
    return text if mark == answer_mark(raw) else words.no_answer


def answer_mark(raw: Path) -> str:
    """The first line of findings about these raw results."""
    return f"<!-- raw.jsonl {hashlib.sha256((raw / 'raw.jsonl').read_bytes()).hexdigest()[:16]} -->"


def _relative(folder: Path, out: Path) -> str:
    folder, out = folder.resolve(), out.resolve()
    return folder.relative_to(out).as_posix() if folder.is_relative_to(out) else folder.as_posix()
