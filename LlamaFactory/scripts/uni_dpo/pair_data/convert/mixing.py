"""Old pairs mixed in with new ones, by the share of the whole that they are to have."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


Row = dict[str, Any]

ORIGIN, NEW, OLD = "origin", "new", "old"  # the column that tells them apart, and what stands in it
SAID = ("instruction", "history", "system", "chosen", "rejected")  # what makes two pairs one, with their images


@dataclass(frozen=True)
class Mix:
    """What is mixed in.

    Attributes:
        sources: files of pairs.
        share: of all pairs that are written, those that are to come from there; above 0 and below 1.
        seed: of the choice among them.
    """

    sources: list[str] = field(default_factory=list)
    share: float = 0.0
    seed: int = 0


@dataclass
class Mixed:
    """What became of it: how many old pairs there were, are wanted, and were taken; how many are new ones, too."""

    there: int = 0
    wanted: int = 0
    taken: int = 0
    again: int = 0

    def text(self, new: int) -> str:
        """Return a line of the report, given how many new pairs there are."""
        share = self.taken / (self.taken + new)
        short = "" if self.taken == self.wanted else f"; {self.wanted:,} are wanted for the share, and no more there"
        again = f"; {self.again:,} of these say what others say" if self.again else ""
        return f"{self.taken:>11,} of them from {self.there:,} old ones, {share:.1%}{short}{again}"


def mixed(new: Iterable[Row], old: list[Row], mix: Mix, home: Path) -> tuple[Iterator[Row], Mixed]:
    """Return new rows with old ones evenly among them, and what became of the old.

    Which ones are taken depends on the seed and on what they say, not on where they are. `home` is the folder of the
    output, where paths of images start.
    """
    new = list(new)
    known = {_identity(row, home) for row in new}
    there = {key: row for row in old if (key := _identity(row, home)) not in known}
    wanted = round(len(new) * mix.share / (1 - mix.share))
    drawn = set(sorted(there, key=lambda key: (_lot(there[key], mix.seed), key))[:wanted])
    taken = [row for key, row in there.items() if key in drawn]
    return _merged(new, taken), Mixed(len(old), wanted, len(taken), len(old) - len(there))


def _merged(new: list[Row], old: list[Row]) -> Iterator[Row]:
    given = 0
    for place, row in enumerate(new, 1):
        yield row | {ORIGIN: NEW}
        due = place * len(old) // len(new)
        yield from (one | {ORIGIN: OLD} for one in old[given:due])
        given = due


def _identity(row: Row, home: Path) -> str:
    """Return what is the same for the same pair, however the paths of its images are written."""
    images = [os.path.normpath(home / image) for image in row.get("images") or []]
    return json.dumps([images, *(row.get(name) or None for name in SAID)])


def _lot(row: Row, seed: int) -> bytes:
    names = [os.path.basename(image) for image in row.get("images") or []]
    said = json.dumps([seed, names, *(row.get(name) or None for name in SAID)])
    return hashlib.blake2b(said.encode(), digest_size=8).digest()
