"""Images as training sees them: RGB and within its limits of pixels, whatever the model's processor does next."""

import base64
import functools
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..images import ImageError, no_path, open_image, scale, stretch, vision_tokens
from ..sources import Source


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
        """Read an image and give it the size that models see in training.

        Raises:
            ImageError: it cannot be read, or is too thin for training; the message names it.
        """
        try:
            with self._opened(image) as file:
                small = file.resize(scale(*file.size, self.max_pixels, self.min_pixels)).convert("RGB")
            return small.resize(stretch(*small.size))
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
            opened = open_image(image, self.source)
        except ImageError as error:
            raise ImageError(f"{_label(image)}: {error}") from error
        if not all(scale(*opened.size, self.max_pixels, self.min_pixels)):
            opened.close()
            raise ImageError(f"{_label(image)}: too thin, scaling it down leaves no pixel on one side")
        return opened


def _label(image: Any) -> str:
    if isinstance(image, dict):
        image = image.get("path") or image.get("bytes")
    if isinstance(image, bytes):
        return f"an image of {len(image)} bytes in the row"
    return f"{str(image)[:40]}..." if no_path(str(image)) else str(image)


@functools.lru_cache(maxsize=4096)  # data sets ask several questions about one image
def _file_digest(path: Path, changed: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
