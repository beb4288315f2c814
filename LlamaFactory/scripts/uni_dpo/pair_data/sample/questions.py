"""The questions of some sources, as they will be asked and written."""

from collections.abc import Iterator
from pathlib import Path

from ..convert.pictures import Pictures
from ..convert.questions import Reader, Reading, right_answers
from ..convert.ratings import Unusable
from ..errors import DataError
from .asked import Asked


class Questions:
    """Reads questions; columns of right answers are those of `right`, or such as have a common name."""

    def __init__(self, sources: list[str], reading: Reading, output: Path, image_dir: Path | None, right: str):
        """Prepare to read; images are placed for `output`."""
        self.sources, self.right = sources, right
        self.reader = Reader(reading, Pictures(output, image_dir), len(sources) > 1)
        self.report = self.reader.report

    def read(self) -> Iterator[Asked]:
        """Yield all questions; what cannot be understood is counted, and nothing goes on if that is most of it."""
        unmet = bool(self.right)
        for source in self.sources:
            for found in self.reader.read(source):
                with found.refusing():
                    reference = right_answers(found, self.right)
                    unmet = unmet and not reference
                    question = found.question
                    if "tools" in question.extras:
                        raise Unusable("a description of tools, which is not shown to the model", understood=True)
                    messages = tuple((turn.role, turn.text) for turn in question.turns)
                    images = tuple(found.images())
                    yield Asked(found.where, messages, images, question.system, reference, question.extras)
        self._require_use(unmet)

    def _require_use(self, unmet: bool) -> None:
        report, sources = self.report, ", ".join(self.sources)
        if not report.read:
            raise DataError(f"{sources}: there are no questions.")
        if wrong := self.reader.given.wrong():
            raise DataError(wrong)
        if unmet:
            raise DataError(f"--reference {self.right}: no row of {sources} has a right answer there.")
        if 2 * report.not_understood > report.read:
            raise DataError(
                f"{report.not_understood:,} of {report.read:,} rows could not be understood, so nobody is asked:\n"
                f"{report.reasons()}\nIs it another shape (--from), or are its columns called otherwise (--question)?"
            )
