"""Answers on the disk as soon as they are given, each with the key of all that it depends on."""

import contextlib
import glob
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


Known = dict[tuple[str, str], str]
NAMES = ("index", "key", "answer")


@dataclass(frozen=True)
class Journal:
    """The answers to one data set: one line of JSON for each, one file for each rank, only ever appended to.

    Attributes:
        folder: Where the files are.
        name: The data set's name.
        rank: The rank whose file this process appends to.
    """

    folder: Path
    name: str
    rank: int = 0

    @property
    def files(self) -> list[Path]:
        """The files of all ranks, of this run and of earlier ones."""
        return sorted(self.folder.glob(f"{glob.escape(self.name)}.rank*.jsonl"))

    def read(self) -> Known:
        """Return every whole line: (index of the row, key) to answer."""
        known = {}
        for path in self.files:
            whole = path.read_bytes().split(b"\n")[:-1]  # behind the last line end is half a line, or nothing
            for line in whole:
                # A line that a power cut spoilt: its row is answered again.
                with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
                    record = json.loads(line)
                    index, key, answer = (record[name] for name in NAMES)
                    if isinstance(answer, str):
                        known[index, key] = answer
        return known

    @contextlib.contextmanager
    def appending(self) -> Iterator[Callable[[Iterable[tuple[str, str, str]]], None]]:
        """Open this rank's file, less the half line that a killed run may have left at its end.

        Yields:
            What appends records of (index, key, answer) and hands them to the system, where they outlive this process.
        """
        path = self.folder / f"{self.name}.rank{self.rank}.jsonl"
        path.touch()
        with path.open("r+b") as file:
            file.seek(file.read().rfind(b"\n") + 1)
            file.truncate()

            def add(records: Iterable[tuple[str, str, str]]) -> None:
                for record in records:
                    file.write(json.dumps(dict(zip(NAMES, record, strict=True))).encode() + b"\n")
                file.flush()

            yield add
