"""Sizes of a sample of the images, read from their headers by a few threads."""

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm import tqdm

from ..images import ImageError, open_image
from ..sources import Source


SAMPLE = 2000  # images looked at: shares are then within about two per cent
THREADS = 8  # they wait for the disk

Size = tuple[int, int]  # width and height, in pixels


class Sample:
    """Up to `SAMPLE` images, each reference to one as likely as any other, the same ones every time.

    Source: reservoir sampling, algorithm R (Vitter, 1985).

    Attributes:
        seen: how many were offered.
        kept: paths, or what is known already of images that come as bytes: a size, or why there is none.
    """

    def __init__(self):
        """Start with none."""
        self.seen = 0
        self.kept: list[str | Size | ImageError] = []
        self._random = random.Random(0)

    def offer(self, image: Any, source: Source) -> None:
        """Count an image, and maybe keep it."""
        self.seen += 1
        at = self.seen - 1 if self.seen <= SAMPLE else self._random.randrange(self.seen)
        if at < SAMPLE:
            content = (image.get("bytes") or image.get("path")) if isinstance(image, dict) else image
            kept = content if isinstance(content, str) else size_of(content, source)  # bytes are not kept
            self.kept[at : at + 1] = [kept]


def size_of(image: Any, source: Source) -> Size | ImageError:
    """Return width and height of an image, or why there are none."""
    if not isinstance(image, (str, bytes)):
        return ImageError("neither a path nor bytes")
    try:
        with open_image(image, source) as opened:
            return opened.size
    except ImageError as error:
        return error


def sizes_of(sample: Sample, source: Source) -> list[Size | ImageError]:
    """Look at the sampled images."""
    with ThreadPoolExecutor(THREADS) as threads:
        answers = threads.map(lambda kept: size_of(kept, source) if isinstance(kept, str) else kept, sample.kept)
        return list(tqdm(answers, "Reading image headers", len(sample.kept), unit="image", leave=False))
