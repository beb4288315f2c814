"""A run: which answers have no score yet, their scores, and the data set with them."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import DataError
from ..pairs import read_pair
from ..sources import Source
from ..stats.gather import image_folder
from ..writing import write_rows
from .agreement import Group
from .cache import Cache
from .pictures import Pictures
from .requests import Request, Scorer, Unscored
from .survey import EXAMPLES, SIDES, Survey, stamp, take_survey


FAILURES_IN_A_ROW = 20
ALL = "all"
MOST_GROUPS = 50


@dataclass(frozen=True)
class Result:
    """What a run did.

    Attributes:
        rows: rows written.
        left_out: rows that were not.
        distinct: different answers.
        scored: answers that were scored in this run; the others were in the cache.
        seconds: how long scoring them took.
        groups: sums over all pairs, and over those of each subset.
    """

    rows: int
    left_out: int
    distinct: int
    scored: int
    seconds: float
    groups: dict[str, Group]


def score_pairs(
    source: Source,
    scorer: Scorer,
    pictures: Pictures,
    cache: Cache,
    output: Path,
    overwrite: bool = False,
    drop_unscored: bool = False,
    by: str | None = None,
) -> Result:
    """Write a data set with a score for each answer.

    Args:
        source: the pairs.
        scorer: what gives scores.
        pictures: how images are read.
        cache: scores that are there already, and where new ones go.
        output: the file to write, when all rows have their scores.
        overwrite: whether to replace scores that rows have.
        drop_unscored: whether to leave rows out that could not be scored.
        by: a column that names subsets; None for the folder of MM-RLHF that the first image is in.

    Raises:
        DataError: rows cannot be scored and are not to be left out, or the scorer fails.
    """
    survey = take_survey(source, scorer, pictures, cache, overwrite, by)
    if survey.bad and not drop_unscored:
        raise _unscored(survey.bad, survey.rows, survey.examples, "Nothing was scored yet. Correct them")
    start, count = time.monotonic(), len(survey.todo)
    reasons = _score_todo(source, scorer, survey, cache) if count else {}
    seconds = time.monotonic() - start
    missing = _missing(survey, cache, reasons)
    if missing.count and not drop_unscored:
        advice = f"All other scores are kept in {cache.path}. The same command again tries only these"
        raise _unscored(missing.count, survey.rows, missing.examples, advice)
    left_out = survey.bad + missing.count
    if left_out == survey.rows:
        raise _unscored(survey.rows, survey.rows, survey.examples + missing.examples, "Nothing is left to write")
    groups: dict[str, Group] = {}
    complete = _with_scores(source, survey, cache, groups, by, survey.rows - left_out)
    rows = write_rows(output, complete)
    return Result(rows, left_out, survey.distinct, count - len(reasons), seconds, groups)


def _requests(source: Source, survey: Survey, todo: set[bytes]) -> Iterator[Request]:
    """Yield what is to be scored, each answer once."""
    for number, row in enumerate(source.values()):
        keys = [survey.key(number, side) for side in range(2)]
        if todo.isdisjoint(keys):
            continue
        pair = read_pair(row, source)
        for key, answer in zip(keys, (pair.chosen, pair.rejected), strict=True):
            if key in todo:
                todo.remove(key)
                yield Request(key, pair.messages, answer, pair.images, pair.system)


def _score_todo(source: Source, scorer: Scorer, survey: Survey, cache: Cache) -> dict[bytes, str]:
    """Score what has no score; return why some still have none.

    Raises:
        DataError: nothing but failures.
    """
    reasons: dict[bytes, str] = {}
    failures = 0
    requests = _requests(source, survey, set(survey.todo))
    with tqdm(total=len(survey.todo), desc="scoring", unit=" answers") as bar:
        for scored in scorer.score(requests):
            cache.put((request.key, score) for request, score in scored if not isinstance(score, Unscored))
            bar.update(len(scored))
            for request, score in scored:
                failed = isinstance(score, Unscored)
                failures = failures + 1 if failed else 0
                if failed:
                    reasons[request.key] = score.reason
            bar.set_postfix_str(f"{len(reasons)} failed" if reasons else "")
            if failures >= FAILURES_IN_A_ROW:
                raise DataError(
                    f"{failures} answers in a row could not be scored, the last for this reason:\n"
                    f"  {reasons[scored[-1][0].key]}\n"
                    f"The {bar.n - len(reasons)} scores of this run are kept in {cache.path}; run again to go on."
                )
    return reasons


@dataclass
class _Missing:
    count: int = 0
    examples: list[str] = field(default_factory=list)


def _missing(survey: Survey, cache: Cache, reasons: dict[bytes, str]) -> _Missing:
    """Count rows that were to be scored and were not."""
    missing = _Missing()
    for row in range(survey.rows if reasons else 0):
        failed = [side for side in range(2) if survey.key(row, side) in reasons]
        missing.count += bool(failed)
        if failed and len(missing.examples) < EXAMPLES:
            reason = reasons[survey.key(row, failed[0])]
            missing.examples.append(f"row {row}, {('chosen', 'rejected')[failed[0]]}: {reason}")
    return missing


def _with_scores(
    source: Source, survey: Survey, cache: Cache, groups: dict[str, Group], by: str | None, count: int
) -> Iterator[dict[str, Any]]:
    """Yield the `count` rows that have scores, and add these to their groups.

    Raises:
        DataError: the data set or the cache is no longer what it was.
    """
    columns = [source.columns[side] for side in SIDES]
    for number, row in enumerate(source.values("writing")):
        scores = [cache.get(survey.key(number, side)) for side in range(2)]
        if None not in scores:
            count -= 1
            for name in (ALL, _subset(row, source, by, groups)):
                groups.setdefault(name, Group()).add(*scores)
            yield row | dict(zip(columns, scores, strict=True))
    if count or stamp(source) != survey.stamp:
        raise DataError(f"{source.name} or {cache.path} changed while it was being scored. Run the command again.")


def _subset(row: dict[str, Any], source: Source, by: str | None, groups: dict[str, Group]) -> str:
    name = f"{by}: {row.get(by)}" if by else image_folder(read_pair(row, source).images)
    return name if name in groups or len(groups) < MOST_GROUPS else "(others)"


def _unscored(count: int, rows: int, examples: list[str], advice: str) -> DataError:
    lines = "".join(f"\n  {example}" for example in examples)
    more = f"\n  and {count - len(examples)} more" if count > len(examples) else ""
    return DataError(
        f"{count} of {rows} rows (the first is 0) cannot be scored:{lines}{more}\n"
        f"{advice}, or leave such rows out with --drop-unscored."
    )
