"""What cost time or money to get, kept as soon as it is there: scores and answers, by keys of all they depend on."""

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .errors import DataError


class Kept:
    """Values by key, in one SQLite file.

    Every `put` is on the disk when it returns, so that a run that is killed loses what it was at and no more. A file
    that is something else, or that cannot be written, is a DataError.
    """

    def __init__(self, path: Path, what: str = "scores", kind: str = "score REAL"):
        """Open the file, or make it.

        Args:
            path: the file.
            what: what is kept, one word in the plural.
            kind: the name and SQLite's type of one value.
        """
        self.path, self.what, self._column = path, what, kind.split()[0]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=60)
            with self._database as database:
                database.execute(f"CREATE TABLE IF NOT EXISTS {what} (key BLOB PRIMARY KEY, {kind}) WITHOUT ROWID")
        except (OSError, sqlite3.Error) as error:
            raise DataError(f"cannot keep {what} in {path} ({error}). Name another file with --cache.") from error

    def get(self, key: bytes) -> Any:
        """Return a value, None if there is none yet."""
        found = self._database.execute(f"SELECT {self._column} FROM {self.what} WHERE key = ?", (key,)).fetchone()
        return found[0] if found else None

    def put(self, values: Iterable[tuple[bytes, Any]]) -> None:
        """Keep values."""
        try:
            with self._database as database:
                database.executemany(f"INSERT OR REPLACE INTO {self.what} VALUES (?, ?)", values)
        except sqlite3.Error as error:
            raise DataError(f"cannot keep {self.what} in {self.path}: {error}") from error
