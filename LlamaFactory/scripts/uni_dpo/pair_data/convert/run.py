"""The conversion itself: rows in, questions, pairs, rows out."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..writing import write_rows
from .mixing import Mix, mixed
from .pairing import Pair, Pairing, choose, contradicts
from .pictures import Pictures
from .question import Question
from .questions import Found, Reader, Reading
from .report import ANSWERS, PAIRS, Report
from .spool import PAIR_RANKS, PAIR_SCORES, Spool


@dataclass(frozen=True)
class Options:
    """What the command line says; its help explains each. `scores` is "all" (or of no pair), "only" or "none"."""

    reading: Reading = field(default_factory=Reading)
    pairing: Pairing = field(default_factory=Pairing)
    scores: str = "all"
    image_dir: Path | None = None
    mix: Mix = field(default_factory=Mix)


def convert(sources: list[str], output: Path, options: Options) -> Report:
    """Write the pairs of some sources; if nothing could be made of them, nothing but images."""
    pictures = Pictures(output, options.image_dir)
    conversion = _Conversion(options, pictures, len(sources) > 1)
    report, jsonl = conversion.report, output.suffix.lower() == ".jsonl"
    with tempfile.TemporaryFile("w+", encoding="utf-8") as scratch:
        spool = Spool(scratch)
        rows = (row for source in sources for row in conversion.rows(source))
        for row in _with_old(rows, options, pictures, report) if options.mix.sources else rows:
            spool.add(row)
        report.pairs, report.scored, report.pictured = (spool.count, spool.seen[PAIR_SCORES[0]], spool.seen["images"])
        if report.read and (wrong := conversion.given.wrong()):
            raise DataError(wrong)
        _require_use(sources, report, spool.is_late("history", jsonl))
        report.moved = spool.is_late("images", jsonl)
        write_rows(output, spool.rows(pictured_first=report.moved))
    return report


def _with_old(
    rows: Iterator[dict[str, Any]], options: Options, pictures: Pictures, report: Report
) -> Iterator[dict[str, Any]]:
    """Yield new rows with old pairs among them, which are read as `convert` reads any pairs."""
    mix = options.mix
    reading = Reading(keep_ties=True, strict=True)
    old = _Conversion(Options(reading, scores=options.scores), pictures, len(mix.sources) > 1)
    there = [row for source in mix.sources for row in old.rows(source)]
    joined, report.mixed = mixed(rows, there, mix, pictures.home)
    yield from joined


class _Conversion:
    """Makes rows of pairs from one source after another, and keeps count of what gives none."""

    def __init__(self, options: Options, pictures: Pictures, several: bool):
        self.options, self.reader = options, Reader(options.reading, pictures, several)
        self.report, self.given = self.reader.report, self.reader.given

    def rows(self, source: str) -> Iterator[dict[str, Any]]:
        """Yield a row for each pair of a source."""
        options, report = self.options, self.report
        for found in self.reader.read(source):
            rows = []
            with found.refusing():
                pairs = self._pairs(found)
                images = found.images()
                contradictions = sum(map(contradicts, pairs))
                report.contradictions += contradictions
                report.by_rank |= bool(contradictions) and not found.question.given
                rows = [_row(found.question, pair, images, options.scores != "none") for pair in pairs]
            for row in rows:
                if options.scores == "only" and "score_chosen" not in row:
                    report.leave_out(PAIRS, "no scores", found.where)
                else:
                    yield row

    def _pairs(self, found: Found) -> list[Pair]:
        """Choose the pairs of a row."""
        counts = Counter()
        try:
            return choose(found.question, self.options.pairing, counts)
        finally:
            for reason, count in counts.items():
                self.report.leave_out(ANSWERS, reason, found.where, count)


def _row(question: Question, pair: Pair, images: list[str], scores: bool) -> dict[str, Any]:
    texts = [turn.text for turn in question.turns]
    row = {"instruction": texts[-1], "chosen": pair[0].text, "rejected": pair[1].text, "images": images}
    if len(texts) > 1:
        row["history"] = [list(turn) for turn in zip(texts[:-1:2], texts[1::2], strict=True)]
    if question.system:
        row["system"] = question.system
    if scores and None not in (known := [answer.score for answer in pair]):
        row |= dict(zip(PAIR_SCORES, known, strict=True))
    if None not in (known := [answer.rank for answer in pair]):
        row |= dict(zip(PAIR_RANKS, known, strict=True))
    return row | question.extras


def _require_use(sources: list[str], report: Report, late_history: bool) -> None:
    """Refuse to write nothing, or what would mislead."""
    if not report.read:
        raise DataError(f"{', '.join(sources)}: there are no rows to convert.")
    reasons = report.reasons()
    if 2 * report.not_understood > report.read:
        raise DataError(
            f"{report.not_understood:,} of {report.read:,} rows could not be understood, so nothing is written:\n"
            f"{reasons}\nIs it another shape (--from), or are its columns called otherwise (--question ...)?"
        )
    if not report.pairs:
        raise DataError(f"there is no pair to write, of {report.read:,} rows:\n{reasons}")
    if 0 < report.scored < report.pairs:
        raise DataError(
            f"{report.scored:,} of {report.pairs:,} pairs have scores, and training wants them for all. Leave out "
            "the others with --only-scored, or all scores with --no-scores (data.py score can make new ones)."
        )
    if late_history:
        raise DataError(
            "no row has a history for so long that LlamaFactory cannot read it from a .jsonl, whose types "
            "it takes from the first 10 MB. Write .json or .parquet instead."
        )
