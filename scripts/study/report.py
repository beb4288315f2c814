"""RESULTS.md and RESULTS_zh.md, with their pictures, from raw results alone; the same input gives the same bytes.

What was found, in words, is written by hand in `answer.md` and `answer_zh.md` beside the raw results. Their first line
names the raw results that they speak of, so they never appear over other numbers.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

from common import ToolError
from demo.writers import write_whole

from . import pictures, plan, tables
from .methods import METHODS
from .place import read_about
from .raw import Results
from .tables import Study
from .tuning import tuned_options, tuning_seeds
from .words import CHINESE, ENGLISH, Words


LANGUAGES = (("RESULTS.md", "answer.md", ENGLISH), ("RESULTS_zh.md", "answer_zh.md", CHINESE))


def write_report(raw: Path, out: Path) -> list[Path]:
    """Write both reports into `out`, and pictures beside the raw results.

    Returns:
        What was written.

    Raises:
        ToolError: raw results are missing, damaged or not enough for a report.
    """
    study, about = read_study(raw), read_about(raw)
    written = pictures.draw_all(study, raw / "pictures")
    for name, answer, words in LANGUAGES:
        text = _text(study, about, words, _answer(raw, answer, words), _relative(raw, out))
        write_whole(out / name, lambda file, text=text: file.write(text))
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
    if not results.of(plan.main(tuned, results.test_seeds())["uni_dpo"]):
        raise ToolError(f"{raw / 'raw.jsonl'} has no test of tuned Uni-DPO: run `tuning` and `main` first")
    return Study(results, tuned, results.test_seeds())


def _text(study: Study, about: dict, words: Words, answer: str, folder: str) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    results = study.results.all()
    made = words.made.format(
        raw=f"{folder}/raw.jsonl",
        cells=len(results),
        hours=f"{sum(result.get('seconds', 0) for result in results) / 3600:.1f}",
        cores=about["cores"],
        gpus=about["gpus"],
        seeds=len(study.seeds),
        date=about["date"],
        versions=versions,
    )
    if diverged := [result["key"] for result in results if "diverged" in result]:
        made += " " + words.diverged.format(number=len(diverged), keys=", ".join(diverged))
    tuning = ", ".join(str(seed) for seed in tuning_seeds(study.results))
    sweep_seeds = min(plan.SWEEP_SEEDS, len(study.seeds))
    course_seeds = min(plan.COURSE_SEEDS, len(study.seeds))
    sections: list[tuple[str, str, Callable[[Study, Words], str], str]] = [
        (words.main, words.main_text.format(seeds=tuning), tables.main_table, "main"),
        (words.ablation, words.ablation_text, tables.ablation_table, "ablation"),
        (words.ablated_published, words.published_text, tables.published_table, ""),
        (words.when, words.when_text, tables.when_table, "when"),
        (words.labels, words.labels_text, tables.labels_table, ""),
        (words.sweep, words.sweep_text.format(seeds=sweep_seeds), tables.sweep_table, "sweep"),
        (words.course, words.course_text.format(seeds=course_seeds), tables.course_table, "course"),
        (words.tuning, words.tuning_text.format(seeds=tuning), tables.tuning_tables, ""),
    ]
    parts = [f"# {words.title}", words.other, answer, made]
    for title, text, table, picture in sections:
        shown = table(study, words)
        parts += [f"## {title}", text, shown or words.missing]
        if picture and shown:
            parts.append(f"![{title}]({folder}/pictures/{picture}.png)")
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
    """A folder as links in a file of another one name it."""
    folder, out = folder.resolve(), out.resolve()
    return folder.relative_to(out).as_posix() if folder.is_relative_to(out) else folder.as_posix()
