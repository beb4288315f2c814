"""Image paths of another machine, made those of this one."""

import os
import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PureWindowsPath
from typing import IO, Any

from .errors import DataError
from .rows import read_rows
from .sources import Source
from .writing import require_new_name, require_writable, to_json, whole_file, write_rows


PREFIX = "MM-RLHF/"
SHOWN = 10  # missing images that a report keeps
LOOKED_AT = 1000  # rows that tell which folder --image-dir is


@dataclass
class Report:
    """What became of the images of a data set.

    Attributes:
        folder: where the part of a path after the prefix was looked for.
        rows: rows read.
        rewritten: images whose path changed.
        right: images whose path already was the wanted one.
        left: images without the prefix, or held in the file itself.
        missing: images that are not where their path now says.
        first_missing: the first `SHOWN` of them: row, path, and the path before.
        first_left: one of those left alone, for a message.
    """

    folder: Path
    rows: int = 0
    rewritten: int = 0
    right: int = 0
    left: int = 0
    missing: int = 0
    first_missing: list[dict[str, Any]] = field(default_factory=list)
    first_left: str = ""


def rewrite_paths(
    source: Source, output: Path, image_dir: Path, prefix: str = PREFIX, missing: Path | None = None
) -> Report:
    """Copy a data set with the paths of its images made absolute below a folder of this machine.

    Args:
        source: the data set. Paths may be those of Windows.
        output: the file to write; if it is the data set's own file, that is replaced when all is done.
        image_dir: the folder that holds the prefix, or what comes after it.
        prefix: the folder (or folders) in the paths from which on they are kept.
        missing: a JSONL file to write, with every image that is not there.

    Raises:
        DataError: the data cannot be read or written, or no image has the prefix; then nothing was written.
    """
    wanted = tuple(_parts(prefix.strip("/\\")))
    if not any(wanted):
        raise DataError("--prefix must name a folder, such as MM-RLHF/")
    if "images" not in source.columns:
        raise DataError(f"the data set {source.name} has no column for images in dataset_info.json")
    rewriting = _Rewriting(source, Path(os.path.abspath(image_dir)), wanted)
    require_writable(output)
    if missing:
        require_new_name(missing, [*source.files, output])
        require_writable(missing, [".jsonl"])
    with whole_file(missing) if missing else nullcontext() as listing:
        write_rows(output, rewriting.rows(listing))
    return rewriting.report


def look_at_paths(source: Source, image_dir: Path) -> Report:
    """Find out what `rewrite_paths` would do, and write nothing.

    Raises:
        DataError: the data cannot be read, or no image has the prefix.
    """
    rewriting = _Rewriting(source, Path(os.path.abspath(image_dir)), tuple(_parts(PREFIX.strip("/"))))
    for _ in rewriting.rows(None):
        pass
    return rewriting.report


class _Rewriting:
    """One pass over a data set."""

    def __init__(self, source: Source, image_dir: Path, prefix: tuple[str, ...]):
        self.source, self.image_dir, self.prefix = source, image_dir, prefix
        self.column = source.columns["images"]
        self.report = Report(self._choose_folder())

    def rows(self, listing: IO[str] | None) -> Iterator[dict[str, Any]]:
        """Yield the changed rows, and list what is missing."""
        report = self.report
        for row in _rows(self.source, "paths"):
            images = row.get(self.column)
            if isinstance(images, list):
                row[self.column] = [self._image(image, listing) for image in images]
            elif images is not None:
                row[self.column] = self._image(images, listing)
            report.rows += 1
            yield row
        if not report.rewritten + report.right:
            name = "/".join(self.prefix)
            what = f'no image has {name}/ in its path, the first is "{report.first_left}"'
            what = what if report.left else f'there are no images in the column "{self.column}"'
            raise DataError(f"{self.source.name}: {what}. Nothing was written. --prefix says where paths are cut.")

    def _choose_folder(self) -> Path:
        """Tell whether --image-dir is the folder above the prefix, or the last folder of the prefix itself."""
        below = self.image_dir.joinpath(*self.prefix)
        if below.is_dir():
            return below
        if self.image_dir.name == self.prefix[-1]:
            return self.image_dir
        for row in islice(_rows(self.source), LOOKED_AT):
            images = row.get(self.column)
            for image in images if isinstance(images, list) else [images]:
                rest = self._after_prefix(_path_of(image) or "")
                if rest and os.path.isfile(self.image_dir.joinpath(*rest)):
                    return self.image_dir
        return below

    def _after_prefix(self, path: str) -> list[str]:
        """Return what follows the last prefix in a path, nothing if there is none."""
        parts, length = _parts(path.rstrip("/\\")), len(self.prefix)
        for start in range(len(parts) - length - 1, -1, -1):
            rest = parts[start + length :]
            if tuple(parts[start : start + length]) == self.prefix:
                return [] if ".." in rest else rest
        return []

    def _wanted(self, path: str) -> str | None:
        """Return the path that an image should have, None if it has nothing to do with the folder."""
        rest = self._after_prefix(path)
        if rest:
            return os.path.join(self.report.folder, *rest)
        if not PureWindowsPath(path).anchor:  # relative: MM-RLHF's own pairs say long/1.png
            for folder in (self.report.folder, self.image_dir):
                found = os.path.join(folder, *_parts(path))
                if ".." not in _parts(path) and os.path.isfile(found):
                    return found
        return None

    def _image(self, image: Any, listing: IO[str] | None) -> Any:
        report, path = self.report, _path_of(image)
        wanted = self._wanted(path) if path else None
        if wanted is None:
            report.left += 1
            report.first_left = report.first_left or path or "held in the file"
        elif wanted == path:
            report.right += 1
        else:
            report.rewritten += 1
            image = image | {"path": wanted} if isinstance(image, dict) else wanted
        if path and not os.path.isfile(wanted or self.source.find_image(path)):
            report.missing += 1
            entry = {"row": report.rows, "image": wanted or path, "was": path}
            report.first_missing += [entry] if report.missing <= SHOWN else []
            if listing:
                listing.write(to_json(entry, Path(listing.name)) + "\n")
        return image


def _rows(source: Source, progress: str = "") -> Iterator[dict[str, Any]]:
    for file in source.files:
        yield from read_rows(file, progress)


def _path_of(image: Any) -> str | None:
    """Return the path of an image, None if it is held in the row itself."""
    if isinstance(image, dict):
        image = None if image.get("bytes") else image.get("path")
    return image if isinstance(image, str) else None


def _parts(path: str) -> list[str]:
    """Split a path of any system. Python on Windows joins with backslashes what it was given with slashes."""
    return re.split(r"[/\\]+", path)
