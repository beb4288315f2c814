"""Which rows show which images, videos and sounds; each of them is looked at once."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from ..images import LONGEST_NAME
from ..pool import DIED, HUNG
from .findings import Findings, printable
from .picture import Seen


class Item(NamedTuple):
    """What there is to look at: its number, its column ("images", "videos" or "audios"), and what stands there."""

    number: int
    use: str
    medium: Any
    media_dir: str


class MediaIndex:
    """The images, videos and sounds of all data sets, in the tables `media`, `shown` and `faults` of the findings."""

    def __init__(self, found: Findings):
        """Start empty."""
        self.found, self.db = found, found.db
        self.relative = False  # whether a path starts from `media_dir`

    def add(self, source: int, row: int, use: str, medium: Any) -> Item | None:
        """Remember that a row shows something; return what there is to look at if it is new."""
        media_dir = self.found.sources[source].media_dir
        key = _key(medium, media_dir, use)
        known = self.db.execute("SELECT number FROM media WHERE key = ?", (key,)).fetchone()
        if known is None:
            new = self.db.execute("INSERT INTO media VALUES (NULL, ?, ?, 0, 0, ?)", (key, use, key)).lastrowid
            self.relative |= isinstance(medium, str) and not os.path.isabs(medium)
        self.db.execute("INSERT INTO shown VALUES (?, ?, ?)", (source, row, known[0] if known else new))
        return None if known else Item(new, use, medium, str(media_dir))

    def keep(self, item: Item, seen: Seen | str) -> None:
        """Keep what was seen of an item. What cannot be read is told from others by its path, the rest by content."""
        if seen in (DIED, HUNG):
            kind = f"{'image' if item.use == 'images' else 'media'}-{'crashes' if seen == DIED else 'hangs'}"
            seen = Seen(problems=[(kind, f"the process that read it {seen}")])
        self.db.execute(
            "UPDATE media SET width = ?, height = ?, digest = coalesce(?, digest) WHERE number = ?",
            (seen.width, seen.height, seen.digest, item.number),
        )
        for kind, message in seen.problems:
            message = printable(f"{_name(item.medium)}: {message}")
            self.db.execute("INSERT INTO faults VALUES (?, ?, ?)", (item.number, kind, message))

    def report(self) -> None:
        """Add the findings of every row that shows something with a fault."""
        self.db.execute("""
            INSERT INTO findings SELECT source, row, column_for(source, use), kind, message
            FROM shown JOIN media USING (number) JOIN faults USING (number) ORDER BY source, row, shown.rowid
        """)

    def size_of(self, image: Any, media_dir: Path) -> tuple[int, int]:
        """Return the width and height of an image in pixels."""
        key = _key(image, media_dir, "images")
        return self.db.execute("SELECT width, height FROM media WHERE key = ?", (key,)).fetchone()

    def faults_of(self, source: int, row: int) -> list[set[str]]:
        """Return the kinds of faults of every image that a row shows, in order."""
        shown = self.db.execute(
            "SELECT number FROM shown JOIN media USING (number) WHERE source = ? AND row = ? AND use = 'images' "
            "ORDER BY shown.rowid",
            (source, row),
        ).fetchall()
        kinds = "SELECT kind FROM faults WHERE number = ?"
        return [{kind for (kind,) in self.db.execute(kinds, number)} for number in shown]


def _key(medium: Any, media_dir: Path, use: str) -> str:
    """Return what tells things apart before they are opened."""
    if isinstance(medium, dict):  # its path does not start from media_dir
        medium, media_dir = medium["bytes"] if medium.get("bytes") is not None else str(medium.get("path")), Path()
    if isinstance(medium, bytes):
        return xxhash.xxh64_hexdigest(medium)
    return xxhash.xxh64_hexdigest(f"{use} {media_dir}\n{medium}".encode("utf-8", "surrogatepass"))


def _name(medium: Any) -> str:
    if isinstance(medium, list):
        return f"{_name(medium[0])} and {len(medium) - 1} more" if medium else "a video without frames"
    path = medium.get("path") if isinstance(medium, dict) else medium
    if not isinstance(path, str):
        return "the image in the row"
    return (path if len(path) <= LONGEST_NAME else f"{path[:40]}...") or "an empty path"
