"""One image: whether training can read it, and what it will see."""

import io
import math
import os
import stat
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash
from PIL import ExifTags, Image, UnidentifiedImageError

from ..images import MAX_PIXELS, MIN_PIXELS, PATCH, no_path


DECODED = 1 << 26  # pixels: larger images are judged by their header alone, as they would take 256 MB and more
LARGEST = 2 * (Image.MAX_IMAGE_PIXELS or 1 << 27)  # pixels above which Pillow, and so training, refuses to open a file
HUGE = 25_000_000  # pixels: from here on decoding takes longer than most of what training does with the image
THINNEST = 200  # Qwen2-VL takes no sides of a larger ratio, and LlamaFactory squashes them to fit
DEEP_MODES = ("I", "F")  # and I;16 in all byte orders: more than 8 bits a channel

Problem = tuple[str, str]  # kind, message


@dataclass
class Picture:
    """What is known of an image after looking at it.

    Attributes:
        width: in pixels; 0 if it cannot be opened.
        height: likewise.
        digest: of the file's content; 0 if there is none.
        problems: kinds of findings, with messages.
    """

    width: int = 0
    height: int = 0
    digest: int = 0
    problems: list[Problem] = field(default_factory=list)


def inspect(item: tuple[Any, str], max_pixels: int = MAX_PIXELS, min_pixels: int = MIN_PIXELS) -> Picture:
    """Look at an image; never raises for what is wrong with it.

    Args:
        item: the image as it is in a row, and the folder that paths start from.
        max_pixels: LlamaFactory's `image_max_pixels`.
        min_pixels: and its `image_min_pixels`.
    """
    picture, image = Picture(), resolve(*item)
    try:
        data = image if isinstance(image, bytes) else read_file(image)
        picture.digest = xxhash.xxh64_intdigest(data)
        with _open(data) as opened:
            picture.width, picture.height = opened.size
            _judge_size(opened.size, scale(*opened.size, max_pixels, min_pixels), picture)
            _judge_header(opened, picture, "" if isinstance(image, bytes) else image)
            if math.prod(opened.size) <= DECODED:
                _decode(opened)
                _judge_content(opened, picture)
    except Refused as refusal:
        picture.problems.append(refusal.problem)
    return picture


class Refused(Exception):
    """A file that training cannot use; `problem` is the kind of finding, with its message."""

    def __init__(self, kind: str, message: str):
        """Say what is wrong."""
        self.problem = (kind, message)


def read_file(path: str, what: str = "image") -> bytes:
    """Read a file; a pipe or a device, which may never end, is refused, and what is no path.

    Args:
        path: the file.
        what: how the kinds of findings about it begin, "image" or "media".

    Raises:
        Refused: it cannot be read, or is empty.
    """
    if refused := no_path(path):
        raise Refused(*refused)
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise Refused(f"{what}-not-a-file", "a folder" if stat.S_ISDIR(mode) else "not a regular file")
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise Refused(f"{what}-missing", "there is no such file") from error
    except (OSError, ValueError) as error:
        raise Refused(f"{what}-missing", f"{getattr(error, 'strerror', None) or error}") from error
    if not data:
        raise Refused(f"{what}-empty", "the file is empty")
    return data


def _open(data: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's about size: see "image-huge"
        try:
            return Image.open(io.BytesIO(data))
        except UnidentifiedImageError as error:
            raise Refused("image-unreadable", "not an image, or damaged from its start") from error
        except Image.DecompressionBombError as error:
            raise Refused("image-too-large", f"{error}") from error
        except Exception as error:  # a decoder may raise anything; training would stop with it
            raise Refused("image-unreadable", f"{type(error).__name__}: {error}") from error


def _judge_size(size: tuple[int, int], scaled: tuple[int, int], picture: Picture) -> None:
    width, height = scaled
    shape = f"{size[0]} x {size[1]} pixels"
    if not min(scaled):
        raise Refused("image-too-thin", f"{shape} become {width} x {height}")
    if max(max(width, PATCH) / max(height, PATCH), max(height, PATCH) / max(width, PATCH)) > THINNEST:
        picture.problems.append(("image-squashed", shape))
    if min(size) < PATCH:
        picture.problems.append(("image-tiny", shape))
    if math.prod(size) > HUGE:
        not_decoded = "" if math.prod(size) <= DECODED else "; not decoded here"
        picture.problems.append(("image-huge", shape + not_decoded))


def scale(width: int, height: int, max_pixels: int = MAX_PIXELS, min_pixels: int = MIN_PIXELS) -> tuple[int, int]:
    """Return the size that LlamaFactory scales an image to before the model's own processor sees it.

    Source: `MMPluginMixin._preprocess_image` of LlamaFactory 0.9.5. A side may become 0, at which training stops.
    """
    pixels = width * height
    limit = min(max_pixels, max(min_pixels, pixels))
    if limit == pixels:
        return width, height
    factor = math.sqrt(limit / pixels)
    return int(width * factor), int(height * factor)


def _judge_header(image: Image.Image, picture: Picture, path: str) -> None:
    add = picture.problems.append
    known = Image.registered_extensions().get(os.path.splitext(path)[1].lower())
    known = {"JPEG2000": "JPEG 2000"}.get(known, known)
    if path and known != image.format and {known, image.format} != {"JPEG", "MPO"}:
        add(("image-extension", f"a {image.format} file called {os.path.splitext(path)[1] or 'without ending'}"))
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a camera's JPEG with a preview inside
        add(("image-animated", f"{image.n_frames} frames"))
    if image.mode == "CMYK":
        add(("image-cmyk", "CMYK"))


def _decode(image: Image.Image) -> None:
    try:
        image.draft("RGB", (1, 1))  # a JPEG: all of its data is read, and only every eighth pixel is made
        image.crop((0, 0, 1, 1)).convert("RGB")  # decodes all of it, and shows whether there is a way to RGB
    except Exception as error:  # as above
        cut = any(word in str(error).lower() for word in ("truncated", "unexpected end", "not enough", "eof"))
        kind = "image-truncated" if cut else "image-unreadable"
        raise Refused(kind, f"{type(error).__name__}: {error}") from error


def _judge_content(image: Image.Image, picture: Picture) -> None:
    add = picture.problems.append
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF data: training never looks at it
        orientation = 1
    if orientation in range(2, 9):
        add(("image-rotated", f"EXIF orientation {orientation}"))
    if image.mode in DEEP_MODES or image.mode.startswith("I;16"):
        lowest, highest = image.getextrema()
        if image.mode == "F" or highest > 255 or lowest < 0:
            add(("image-deep", f"mode {image.mode}, values from {lowest:g} to {highest:g}"))
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
        add(("image-transparent", f"mode {image.mode} with transparent pixels"))


def resolve(image: Any, media_dir: str) -> str | bytes:
    """Return the path or the bytes that training opens.

    A path is looked for in `media_dir`, then where it says; one inside an object ({"path": ...}) only where it says.
    Where training would find neither, it is what stands in `media_dir`, to say what is wrong with that.
    """
    if isinstance(image, dict):
        return image["bytes"] if image.get("bytes") is not None else str(image.get("path"))
    if isinstance(image, bytes):
        return image
    if no_path(image):
        return image
    inside = os.path.join(media_dir, image)
    no_file_but_there = os.path.lexists(inside) and not os.path.lexists(image)
    return inside if os.path.isfile(inside) or no_file_but_there else image
