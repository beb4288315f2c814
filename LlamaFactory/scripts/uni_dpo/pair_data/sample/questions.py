"""The questions of some sources, as they will be asked and written."""

from collections.abc import Iterator
from pathlib import Path

from ..convert.pictures import Pictures
from ..convert.questions import Reader, Reading, right_answers
from ..convert.ratings import Unusable
from ..errors import DataError
from .asked import Asked


# Columns of what `sample` writes, and others that `score` and `pairs` would take for a part of the question or a pair.
TAKEN = ("instruction", "history", "system", "reference", "images", "answers")
TAKEN += ("input", "prompt", "query", "question", "messages", "conversations", "videos", "audios", "tools")
TAKEN += ("chosen", "rejected", "score_chosen", "score_rejected")


class Questions:
    """Reads questions; right answers are in the column `right`, or in one with a common name."""

    def __init__(
        self, sources: list[str], reading: Reading, output: Path, image_dir: Path | None, right: str, keep: str = ""
    ):
        """Prepare to read; images are placed for `output`, and columns that `keep` names are kept."""
        self.sources, self.right = sources, right
        self.keep = [name.strip() for name in keep.split(",") if name.strip()]
        if taken := [name for name in self.keep if name in TAKEN]:
            raise DataError(f"--keep {taken[0]}: a column of that name means something else in the output.")
        self.reader = Reader(reading, Pictures(output, image_dir), len(sources) > 1)
        self.report = self.reader.report

    def read(self) -> Iterator[Asked]:
        """Yield all questions; what cannot be understood is counted, and nothing goes on if that is most of it."""
        unmet, seen = bool(self.right), set[str]()
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
                    kept = {name: found.row[name] for name in self.keep if name in found.row}
                    seen |= kept.keys()
                    extras = question.extras | kept
                    yield Asked(found.where, messages, images, question.system, reference, extras)
        self._require_use(unmet)
        if lost := [name for name in self.keep if name not in seen]:
            raise DataError(f"--keep {lost[0]}: no row of {', '.join(self.sources)} has such a column.")

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
