"""The check from end to end."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np

from ..pairs import Pair, RowError, read_pair
from ..pool import WorkerPool
from ..rows import DELIMITERS, FIRST_TABLE, is_list, read_values, require_file
from ..sources import Source
from .duplicates import add_pair, compare
from .findings import Findings, Problem, printable
from .loader import LoaderCheck
from .media_index import Item, MediaIndex
from .picture import look
from .plan import Checked, Plan
from .rows import PLACEHOLDERS, check_pair, check_scores, check_weight
from .value_types import Types, not_unicode


IF_ABSENT = (
    "score-missing",
    "weight",
    "answer-missing",
    "question-empty",
    "messages",
)  # told once for a column in no row
COMMON = {"system", "tools", "images", "videos", "audios"}  # what LlamaFactory can read besides question and answers
ONE_SIDED = re.compile("(chosen|rejected)_(images?|videos?|audios?|system|tools|objects)")  # as ms-swift has them


def check(plan: Plan, progress: bool = True) -> Checked:
    """Check data sets the way training will read them."""
    measure = None
    if plan.training and plan.tokens and plan.images:
        from .tokens import Measure, check_tokens

        measure = Measure(plan.training)  # before hours of images, as it may be that there is no model
    found = Findings([*plan.sources, *plan.held_out])
    checked = Checked(plan, found, MediaIndex(found), [[] for _ in found.sources])
    media = (item for number in range(len(found.sources)) for item in _read(checked, number, progress))
    pool = WorkerPool(partial(look, max_pixels=plan.max_pixels, min_pixels=plan.min_pixels), plan.workers)
    for item, seen in pool.map(media) if plan.images else zip(media, repeat(None)):
        if seen:
            checked.media.keep(item, seen)
    checked.media.report()
    compare(found, len(plan.sources), plan.split)
    for number in range(len(found.sources)):
        _find_late_images(found, number, plan.shards)
    if plan.training:
        from .training import check_tokenized

        check_tokenized(plan.training, found)
    if measure:
        check_tokens(checked, measure, progress)
    return checked


def _read(checked: Checked, number: int, progress: bool) -> Iterator[Item]:
    """Go through the rows of a data set; yield what is to be looked at on the way."""
    found, source = checked.found, checked.found.sources[number]
    loader, row = LoaderCheck(found, number), 0
    for path in source.files:
        require_file(path)
        reader = _RowReader(source, checked.plan, is_list(path), path.suffix.lower() in DELIMITERS)
        checked.types[number].append(reader.types)
        found.starts[number].append(row)
        for value in read_values(path, source.name if progress else ""):
            pair, problems = reader.read(value, row)
            for kind, column, message in problems:
                found.add(kind, number, row, column, message)
            if pair:
                add_pair(found, number, row, pair)
                shown = ((use, medium) for use in PLACEHOLDERS.values() for medium in getattr(pair, use))
                yield from filter(None, (checked.media.add(number, row, *one) for one in shown))
            row += 1
        found.ends[number] = row
        if row > found.starts[number][-1]:
            loader.check_file(path, reader.types, found.starts[number][-1])
        else:
            found.add("file-empty", number, None, None, f"no rows in {path}")
    _report_columns(checked, number)


@dataclass
class _RowReader:
    """Reads and judges the rows of a file, one by one."""

    source: Source
    plan: Plan
    is_list: bool
    is_table: bool
    types: Types = field(default_factory=Types)

    def read(self, value: Any, row: int) -> tuple[Pair | None, list[Problem]]:
        problems, is_row = [], isinstance(value, dict)
        for column, part in value.items() if is_row else ():
            bad = not_unicode(column) or self.types.see((column,), part, row)
            if bad and (self.is_list or bad[0] != "number-too-large"):  # lines make a float of it
                problems.append((bad[0], column, bad[1]))
        if self.plan.scored and is_row:
            ignored = "score-numeric-text" if self.is_table else ""  # a table has nothing but text
            problems += [problem for problem in check_scores(value, self.source) if problem[0] != ignored]
        if self.plan.weighted and is_row:
            problems += check_weight(value, self.source)
        try:
            pair = read_pair(value, self.source)
        except RowError as error:
            rest = "; nothing after it was read" if error.kind == "row-unreadable" and self.is_list else ""
            return None, [*problems, (error.kind, error.column, f"{error}{rest}")]
        return pair, [*problems, *check_pair(pair, self.source)]


def _report_columns(checked: Checked, number: int) -> None:
    """Tell once of a column that no row has, instead of in every row, and of columns that training does not read."""
    found, source, files = checked.found, checked.found.sources[number], checked.types[number]
    seen = dict.fromkeys(name for types in files for name in types.columns)
    marks = ", ".join("?" * len(IF_ABSENT))
    where = f"source = ? AND kind IN ({marks}) AND field IS NOT NULL"
    told = found.db.execute(f"SELECT DISTINCT field FROM findings WHERE {where}", (number, *IF_ABSENT))
    missing = {column for (column,) in told} | set(_required(source) if seen else ())
    for column in sorted(missing - {printable(name) for name in seen}):
        found.db.execute(f"DELETE FROM findings WHERE {where} AND field = ?", (number, *IF_ABSENT, column))
        found.add("column-missing", number, None, column, f"no row has it; the columns are {', '.join(seen)}")
    meant = COMMON | ({"input", "history"} if source.formatting == "alpaca" else set())
    filled = dict.fromkeys(name for types in files for name in types.filled)
    for name in [name for name in filled if name not in source.columns.values()]:
        if name in meant:
            message = 'training does not see it, as "columns" in dataset_info.json do not name it'
            found.add("column-unused", number, None, name, message)
        elif ONE_SIDED.fullmatch(name):
            message = "training shows both answers the same, and does not read it"
            found.add("column-unused", number, None, name, message)


def _required(source: Source) -> list[str]:
    """Return the columns without which LlamaFactory's converter stops; those of scores are looked at row by row."""
    if not source.described:
        return []
    others = ("prompt", "query", "history") if source.formatting != "alpaca" else ("messages",)
    unused = (*others, "score_chosen", "score_rejected", "weight", "response", "kto_tag")
    return [column for use, column in source.columns.items() if use not in unused]


def _find_late_images(found: Findings, number: int, shards: int) -> None:
    """Find images that come after so many rows without that `datasets` has settled on a column of nothing."""
    flags = np.zeros(found.ends[number], bool)
    shown = "SELECT row FROM shown JOIN media USING (number) WHERE source = ? AND use = 'images'"
    for (row,) in found.db.execute(shown, (number,)):
        flags[row] = True
    for row in late(flags, shards):
        column = found.sources[number].columns.get("images")
        found.add("images-late", number, row, column, f"the first image after {FIRST_TABLE} rows and more without any")


def late(flags: np.ndarray, shards: int) -> list[int]:
    """Return the first row with images of every part that has none in its first `FIRST_TABLE` rows.

    Args:
        flags: whether each row has images.
        shards: into how many parts `datasets` cuts the rows, one for each process.
    """
    found, start = [], 0
    for part in np.array_split(flags, max(1, min(shards, len(flags)))):
        if part.any() and not part[:FIRST_TABLE].any():
            found.append(start + int(np.argmax(part)))
        start += len(part)
    return found
