"""Sizes of a sample of the images, read from their headers by a few threads."""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from tqdm import tqdm

from ..images import MAX_PIXELS, ImageError, open_image, vision_tokens
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


def measure(sample: Sample, source: Source) -> dict[str, Any]:
    """Look at the sampled images.

    Returns:
        How many were referred to, looked at, missing and unreadable; and of the others, quantiles of width, height
        (pixels) and tokens, a histogram of tokens, and the share that training scales down.
    """
    with ThreadPoolExecutor(THREADS) as threads:
        answers = threads.map(lambda kept: size_of(kept, source) if isinstance(kept, str) else kept, sample.kept)
        answers = list(tqdm(answers, "Reading image headers", len(sample.kept), unit="image", leave=False))
    failures = Counter(str(answer) for answer in answers if isinstance(answer, ImageError))
    found: dict[str, Any] = {"references": sample.seen, "looked_at": len(sample.kept)}
    found["missing"] = failures.pop("there is no such file", 0)
    found["unreadable"] = failures.total()
    sizes = np.array([answer for answer in answers if not isinstance(answer, ImageError)]).reshape(-1, 2)
    if len(sizes):
        tokens = np.array([vision_tokens(int(width), int(height)) for width, height in sizes])
        for name, values in zip(("width", "height", "tokens"), (*sizes.T, tokens), strict=True):
            quantiles = np.quantile(values, [0, 0.1, 0.5, 0.9, 1]).tolist()
            found[name] = dict(zip(("least", "p10", "median", "p90", "most"), quantiles, strict=True))
        found["scaled_down"] = float(np.mean(sizes.prod(axis=1) > MAX_PIXELS))
        counts, edges = np.histogram(tokens, bins=30)
        found["histogram"] = {"edges": edges.tolist(), "counts": counts.tolist()}
    return found
