"""Copies of images that show training what a person sees."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from PIL import Image, ImageOps

from ..writing import whole_file
from .picture import resolve


FIXABLE = {"image-rotated", "image-transparent", "image-deep", "image-animated"}
QUALITY = 95  # of JPEGs: hardly to be told from the original


class Corrector:
    """Writes corrected copies into a folder, each image once."""

    def __init__(self, folder: Path, media_dir: Path):
        """Write into `folder` what is found from `media_dir`."""
        self.folder, self.media_dir = folder, media_dir
        self.done: dict[str, str] = {}

    def __call__(self, image: Any) -> Any:
        """Return what stands for an image in the corrected row: a path for a path, bytes for bytes.

        Raises:
            DataError: the folder cannot be written.
        """
        if isinstance(image, str) and image in self.done:
            return self.done[image]
        found = resolve(image, str(self.media_dir))
        data, suffix = corrected(found if isinstance(found, bytes) else Path(found).read_bytes())
        if isinstance(image, bytes):
            return data
        if isinstance(image, dict) and image.get("bytes") is not None:
            return image | {"bytes": data}
        path = self.folder / f"{Path(found).stem}-{xxhash.xxh64_hexdigest(data)}{suffix}"
        with whole_file(path, "wb") as file:
            file.write(data)
        path = str(path.resolve())
        if isinstance(image, dict):
            return image | {"path": path}
        self.done[image] = path
        return path


def corrected(data: bytes) -> tuple[bytes, str]:
    """Turn an image upright, in 8 bits a channel, its first frame on white.

    Args:
        data: the content of an image file that can be decoded.

    Returns:
        The content of a JPEG if it was one, otherwise of a PNG, and the suffix for its name.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(data))
        is_jpeg = image.format in ("JPEG", "MPO")
        image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _in_8_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    buffer = io.BytesIO()
    if is_jpeg:
        image.convert("RGB").save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    else:
        image.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue(), ".jpg" if is_jpeg else ".png"


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Scale whole numbers from 16 bits, which is what files hold, and fractions from their own range."""
    values = np.asarray(image, dtype=np.float64)
    lowest, highest = (values.min(), values.max()) if image.mode == "F" else (0, 65535)
    values = (values - lowest) / max(highest - lowest, 1e-12) * 255
    return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))
