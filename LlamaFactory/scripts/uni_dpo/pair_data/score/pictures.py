"""Images as training sees them: RGB and within its limits of pixels, whatever the model's processor does next."""

import base64
import functools
import hashlib
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..images import ImageError, no_path, open_image, vision_tokens
from ..sources import Source


SMALLEST_SIDE = 28  # pixels, in Qwen2-VL's plugin of LlamaFactory, as are the ratios
LONGEST_RATIO, STRETCHED_RATIO = 200, 180


@dataclass(frozen=True)
class Pictures:
    """The images of a data set, scaled alike for all scorers.

    Attributes:
        source: the data set, which knows where paths start.
        max_pixels: larger images are scaled down to this many pixels.
        min_pixels: smaller ones are scaled up.
    """

    source: Source
    max_pixels: int
    min_pixels: int

    def load(self, image: Any) -> Image.Image:
        """Read an image.

        Raises:
            ImageError: it cannot be read; the message names it.
        """
        try:
            with self._opened(image) as file:
                return self._scaled(file)
        except ImageError:
            raise
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ImageError(f"{_label(image)}: damaged ({error})") from error

    def digest(self, image: Any) -> bytes:
        """Hash the content of an image, after a look at its header; raises as `load` does."""
        self._opened(image).close()
        if isinstance(image, dict):
            image = image.get("bytes") or image.get("path")
        if isinstance(image, bytes):
            return hashlib.blake2b(image).digest()
        path = self.source.find_image(image)
        return _file_digest(path, path.stat().st_mtime_ns)

    def tokens(self, image: Any) -> int:
        """Estimate how much longer an image makes a request; 0 if it cannot be read."""
        try:
            with self._opened(image) as file:
                return vision_tokens(*file.size, self.max_pixels, self.min_pixels)
        except ImageError:
            return 0

    def data_url(self, image: Any) -> str:
        """Return an image as a JPEG inside a URL, as chat endpoints take it; raises as `load` does."""
        file = io.BytesIO()
        self.load(image).save(file, "JPEG", quality=95, subsampling=0)  # small text stays legible
        return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()

    def _opened(self, image: Any) -> Image.Image:
        try:
            return open_image(image, self.source)
        except ImageError as error:
            raise ImageError(f"{_label(image)}: {error}") from error

    def _scaled(self, image: Image.Image) -> Image.Image:
        """Scale as LlamaFactory's `_preprocess_image` does, in its order, so that models see what training shows."""
        if image.width * image.height > self.max_pixels:
            image = _resized_to(image, self.max_pixels)
        if image.width * image.height < self.min_pixels:
            image = _resized_to(image, self.min_pixels)
        image = image.convert("RGB")
        width, height = (max(side, SMALLEST_SIDE) for side in image.size)
        if width > LONGEST_RATIO * height:
            width = STRETCHED_RATIO * height
        elif height > LONGEST_RATIO * width:
            height = STRETCHED_RATIO * width
        return image if image.size == (width, height) else image.resize((width, height))


def _label(image: Any) -> str:
    if isinstance(image, dict):
        image = image.get("path") or image.get("bytes")
    if isinstance(image, bytes):
        return f"an image of {len(image)} bytes in the row"
    return f"{str(image)[:40]}..." if no_path(str(image)) else str(image)


def _resized_to(image: Image.Image, pixels: int) -> Image.Image:
    factor = math.sqrt(pixels / (image.width * image.height))
    return image.resize((max(1, int(image.width * factor)), max(1, int(image.height * factor))))


@functools.lru_cache(maxsize=4096)  # data sets ask several questions about one image
def _file_digest(path: Path, changed: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
