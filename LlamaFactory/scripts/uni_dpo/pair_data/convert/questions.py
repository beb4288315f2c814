"""Reading questions out of sources of any shape: what `convert` makes pairs of, and `sample` asks a model."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ..errors import DataError, place
from ..rows import Broken
from .fields import QUESTIONS, Fields, first, look, unused
from .given import LOOKED_AT, Given
from .pictures import Pictures
from .question import Question, asked, make_question
from .ratings import TooFew, Unusable
from .reading import read_source
from .report import LEFT, NOT_UNDERSTOOD, Report
from .shapes import MORE, READ, SHAPES, opened, read, recognise


PLAIN = "questions"  # a shape without answers to choose from
WHAT_PLAIN_IS = "a question a row, maybe with its right answer"
RIGHT = "reference reference_answer ground_truth solution".split()  # columns of right answers, in any shape
RIGHT_OF_PLAIN = "answer answers output response gt_answer label target".split()  # and where there are no others


@dataclass(frozen=True)
class Reading:
    """What the command line says of reading; the help of `convert` explains each."""

    shape: str = ""
    fields: Fields = field(default_factory=Fields)
    image_prefix: str | None = None
    media_dir: Path | None = None
    split: str = ""
    config: str = ""
    keep_ties: bool = False
    strict: bool = False
    limit: int | None = None
    plain: bool = False  # whether questions without answers will do
    sampled: bool = False  # whether it is what `score` wrote: nothing is to be recognised, and few answers are no flaw


@dataclass
class Found:
    """A question of a source, and the row that it stands in, with its columns opened.

    Attributes:
        row: the row.
        question: what was read of it.
        where: how reports call the row.
        shape: one of `SHAPES`, or `PLAIN`.
    """

    row: dict[str, Any]
    question: Question
    where: str
    shape: str
    reader: "Reader"
    source: str
    number: int

    def images(self) -> list[str]:
        """Return the paths of its images, which become files first if they are none; raises `Unusable`."""
        base, prefix = self.reader.beside(self.source), self.reader.prefix(self.shape)
        return [self.reader.pictures.place(image, base, prefix) for image in self.question.images]

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Count the row among those that are left out if the block raises `Unusable`."""
        try:
            yield
        except Unusable as error:
            self.reader.refuse(error, self.source, self.number, self.where)


class Reader:
    """Reads one source after another, and keeps count of rows that give no question.

    Attributes:
        report: counts of what was read and left out.
        given: the fields that options name, as far as no row had them yet.
    """

    def __init__(self, options: Reading, pictures: Pictures, several: bool):
        """Prepare; with `several` sources, rows are called by the name of theirs, too."""
        self.options, self.pictures, self.several = options, pictures, several
        self.report, self.given = Report(), Given(Fields() if options.sampled else options.fields)

    def read(self, source: str) -> Iterator[Found]:
        """Yield the questions of a source."""
        options, report = self.options, self.report
        left = None if options.limit is None else options.limit - report.read
        values = islice(read_source(source, options.split, options.config), left)
        start = list(islice(values, LOOKED_AT))
        if not start:
            return
        shape, fields = self._recognise(start, source)
        how, what = "read as" if options.shape else "recognised as", SHAPES.get(shape, WHAT_PLAIN_IS)
        print(f"{source}: {how} {shape} ({what}); {fields}")
        report.means[fields.mean] = None
        for number, value in enumerate(chain(start, values)):
            report.read += 1
            where = f"{source}, row {number}" if self.several else f"row {number}"
            try:
                row, question = self._question(value, shape, fields)
            except Unusable as error:
                self.refuse(error, source, number, where)
                continue
            yield Found(row, question, where, shape, self, source, number)

    def beside(self, source: str) -> Path | None:
        """Return where relative paths of a source start, if they start anywhere."""
        return self.options.media_dir or (Path(source).parent if os.path.isfile(source) else None)

    def prefix(self, shape: str) -> str:
        """Return what is put before relative paths."""
        prefix = self.options.image_prefix
        return ("MM-RLHF/" if shape.startswith("mm-rlhf") else "") if prefix is None else prefix

    def refuse(self, error: Unusable, source: str, number: int, where: str) -> None:
        """Count a row that gives nothing, or stop there if that is asked for."""
        understood = error.understood or (self.options.sampled and isinstance(error, TooFew))
        if self.options.strict and not understood:
            message = f"{source}, {place(number)}: {error.reason}. Leave --strict out to skip it."
            raise DataError(message) from None
        self.report.leave_out(LEFT if understood else NOT_UNDERSTOOD, error.reason, where)

    def _recognise(self, start: list[Any], source: str) -> tuple[str, Fields]:
        """Tell the shape of a source; where questions alone will do, the first rows may have no answers."""
        options = self.options
        if options.sampled:
            return options.shape, replace(options.fields, parts={"": options.fields.score})
        if options.shape == PLAIN:
            return PLAIN, _plain_fields(start, options.fields)
        try:
            return recognise(start, source, options.fields, options.shape)
        except DataError:
            fields = _plain_fields(start, options.fields)
            if not options.plain or options.shape or not fields.question:
                raise
            return PLAIN, fields

    def _question(self, value: Any, shape: str, fields: Fields) -> tuple[dict[str, Any], Question]:
        """Read a row."""
        if not isinstance(value, dict):
            broken = isinstance(value, Broken)
            raise Unusable(value.reason.split(" (")[0] if broken else "not an object with columns")
        row, report = opened(value, shape), self.report
        self.given.look_for(row, fields.answers)
        if row.get("is_tie") in (True, 1, "true", "True") and not self.options.keep_ties:
            raise Unusable("a tie (--keep-ties keeps them)", understood=True)
        if shape == PLAIN:
            return row, _read_plain(row, fields)
        question = read(row, shape, fields)
        report.unused.update(unused(row, fields, READ | MORE.get(shape, set())))
        return row, question


def _plain_fields(rows: list[Any], given: Fields) -> Fields:
    """Find the question in rows without answers; what the user names is not looked for."""
    names = (first(row, QUESTIONS) for row in rows if isinstance(row, dict))
    return replace(given, question=given.question or next(filter(None, names), ""))


def _read_plain(row: dict[str, Any], fields: Fields) -> Question:
    """Read a question; a dialogue may go on with its answer, as in sets for supervised training."""
    if look(row, fields.question) is None:
        raise Unusable("there is no question")
    dialogue = asked(row, fields)
    while dialogue and dialogue[-1].role == "assistant":
        dialogue.pop()
    return make_question(row, fields, dialogue, (), given=False, least=0)


def right_answers(found: Found, column: str = "") -> tuple[str, ...]:
    """Return the right answers that a row has, none if it has none.

    Args:
        found: the row.
        column: where they stand, with dots to go inside; if empty, a column with a common name is looked for, and in
            rows without other answers the end of the dialogue.
    """
    names = [*RIGHT, *(RIGHT_OF_PLAIN if found.shape == PLAIN else [])]
    value = look(found.row, column) if column else found.row.get(first(found.row, names))
    if value is None and not column and found.shape == PLAIN:
        said = asked(found.row, _plain_fields([found.row], found.reader.options.fields))
        value = said[-1].text if said and said[-1].role == "assistant" else None
    values = value if isinstance(value, list) else [value]
    return tuple(str(one) for one in values if isinstance(one, str | int | float) and str(one).strip())
