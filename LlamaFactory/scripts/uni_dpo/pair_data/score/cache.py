"""Scores that have been given stay, in one SQLite file, whatever ends the run."""

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from ..errors import DataError


class Cache:
    """Scores by the key of the request.

    Every `put` is on the disk when it returns, so that a run that is killed loses what it was scoring and no more.
    """

    def __init__(self, path: Path):
        """Open the file, or make it.

        Raises:
            DataError: it is something else, or cannot be written.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=60)
            with self._database as database:
                database.execute("CREATE TABLE IF NOT EXISTS scores (key BLOB PRIMARY KEY, score REAL) WITHOUT ROWID")
        except (OSError, sqlite3.Error) as error:
            raise DataError(f"cannot keep scores in {path} ({error}). Name another file with --cache.") from error

    def get(self, key: bytes) -> float | None:
        """Return a score, None if there is none yet."""
        found = self._database.execute("SELECT score FROM scores WHERE key = ?", (key,)).fetchone()
        return found[0] if found else None

    def put(self, scores: Iterable[tuple[bytes, float]]) -> None:
        """Keep scores.

        Raises:
            DataError: the disk is full, or the like.
        """
        try:
            with self._database as database:
                database.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", scores)
        except sqlite3.Error as error:
            raise DataError(f"cannot keep scores in {self.path}: {error}") from error
