"""The conversion itself: rows in, questions, pairs, rows out."""

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ..errors import DataError, place
from ..rows import Broken
from ..writing import write_rows
from .fields import Fields, unused
from .pairing import Pair, Pairing, choose, contradicts
from .pictures import MM_RLHF, Pictures
from .question import Question, Unusable
from .reading import read_source
from .report import Report
from .shapes import recognise
from .sides import one_sided
from .spool import WHOLE, Spool


LOOKED_AT = 20  # rows by which a source is recognised
# LlamaFactory's loader takes a column's type from the first 10 MB of a .jsonl: only [] there is no list of text.
TYPED_BY = 5_000_000  # characters of text, well within
FIRST_TABLE = 1000  # rows that `datasets` writes at a time: the first of them settle the types


@dataclass(frozen=True)
class Reading:
    """How sources are read.

    Attributes:
        shape: the name of a shape, empty to recognise it.
        fields: fields named by the user.
        prefix: what goes before relative image paths; None for `MM-RLHF/` with MM-RLHF's shapes, else nothing.
        media_dir: where relative image paths start; None for the folder of the source.
        split: of a folder or hub data set.
        config: of a hub data set.
        keep_ties: whether rows with `is_tie` are kept.
        strict: whether a row that is not understood is an error.
        limit: how many rows to read, None for all.
    """

    shape: str = ""
    fields: Fields = field(default_factory=Fields)
    prefix: str | None = None
    media_dir: Path | None = None
    split: str = ""
    config: str = ""
    keep_ties: bool = False
    strict: bool = False
    limit: int | None = None


def convert(
    sources: list[str],
    output: Path,
    reading: Reading,
    pairing: Pairing,
    pictures: Pictures,
    scores: str = "all",
) -> Report:
    """Write the pairs of some sources.

    Args:
        sources: see `reading.read_source`.
        output: the file to write.
        reading: how to read.
        pairing: how to choose pairs.
        pictures: where images go.
        scores: "all" wants them for all pairs or for none, "only" leaves out pairs without, "none" leaves out scores.

    Raises:
        DataError: nothing could be made of it; then nothing is written but images.
    """
    report = Report()
    with tempfile.TemporaryFile() as scratch:
        spool = Spool(scratch)
        for row in _rows(sources, reading, pairing, pictures, report):
            if scores == "only" and "score_chosen" not in row:
                report.unscored += 1
                continue
            spool.add({name: value for name, value in row.items() if scores != "none" or name not in WHOLE[0]})
        report.pairs, report.scored = spool.count, spool.seen["score_chosen"]
        if not report.read:
            raise DataError(f"{', '.join(sources)}: there are no rows to convert.")
        report.moved = spool.moved = _is_late(spool, output)
        _require_use(report, spool, output)
        write_rows(output, spool.rows())
    return report


def _rows(
    sources: list[str], reading: Reading, pairing: Pairing, pictures: Pictures, report: Report
) -> Iterator[dict[str, Any]]:
    """Yield a row for each pair; keep count of what gives none."""
    for source in sources:
        values = read_source(source, reading.split, reading.config, f"reading {Path(source).name}")
        left = None if reading.limit is None else reading.limit - report.read
        values = islice(values, left)
        start = list(islice(values, LOOKED_AT))
        if not start:
            continue
        shape, fields = recognise(start, source, reading.fields, reading.shape)
        print(f"{source}: {'read as' if reading.shape else 'recognised as'} {shape.name} ({shape.says}); {fields}")
        prefix = reading.prefix if reading.prefix is not None else MM_RLHF if shape.of_mm_rlhf else ""
        base = reading.media_dir or (Path(source).parent if os.path.isfile(source) else None)
        for number, value in enumerate(chain(start, values)):
            report.read += 1
            answers: Counter[str] = Counter()
            where = place(number) if len(sources) == 1 else f"{source}, {place(number)}"
            where = where.removesuffix(" (the first is 0)")
            try:
                question = _question(value, shape, fields, reading.keep_ties)
                report.unused.update(unused(value, fields, {*shape.reads, *one_sided(value)}))
                pairs = choose(question, pairing, answers)
                images = [pictures.place(image, base, prefix) for image in question.images]
            except Unusable as error:
                if reading.strict and not error.understood:
                    raise DataError(
                        f"{source}, {place(number)}: {error.reason}. Leave --strict out to skip it."
                    ) from None
                report.leave_out(error.reason, where, error.understood)
                continue
            finally:
                report.leave_out_answers(answers, where)
            contradictions = sum(map(contradicts, pairs))
            report.contradictions += contradictions
            report.by_rank |= bool(contradictions) and not question.given
            yield from (_row(question, pair, images) for pair in pairs)


def _question(value: Any, shape: Any, fields: Fields, keep_ties: bool) -> Question:
    if isinstance(value, Broken):
        raise Unusable(value.reason.split(" (")[0])
    if not isinstance(value, dict):
        raise Unusable("not an object with columns")
    if value.get("is_tie") in (True, 1, "true", "True") and not keep_ties:
        raise Unusable("a tie (--keep-ties keeps them)", understood=True)
    return shape.read(value, fields)


def _row(question: Question, pair: Pair, images: list[str]) -> dict[str, Any]:
    texts = [turn.text for turn in question.turns]
    row = {"instruction": texts[-1], "chosen": pair[0].text, "rejected": pair[1].text, "images": images}
    if len(texts) > 1:
        row["history"] = [list(turn) for turn in zip(texts[:-1:2], texts[1::2], strict=True)]
    if question.system:
        row["system"] = question.system
    for what, columns in zip(("score", "rank"), WHOLE, strict=True):
        known = [getattr(answer, what) for answer in pair]
        if None not in known:
            row |= dict(zip(columns, known, strict=True))
    return row | question.extras


def _is_late(spool: Spool, output: Path) -> bool:
    """Tell whether images begin so late that the loader would have taken the column for empty by then."""
    typed = output.suffix.lower() == ".jsonl" and spool.characters.get("images", 0) > TYPED_BY
    return spool.pictured is not None and (spool.pictured[0] >= FIRST_TABLE or typed)


def _require_use(report: Report, spool: Spool, output: Path) -> None:
    """Refuse to write what would mislead.

    Raises:
        DataError: it is so.
    """
    reasons = "\n".join(report.reasons())
    if 2 * report.not_understood > report.read:
        raise DataError(
            f"{report.not_understood:,} of {report.read:,} rows could not be understood, so nothing is written:\n"
            f"{reasons}\nIs it another shape (--from), or are its columns called otherwise (--question ...)?"
        )
    if not spool.count:
        raise DataError(f"there is no pair to write, of {report.read:,} rows:\n{reasons}")
    if 0 < report.scored < report.pairs:
        raise DataError(
            f"{report.scored:,} of {report.pairs:,} pairs have scores, and training wants them for all. Leave out "
            "the others with --only-scored, or all scores with --no-scores (data.py score can make new ones)."
        )
    if output.suffix.lower() == ".jsonl" and spool.characters.get("history", 0) > TYPED_BY:
        raise DataError(
            "no row has a history for so long that LlamaFactory cannot read it from a .jsonl, whose types "
            "it takes from the first 10 MB. Write .json or .parquet instead."
        )
