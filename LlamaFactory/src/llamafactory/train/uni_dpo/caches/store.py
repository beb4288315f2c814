"""A folder that is known by its key, refuses what does not fit, and never holds half a file."""

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import UniDPOError
from ..files.disk import explained, require_writable


KEY_FILE = "key.json"
# A part is written within seconds; clocks of several machines may differ by minutes.
ABANDONED_SECONDS = 3600.0


class Store:
    """A cache folder.

    Attributes:
        folder: where it is.
    """

    def __init__(self, option: str, folder: str, key: dict[str, Any]):
        """Open a folder, or make it.

        Args:
            option: the option that named it, for messages.
            folder: its path.
            key: everything its content depends on, by readable names; JSON values.

        Raises:
            UniDPOError: the folder was made with another key, or is not a cache.
        """
        self.folder, path, self._option = Path(folder), Path(folder) / KEY_FILE, option
        key = json.loads(json.dumps(key))
        others = self.folder.is_dir() and any(file.suffix != ".tmp" for file in self.folder.iterdir())
        if not path.is_file() and others:  # asked in this order, as another run may be making the folder
            raise UniDPOError(f"`{option}: {folder}` is a folder with other things in it; name a new or an empty one.")
        if path.is_file():
            _compare(option, folder, json.loads(path.read_text()), key)
            self._clear()
            return
        require_writable(option, folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.writing(KEY_FILE) as temporary:
            temporary.write_text(json.dumps(key, indent=2) + "\n")

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Give a path to write to, which becomes `name` when all is written."""
        temporary = self.folder / f".{name}.{uuid.uuid4().hex}.tmp"
        advice = "Make room there; the same command goes on behind the parts that are complete."
        with explained(f"`{self._option}`", self.folder, advice):
            try:
                yield temporary
                os.replace(temporary, self.folder / name)
            finally:
                temporary.unlink(missing_ok=True)

    def _clear(self) -> None:
        """Delete what killed runs left half-written, but nothing that another run may be writing now."""
        for file in self.folder.glob(".*.tmp"):
            with suppress(OSError):
                if time.time() - file.stat().st_mtime > ABANDONED_SECONDS:
                    file.unlink()

    def new_part(self, ending: str) -> str:
        """Invent a name for a part that no other process uses."""
        return f"part-{uuid.uuid4().hex}.{ending}"

    def parts(self, ending: str) -> list[Path]:
        """List the parts that are complete."""
        return sorted(self.folder.glob(f"part-*.{ending}"))


def _compare(option: str, folder: str, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    different = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    if different:
        what = "; ".join(f"{name}: {found.get(name)!r} there, {wanted.get(name)!r} here" for name in different)
        raise UniDPOError(
            f"`{option}: {folder}` was made for another run and is not used ({what}). Name another folder, or delete "
            "this one if nothing needs it any more."
        )
