"""Questions with their images and videos, read from the disk only when a batch needs them."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from ....uni_dpo.files import sha256_of


PIXELS_PER_TOKEN = 28 * 28
SMALLEST_SIDE = 28  # pixels; one patch after merging
LONGEST_RATIO = 200  # the processors refuse images thinner than that
CHARACTERS_PER_TOKEN = 3


@dataclass(frozen=True)
class Question:
    """One prompt, ready to be answered.

    Attributes:
        text: The whole prompt, one placeholder for each image and video.
        images: Image files in the order of their placeholders.
        videos: Video files likewise.
        min_pixels: Smaller images are scaled up to this many pixels.
        max_pixels: Larger images are scaled down to this many pixels.
        sampling: How to take frames out of videos: `fps` or `nframes`, and limits, as `qwen_vl_utils` has them.
    """

    text: str
    images: tuple[Path, ...]
    videos: tuple[Path, ...]
    min_pixels: int
    max_pixels: int
    sampling: dict[str, float] = field(default_factory=dict, hash=False)

    @property
    def limits(self) -> dict[str, int]:
        """The pixel limits as image processors take them, which ignore either one without the other."""
        return {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}

    @cached_property
    def length(self) -> int:
        """About how many tokens the prompt has; reads no more of an image than its size."""
        tokens = len(self.text) // CHARACTERS_PER_TOKEN
        for path in self.images:
            with Image.open(path) as image:
                pixels = image.width * image.height
            tokens += min(max(pixels, self.min_pixels), self.max_pixels) // PIXELS_PER_TOKEN
        return tokens

    def digest(self) -> str:
        """Return a SHA-256 over all that is asked: the text, what the images and videos hold, and their limits."""
        digest = hashlib.sha256(repr((self.text, self.limits, sorted(self.sampling.items()))).encode())
        for path in (*self.images, *self.videos):
            digest.update(sha256_of(path).digest())
        return digest.hexdigest()


def load_image(path: Path) -> Image.Image:
    """Read an image as training does: RGB, no side below 28 pixels, not thinner than the processors take.

    Source: LlamaFactory's plugin for Qwen2-VL stretches to 28 pixels and to a ratio of 180 beyond one of 200.
    """
    with Image.open(path) as file:
        image = file.convert("RGB")
    width, height = (max(side, SMALLEST_SIDE) for side in image.size)
    if width > LONGEST_RATIO * height:
        width = 180 * height
    elif height > LONGEST_RATIO * width:
        height = 180 * width
    return image if image.size == (width, height) else image.resize((width, height))


def load_video(path: Path, question: Question) -> tuple[Any, float]:
    """Take frames out of a video.

    Returns:
        The frames (frames x 3 x height x width), and how many there are for each second of it.
    """
    from qwen_vl_utils.vision_process import fetch_video

    wish = {"type": "video", "video": str(path), **question.sampling}
    (frames, _), rate = fetch_video(wish, return_video_sample_fps=True, return_video_metadata=True)
    return frames, rate
