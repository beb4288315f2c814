"""Images without decoding a pixel: what may be a path, sizes as training scales them, and the tokens they become."""

import io
import math
import warnings
from typing import Any

from PIL import Image, UnidentifiedImageError

from .sources import Source


PATCH = 28  # pixels a side of what becomes one token of Qwen2-VL: patches of 14, merged two by two
MAX_PIXELS = 768 * 768  # LlamaFactory's default for image_max_pixels
MIN_PIXELS = 32 * 32  # and for image_min_pixels
LONGEST_RATIO, STRETCHED_RATIO = 200, 180  # of the sides of an image, for Qwen2-VL

BASE64 = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR")  # what PNG, JPEG, GIF and WebP begin with
LONGEST_NAME, LONGEST_PATH = 255, 4096  # characters of a file's name, and of a path: no system has longer ones
ON_THE_WEB = ("http://", "https://", "ftp://", "s3://", "gs://", "hf://")


def no_path(text: str) -> tuple[str, str] | None:
    """Tell what a text in place of a path is if it is none: the kind of finding, and words; None if it may be one."""
    if text.startswith(ON_THE_WEB):
        return "media-web", "on the web"
    for start, what in (("file://", "a file:// address"), ("data:", "a data URI")):
        if text.startswith(start):
            return "media-embedded", f"{what} instead of a path"
    if len(text) > LONGEST_PATH or (text.startswith(BASE64) and len(text) > LONGEST_NAME):
        return "media-embedded", "base64 instead of a path"
    return None


class ImageError(ValueError):
    """An image (of `check` also a video or sound) that cannot be used; `kind` is what `check` calls the reason."""

    def __init__(self, message: str, kind: str = "image-unreadable"):
        """Say why."""
        super().__init__(message)
        self.kind = kind


def open_image(image: Any, source: Source | None = None) -> Image.Image:
    """Open an image (bytes, or in a source a path or a dictionary) the way training does, reading its header only."""
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, str) and (refused := no_path(image)):
        raise ImageError(f"{refused[1]}; data.py check says more", refused[0])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large images are the caller's to judge
            return Image.open(io.BytesIO(image) if isinstance(image, bytes) else source.find_image(str(image)))
    except FileNotFoundError as error:
        raise ImageError("there is no such file", "image-missing") from error
    except UnidentifiedImageError as error:
        raise ImageError("not an image, or damaged from its start") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{error}", "image-too-large") from error
    except Exception as error:  # a decoder may raise anything; training would stop with it
        raise ImageError(f"{type(error).__name__}: {error}") from error


def scale(width: int, height: int, max_pixels: int = MAX_PIXELS, min_pixels: int = MIN_PIXELS) -> tuple[int, int]:
    """Return the size to which LlamaFactory scales an image of any model.

    Source: `MMPluginMixin._preprocess_image` of LlamaFactory 0.9.5. A side may become 0, at which training stops.
    """
    if width * height > max_pixels:
        width, height = _with_pixels(width, height, max_pixels)
    if 0 < width * height < min_pixels:
        width, height = _with_pixels(width, height, min_pixels)
    return width, height


def _with_pixels(width: int, height: int, pixels: int) -> tuple[int, int]:
    factor = math.sqrt(pixels / (width * height))
    return int(width * factor), int(height * factor)


def stretch(width: int, height: int) -> tuple[int, int]:
    """Return the size that Qwen2-VL's plugin of LlamaFactory makes of one that is too thin or too small for the model.

    Source: `Qwen2VLPlugin._preprocess_image` of LlamaFactory 0.9.5, which does this after `scale`.
    """
    width, height = max(width, PATCH), max(height, PATCH)
    if width > LONGEST_RATIO * height:
        return STRETCHED_RATIO * height, height
    if height > LONGEST_RATIO * width:
        return width, STRETCHED_RATIO * width
    return width, height


def vision_tokens(width: int, height: int, max_pixels: int = MAX_PIXELS, min_pixels: int = MIN_PIXELS) -> int:
    """Estimate the tokens of an image in Qwen2-VL after LlamaFactory has scaled it: one for each 28 x 28 pixels.

    Exact counts need the model's own processor. Source: Qwen2-VL (arXiv 2409.12191), section 2.1.
    """
    return math.prod(round(side / PATCH) for side in stretch(*scale(width, height, max_pixels, min_pixels)))
