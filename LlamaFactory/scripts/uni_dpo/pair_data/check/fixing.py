"""A copy of a data set without what was found: rows with errors left out, and repaired what needs no guess."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..rows import read_values
from ..writing import write_rows
from .correcting import FIXABLE, Corrector
from .run import Checked


@dataclass
class Fixed:
    """What became of the rows.

    Attributes:
        kept: rows written.
        dropped: rows left out, by the kind of the first reason.
        repaired: what was changed, and in how many rows (for columns: 1 each).
    """

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)

    def text(self, output: Path) -> str:
        """Say so."""
        lines = [f"{output}: {self.kept:,} rows kept, {self.dropped.total():,} left out"]
        lines += [f"  left out, {kind}: {count:,}" for kind, count in self.dropped.most_common()]
        lines += [f"  {what}" + (f": {count:,}" if count else "") for what, count in self.repaired.items()]
        return "\n".join(lines)


class Fixer:
    """Writes the cleaned copy of the first data set of a check."""

    def __init__(self, checked: Checked, scored: bool, images: Path | None, progress: bool):
        """Prepare to fix.

        Args:
            checked: what was found.
            scored: whether the data has scores, which are then written as numbers with a point.
            images: folder for corrected copies of images, or None to leave images alone.
            progress: whether to show a bar.
        """
        self.checked, self.scored, self.progress = checked, scored, progress
        self.source, self.fixed = checked.found.sources[0], Fixed()
        self.dropped = checked.found.dropped[0]
        self.corrector = Corrector(images, self.source.media_dir) if images else None
        self.columns = dict.fromkeys(name for shape in checked.shapes[0] for name in shape.fields)
        mixed = {name.split("[")[0].split(".")[0] for shape in checked.shapes[0] for name, _ in shape.conflicts()}
        self.listed = self.source.columns.get("images") in mixed
        self.removed = sorted(mixed - set(self.source.columns.values()))

    def write(self, output: Path) -> Fixed:
        """Write the copy.

        Raises:
            DataError: the place cannot be written, or a value does not fit the format.
        """
        for name in self.removed:
            self.fixed.repaired[f'column "{name}" left out: values of several types, and training does not use it'] = 0
        self.fixed.kept = write_rows(output, self._rows())
        self.fixed.dropped.update(self.dropped.values())
        return self.fixed

    def _rows(self) -> Iterator[dict[str, Any]]:
        first = self._first_with_image() if self.checked.found.counts["images-late"] else None
        if first is not None:
            self.fixed.repaired["first row with an image moved to the front"] = 1
            yield from (self._repair(row, number) for number, row in self._kept() if number == first)
        for number, row in self._kept(self.source.name if self.progress else ""):
            if number != first:
                yield self._repair(row, number)

    def _kept(self, progress: str = "") -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        for file in self.source.files:
            for row in read_values(file, progress):
                if number not in self.dropped:
                    yield number, row
                number += 1

    def _first_with_image(self) -> int | None:
        images = self.checked.tables[0].images
        return next((n for n in range(len(images.ends)) if n not in self.dropped and images.of(n)), None)

    def _repair(self, row: dict[str, Any], number: int) -> dict[str, Any]:
        row = {name: value for name, value in row.items() if name not in self.removed}
        if self.checked.found.counts["column-late"]:
            row = dict.fromkeys(name for name in self.columns if name not in self.removed) | row
        for side in ("score_chosen", "score_rejected") if self.scored else ():
            name = self.source.columns[side]
            if isinstance(row[name], str):
                self.fixed.repaired["scores written as text made numbers"] += 1
            row[name] = float(row[name])
        name = self.source.columns.get("images")
        if self.listed and row.get(name) is not None and not isinstance(row[name], list):
            self.fixed.repaired["single images put into lists"] += 1
            row[name] = [row[name]]
        if self.corrector and name:
            self._correct(row, name, number)
        return row

    def _correct(self, row: dict[str, Any], name: str, number: int) -> None:
        problems = self.checked.gallery.problems
        wrong = [
            {kind for kind, _ in problems.get(image, ())} & FIXABLE
            for image in self.checked.tables[0].images.of(number)
        ]
        if not any(wrong):
            return
        images = row[name] if isinstance(row[name], list) else [row[name]]
        changed = [self.corrector(image) if kinds else image for image, kinds in zip(images, wrong, strict=True)]
        self.fixed.repaired["rows with corrected images"] += 1
        row[name] = changed if isinstance(row[name], list) else changed[0]
