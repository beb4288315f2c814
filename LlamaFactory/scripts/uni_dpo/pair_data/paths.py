"""The command `paths`: image paths of another machine, made those of this one."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path, PureWindowsPath
from typing import IO, Annotated, Any

import typer

from .errors import DataError
from .options import Data, DatasetDir, MediaDir
from .rows import read_rows
from .sources import Source, listed, open_source
from .writing import require_new_name, require_writable, to_json, whole_file, write_rows


NAME = "paths"
PREFIX = "MM-RLHF/"
SHOWN = 10  # missing images that a report keeps
LOOKED_AT = 1000  # rows that tell which folder --image-dir is


def run(
    data: Data,
    image_dir: Annotated[Path, typer.Option(help="folder on this machine that holds MM-RLHF, or MM-RLHF itself")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="the file to write: .json, .jsonl or .parquet", show_default=False),
    ] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="replace the data's own file instead")] = False,
    prefix: Annotated[str, typer.Option(help="keep paths from this folder on")] = PREFIX,
    missing: Annotated[
        Path | None, typer.Option(help="write every image that is not there to this JSONL file", show_default=False)
    ] = None,
    dataset_dir: DatasetDir = None,
    media_dir: MediaDir = None,
) -> None:
    r"""Make the image paths of somebody else's data those of this machine.

    Of every path in the column of images, the part from the last MM-RLHF/ on is put below --image-dir:

    \b
    python scripts/uni_dpo/data.py paths downloaded.json -o data/uni_dpo/pairs.json --image-dir data/uni_dpo
      /home/them/MM-RLHF/long/1.png  ->  /here/data/uni_dpo/MM-RLHF/long/1.png

    Paths of Windows are understood anywhere. A relative path without the prefix is put below the folder too if the
    file is there; other paths without the prefix stay as they are. Images that cannot be found are counted and
    listed, and the file is written all the same: run it again when they have been downloaded.
    """
    source = open_source(data, dataset_dir, media_dir)
    if (output is None) != in_place:
        raise DataError("give either --output FILE or --in-place")
    if in_place and len(source.files) != 1:
        raise DataError(f"{source.name} has {len(source.files)} files; --in-place works on one. Give --output FILE.")
    if not in_place:
        require_new_name(output, source.files)
    output = output or source.files[0]
    print_report(rewrite_paths(source, output, image_dir, prefix, missing), output, missing)


def rewrite_paths(
    source: Source, output: Path, image_dir: Path, prefix: str = PREFIX, missing: Path | None = None
) -> "Rewriting":
    """Copy a data set with the paths of its images made absolute below a folder of this machine.

    Args:
        source: the data set. Paths may be those of Windows.
        output: the file to write; if it is the data set's own file, that is replaced when all is done.
        image_dir: the folder that holds the prefix, or what comes after it.
        prefix: the folder (or folders) in the paths from which on they are kept.
        missing: a JSONL file to write, with every image that is not there.
    """
    if not prefix.strip("/\\"):
        raise DataError("--prefix must name a folder, such as MM-RLHF/")
    if "images" not in source.columns:
        raise DataError(f"the data set {source.name} has no column for images in dataset_info.json")
    rewriting = Rewriting(source, image_dir, prefix)
    require_writable(output)
    if missing:
        require_new_name(missing, [*source.files, output])
        require_writable(missing, [".jsonl"])
    with whole_file(missing) if missing else nullcontext() as listing:
        write_rows(output, rewriting.rows(listing))
    return rewriting


def look_at_paths(source: Source, image_dir: Path) -> "Rewriting":
    """Find out what `rewrite_paths` would do, and write nothing."""
    rewriting = Rewriting(source, image_dir, PREFIX)
    for _ in rewriting.rows(None):
        pass
    return rewriting


def print_report(done: "Rewriting", output: Path, missing: Path | None = None) -> None:
    """Say what was done, and warn of images that are not there."""
    counts = f"{done.rewritten} rewritten, {done.right} already right, {done.left} left as they are"
    print(f"{output}: {done.count} rows; images: {counts}. They lie in {done.folder}")
    if done.missing:
        rest = f"; all of them are in {missing}" if missing else "; data.py paths --missing FILE lists them all"
        lines = [f"Warning: {done.missing} images are not there{rest}:"]
        lines += [f"  row {entry['row']}: {entry['image']}" for entry in done.first_missing]
        print(*lines, *["  ..."] * (done.missing > SHOWN), sep="\n", file=sys.stderr)


class Rewriting:
    """One pass over a data set, and what became of its images.

    Attributes:
        folder: where the part of a path after the prefix is looked for.
        rewritten: how many paths changed.
        right: how many already were the wanted ones.
        left: how many images have no prefix, or are held in the file itself.
        missing: how many are not where their path now says; `first_missing` are some.
    """

    def __init__(self, source: Source, image_dir: Path, prefix: str):
        """Choose the folder; no more than the first rows are read for it."""
        self.source, self.image_dir = source, Path(os.path.abspath(image_dir))
        self.prefix, self.column = _parts(prefix.strip("/\\")), source.columns["images"]
        self.count = self.rewritten = self.right = self.left = self.missing = 0
        self.first_missing: list[dict[str, Any]] = []
        self.first_left = ""
        self.folder = self._choose_folder()

    def _choose_folder(self) -> Path:
        """Tell whether --image-dir is the folder above the prefix, or the last folder of the prefix itself."""
        below = self.image_dir.joinpath(*self.prefix)
        if below.is_dir():
            return below
        if self.image_dir.name == self.prefix[-1]:
            return self.image_dir
        for row in islice(self._read(), LOOKED_AT):
            for image in listed(row.get(self.column)):
                rest = self._after_prefix(_path_of(image) or "")
                if rest and os.path.isfile(self.image_dir.joinpath(*rest)):
                    return self.image_dir
        return below

    def _read(self, progress: str = "") -> Iterator[dict[str, Any]]:
        for file in self.source.files:
            yield from read_rows(file, progress)

    def rows(self, listing: IO[str] | None) -> Iterator[dict[str, Any]]:
        """Yield the changed rows, and list what is missing."""
        for row in self._read("paths"):
            images = row.get(self.column)
            changed = [self._image(image, listing) for image in listed(images)]
            if images is not None:
                row[self.column] = changed if isinstance(images, list) else changed[0]
            self.count += 1
            yield row
        if not self.rewritten + self.right:
            name = "/".join(self.prefix)
            what = f'no image has {name}/ in its path, the first is "{self.first_left}"'
            what = what if self.left else f'there are no images in the column "{self.column}"'
            raise DataError(f"{self.source.name}: {what}. Nothing was written. --prefix says where paths are cut.")

    def _image(self, image: Any, listing: IO[str] | None) -> Any:
        path = _path_of(image)
        wanted = self._wanted(path) if path else None
        if wanted is None:
            self.left += 1
            self.first_left = self.first_left or path or "held in the file"
        elif wanted == path:
            self.right += 1
        else:
            self.rewritten += 1
            image = image | {"path": wanted} if isinstance(image, dict) else wanted
        if path and not os.path.isfile(wanted or self.source.find_image(path)):
            self.missing += 1
            entry = {"row": self.count, "image": wanted or path, "was": path}
            self.first_missing += [entry] if self.missing <= SHOWN else []
            if listing:
                listing.write(to_json(entry, Path(listing.name)) + "\n")
        return image

    def _wanted(self, path: str) -> str | None:
        """Return the path that an image should have, None if it has nothing to do with the folder."""
        rest = self._after_prefix(path)
        if rest:
            return os.path.join(self.folder, *rest)
        if not PureWindowsPath(path).anchor and ".." not in _parts(path):  # MM-RLHF's own pairs say long/1.png
            below = (os.path.join(folder, *_parts(path)) for folder in (self.folder, self.image_dir))
            return next(filter(os.path.isfile, below), None)
        return None

    def _after_prefix(self, path: str) -> list[str]:
        """Return what follows the last prefix in a path, nothing if there is none."""
        parts, length = _parts(path.rstrip("/\\")), len(self.prefix)
        for start in range(len(parts) - length - 1, -1, -1):
            rest = parts[start + length :]
            if parts[start : start + length] == self.prefix:
                return [] if ".." in rest else rest
        return []


def _path_of(image: Any) -> str | None:
    """Return the path of an image, None if it is held in the row itself."""
    if isinstance(image, dict):
        image = None if image.get("bytes") else image.get("path")
    return image if isinstance(image, str) else None


def _parts(path: str) -> list[str]:
    """Split a path of any system. Python on Windows joins with backslashes what it was given with slashes."""
    return re.split(r"[/\\]+", path)
