"""The check from end to end."""

from array import array
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ..pairs import Pair, RowError, read_pair
from ..rows import DELIMITERS, Broken, is_list, read_values, require_file
from ..sources import Source
from .crew import Crew
from .findings import WHOLE, Findings
from .gallery import Gallery, Item, printable
from .loader import LoaderCheck
from .media import look
from .plan import Plan
from .row_rules import Problem, check_pair, check_scores, explain_row_error
from .shapes import Shape, unloadable
from .twins import RowTable, compare
from .unused import unused_columns


FIRST_TABLE = 1000  # rows that `datasets` writes at a time: the first of them settle the types
IF_ABSENT = ("score-missing", "answer-missing", "question-empty", "messages")  # told once for a column in no row


@dataclass
class Checked:
    """What a check leaves behind.

    Attributes:
        found: the findings.
        tables: what is known of the rows of every data set.
        gallery: the images.
        shapes: the types of the columns of every data set, by file.
    """

    found: Findings
    tables: list[RowTable]
    gallery: Gallery
    shapes: list[list[Shape]]


def check(plan: Plan, progress: bool = True) -> Checked:
    """Check data sets the way training will read them.

    Raises:
        DataError: a file cannot be read at all, or the model of `plan.training` cannot.
    """
    measure = None
    if plan.training and plan.images:
        from .tokens import Measure, check_tokens

        measure = Measure(plan.training)  # before hours of images, as it may be that there is no model
    reading = _Reading(plan, progress)
    checked = reading.checked
    if plan.images:
        crew = Crew(partial(look, max_pixels=plan.max_pixels, min_pixels=plan.min_pixels), plan.workers)
        for (number, name), picture in crew.map(reading.images()):
            checked.gallery.hang(number, picture, name)
    else:
        for _ in reading.images():
            pass
    for number, table in enumerate(checked.tables):
        for images in (table.images, table.media):
            checked.gallery.report(checked.found, number, images)
    compare(checked.found, checked.tables, checked.gallery, plan.split)
    _find_late_images(checked, plan)
    if plan.tokenized:
        from .tokenized import check_tokenized

        check_tokenized(plan.tokenized, checked.found)
    if measure:
        check_tokens(checked, measure, plan.training, progress)
    return checked


class _Reading:
    """Goes through the rows of all data sets, and hands out the images on the way."""

    def __init__(self, plan: Plan, progress: bool):
        sources = [*plan.sources, *plan.held_out]
        tables = [RowTable(held_out=number >= len(plan.sources)) for number in range(len(sources))]
        self.plan, self.progress = plan, progress
        self.checked = Checked(Findings(sources), tables, Gallery(), [[] for _ in sources])
        self.found = self.checked.found

    def images(self) -> Iterator[Item]:
        for number, source in enumerate(self.found.sources):
            yield from self._read_source(number, source)

    def _read_source(self, number: int, source: Source) -> Iterator[Item]:
        loader, row = LoaderCheck(self.found, number), 0
        absent: dict[Problem, array] = defaultdict(lambda: array("I"))
        for path in source.files:
            require_file(path)
            file = _File(number, source, is_list(path), path.suffix.lower() in DELIMITERS, start=row)
            self.checked.shapes[number].append(file.shape)
            self.found.starts[number].append(row)
            for value in read_values(path, source.name if self.progress else ""):
                yield from self._read_row(file, row, value, absent)
                row += 1
            self.found.ends[number] = row
            if row == file.start:
                self.found.add("file-empty", number, WHOLE, None, f"no rows in {path}")
            else:
                loader.check_file(path, file.shape, file.start)
        self._report_absent(number, source, absent)

    def _read_row(self, file: "_File", row: int, value: Any, absent: dict[Problem, array]) -> Iterator[Item]:
        table, pair = self.checked.tables[file.number], None
        if isinstance(value, Broken):
            rest = "; nothing after it was read" if file.is_list else ""
            self.found.add("row-unreadable", file.number, row, None, value.reason + rest)
        elif not isinstance(value, dict):
            self.found.add("row-not-object", file.number, row, None, f"{type(value).__name__} instead of an object")
        else:
            file.shape.see_fields(value, row)
            pair, problems = self._judge(value, file)
            for kind, column, message in problems:
                if kind in IF_ABSENT and column not in value:
                    absent[kind, column, message].append(row)
                else:
                    self.found.add(kind, file.number, row, column, message)
        table.digests.add(pair)
        for images, uses in ((table.images, ("images",)), (table.media, ("videos", "audios"))):
            shown = [(use, image) for use in uses for image in getattr(pair, use, ())]
            numbers = []
            for use, image in shown:
                number, new = self.checked.gallery.number(image, file.source.media_dir, use)
                numbers.append(number)
                yield from new
            images.add(numbers)

    def _judge(self, value: dict[str, Any], file: "_File") -> tuple[Pair | None, list[Problem]]:
        problems = []
        for column, part in value.items():
            if bad := unloadable({column: part}, keeps_large=not file.is_list):
                problems.append((bad[0], printable(column), bad[1]))
        if self.plan.scored:
            found = check_scores(value, file.source)
            problems += [one for one in found if not (file.is_table and one[0] == "score-numeric-text")]
        try:
            pair = read_pair(value, file.source)
        except RowError as error:
            return None, [*problems, explain_row_error(error, value, file.source)]
        return pair, [*problems, *check_pair(pair, file.source)]

    def _report_absent(self, number: int, source: Source, absent: dict[Problem, array]) -> None:
        seen = dict.fromkeys(name for shape in self.checked.shapes[number] for name in shape.fields)
        expected = _required(source) if seen else []
        missing = {column for _, column, _ in absent if column not in seen}
        missing |= {column for column in expected if column not in seen}
        for (kind, column, message), rows in absent.items():
            for row in () if column in missing else rows:
                self.found.add(kind, number, row, column, message)
        for column in sorted(missing):
            message = f"no row has it; the columns are {printable(', '.join(seen))}"
            self.found.add("column-missing", number, WHOLE, column, message)
        for column, message in unused_columns(source, self.checked.shapes[number]):
            self.found.add("column-unused", number, WHOLE, column, message)


@dataclass
class _File:
    """A file that is being read, `number` being that of its data set."""

    number: int
    source: Source
    is_list: bool
    is_table: bool
    start: int
    shape: Shape = field(default_factory=Shape)


def _required(source: Source) -> list[str]:
    """Return the columns without which LlamaFactory's converter stops; those of scores are looked at row by row."""
    if not source.described:
        return []
    others = ("prompt", "query", "history") if source.formatting != "alpaca" else ("messages",)
    unused = (*others, "score_chosen", "score_rejected", "response", "kto_tag")
    return [column for use, column in source.columns.items() if use not in unused]


def _find_late_images(checked: Checked, plan: Plan) -> None:
    """Find images that come after so many rows without that `datasets` has settled on a column of nothing."""
    have = [np.diff(np.array([0, *table.images.ends])) > 0 for table in checked.tables]
    for number, flags in enumerate(have):
        for row in late(flags, plan.shards):
            column = checked.found.sources[number].columns.get("images")
            message = f"the first image after {FIRST_TABLE} rows and more without any"
            checked.found.add("images-late", number, row, column, message)


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
