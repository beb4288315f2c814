"""Which rows use which images, videos and sounds, each looked at once."""

import os
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from ..images import LONGEST_NAME
from .crew import DIED, HUNG
from .findings import Findings
from .picture import Picture


Item = tuple[tuple[int, str], tuple[str, Any, str]]  # (number, name for messages), what `media.look` takes


class Gallery:
    """All images, videos and sounds of all data sets, by number. They are all called images here.

    Attributes:
        uses: what each is: "images", "videos" or "audios".
        widths: in pixels, by image; 0 where it is not known.
        heights: likewise.
        problems: of the images that have any: kinds of findings, with messages.
        relative: whether a path starts from `media_dir`.
    """

    def __init__(self):
        """Start empty."""
        self._numbers: dict[int, int] = {}  # digest of the path or of the bytes: number
        self.widths, self.heights, self._digests = array("I"), array("I"), array("Q")
        self.uses: list[str] = []
        self.problems: dict[int, list[tuple[str, str]]] = {}
        self.relative = False

    def number(self, image: Any, media_dir: Path, use: str = "images") -> tuple[int, list[Item]]:
        """Return the number of an image, and what there is to inspect if it is new."""
        key = image_key(image, media_dir, use)
        number = self._numbers.get(key)
        if number is not None:
            return number, []
        number = self._numbers[key] = len(self._digests)
        self.relative |= isinstance(image, str) and not os.path.isabs(image)
        self.uses.append(use)
        for values, value in ((self.widths, 0), (self.heights, 0), (self._digests, key)):
            values.append(value)
        return number, [((number, _name(image)), (use, image, str(media_dir)))]

    def find(self, image: Any, media_dir: Path) -> int:
        """Return the number of an image that has one."""
        return self._numbers[image_key(image, media_dir)]

    def hang(self, number: int, picture: Picture | str, name: str) -> None:
        """Keep what was seen of an image; `name` is for messages."""
        if picture in (DIED, HUNG):
            what = "image" if self.uses[number] == "images" else "media"
            kind = f"{what}-{'crashes' if picture == DIED else 'hangs'}"
            picture = Picture(problems=[(kind, f"the process that read it {picture}")])
        self.widths[number], self.heights[number] = picture.width, picture.height
        if picture.digest:  # otherwise its path tells it from others
            self._digests[number] = picture.digest
        if picture.problems:
            self.problems[number] = [(kind, f"{name}: {message}") for kind, message in picture.problems]

    def digests(self) -> np.ndarray:
        """Return 64 bits for each image that are equal for files of equal content."""
        return np.array(self._digests, dtype=np.uint64)

    def report(self, found: Findings, source: int, images: "RowImages") -> None:
        """Add the findings of every row whose images have problems."""
        columns = found.sources[source].columns
        troubled = np.isin(np.array(images.numbers, dtype=np.int64), list(self.problems))
        if not troubled.any():
            return
        rows = np.searchsorted(np.array(images.ends), np.flatnonzero(troubled), side="right")
        for row, place in zip(rows.tolist(), np.flatnonzero(troubled).tolist(), strict=True):
            number = images.numbers[place]
            for kind, message in self.problems[number]:
                found.add(kind, source, row, columns.get(self.uses[number]), message)

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self._digests)


class RowImages:
    """The numbers of the images of every row of a data set.

    Attributes:
        numbers: of all rows, one after the other.
        ends: where those of each row end.
    """

    def __init__(self):
        """Start without rows."""
        self.numbers, self.ends = array("I"), array("Q")

    def add(self, numbers: list[int]) -> None:
        """Add a row."""
        self.numbers.extend(numbers)
        self.ends.append(len(self.numbers))

    def of(self, row: int) -> array:
        """Return the numbers of a row's images."""
        return self.numbers[self.ends[row - 1] if row else 0 : self.ends[row]]


def image_key(image: Any, media_dir: Path, use: str = "images") -> int:
    """Return 64 bits that tell images apart before they are opened."""
    if use != "images":
        return xxhash.xxh64_intdigest(f"{use} {media_dir}\n{image}".encode("utf-8", "surrogatepass"))
    if isinstance(image, dict):
        image = image["bytes"] if image.get("bytes") is not None else str(image.get("path"))
        media_dir = Path()
    if isinstance(image, bytes):
        return xxhash.xxh64_intdigest(image)
    return xxhash.xxh64_intdigest(f"{media_dir}\n{image}".encode("utf-8", "surrogatepass"))


def _name(image: Any) -> str:
    if isinstance(image, list):
        return f"{_name(image[0])} and {len(image) - 1} more" if image else "a video without frames"
    path = image.get("path") if isinstance(image, dict) else image
    if not isinstance(path, str):
        return "the image in the row"
    return printable(path if len(path) <= LONGEST_NAME else f"{path[:40]}...") or "an empty path"


def printable(text: str) -> str:
    """Return text that can be printed and written, whatever is in a file name."""
    return text.encode("utf-8", "backslashreplace").decode()
