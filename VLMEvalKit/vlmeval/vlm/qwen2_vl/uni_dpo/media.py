"""Questions with their images and videos, read from the disk only when a batch needs them."""

import hashlib
import importlib.util
import math
import operator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from ....uni_dpo.files import sha256_of
from .families import Family


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
        family: What kind of model is asked.
        side: Pixels along the side of what becomes one token, of an image or of two frames.
        min_pixels: Smaller images are scaled up to this many pixels; None for no such limit.
        max_pixels: Larger images are scaled down to this many pixels; None for no such limit.
        sampling: How to take frames out of videos: `fps` or `nframes`, and limits, as `qwen_vl_utils` has them.
    """

    text: str
    images: tuple[Path, ...]
    videos: tuple[Path, ...]
    family: Family
    side: int
    min_pixels: int | None
    max_pixels: int | None
    sampling: dict[str, float] = field(default_factory=dict, hash=False)

    def scaled_first(self, least: int, most: int) -> "Question":
        """Return the question with its images brought between limits before the processor sees them, as in training.

        Args:
            least: Pixels to which smaller images are scaled up, training's `image_min_pixels`.
            most: Pixels to which larger ones are scaled down, its `image_max_pixels`.
        """
        return replace(self, family=replace(self.family, limited=False), min_pixels=least, max_pixels=most)

    @property
    def limits(self) -> dict[str, int]:
        """The pixel limits as image processors take them that have any; they ignore either one without the other."""
        return self._asked if self.family.limited else {}

    @property
    def _asked(self) -> dict[str, int | None]:
        return {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}

    @cached_property
    def length(self) -> int:
        """About how many tokens the prompt has; reads no more of an image than its size."""
        tokens = len(self.text) // CHARACTERS_PER_TOKEN
        for path in self.images:
            with Image.open(path) as image:
                pixels = image.width * image.height
            tokens += min(max(pixels, self.min_pixels or 0), self.max_pixels or pixels) // self.side**2
        return tokens

    def digest(self) -> str:
        """Return a SHA-256 over all that is asked: the text, what the images and videos hold, and their limits."""
        digest = hashlib.sha256(repr((self.text, self._asked, sorted(self.sampling.items()))).encode())
        for path in (*self.images, *self.videos):
            digest.update(sha256_of(path).digest())
        return digest.hexdigest()


def load_image(path: Path, question: Question) -> Image.Image:
    """Read an image as training does: RGB, within the limits where the processor has none, and of a shape it takes.

    Source: LlamaFactory's plugins; that for Qwen2-VL stretches to 28 pixels and to a ratio of 180 beyond one of 200.
    """
    with Image.open(path) as file:
        image = file.convert("RGB")
    if not question.family.limited:
        for limit, crossed in ((question.max_pixels, operator.gt), (question.min_pixels, operator.lt)):
            pixels = image.width * image.height
            if limit and crossed(pixels, limit):
                factor = math.sqrt(limit / pixels)
                image = image.resize((int(image.width * factor), int(image.height * factor)))
    if not question.family.stretches:
        return image
    width, height = (max(side, SMALLEST_SIDE) for side in image.size)
    if width > LONGEST_RATIO * height:
        width = 180 * height
    elif height > LONGEST_RATIO * width:
        height = 180 * width
    return image if image.size == (width, height) else image.resize((width, height))


def load_video(path: Path, question: Question) -> tuple[Any, float, dict[str, Any]]:
    """Take frames out of a video.

    Returns:
        The frames (frames x 3 x height x width), how many there are for each second of it, and what transformers calls
        its metadata: which frames they are, of how many.
    """
    from qwen_vl_utils import vision_process

    # It would prefer torchcodec, which comes with vLLM and cannot be loaded where there is no FFmpeg.
    if importlib.util.find_spec("decord"):
        vision_process.FORCE_QWENVL_VIDEO_READER = vision_process.FORCE_QWENVL_VIDEO_READER or "decord"
    wish = {"type": "video", "video": str(path), **question.sampling}
    patch = question.side // 2  # two patches make the side of a token
    wanted = {"return_video_sample_fps": True, "return_video_metadata": True}
    (frames, known), rate = vision_process.fetch_video(wish, patch, **wanted)
    return frames, rate, {**known, "frames_indices": [int(index) for index in known["frames_indices"]]}
