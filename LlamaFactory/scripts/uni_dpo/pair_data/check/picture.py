"""One image, video or sound: whether training can read it, and what it will see."""

import math
import os
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash
from PIL import ExifTags, Image

from ..images import MAX_PIXELS, MIN_PIXELS, PATCH, ImageError, no_path, open_image, scale, stretch
from ..sources import find_media


DECODED = 1 << 26  # pixels: larger images are judged by their header alone, as they would take 256 MB and more
HUGE = 25_000_000  # pixels: from here on decoding takes longer than most of what training does with the image
PLAYED = 20.0  # seconds of decoding after which a video or sound that has no fault so far is let pass
STREAMS = {"videos": "video", "audios": "audio"}


@dataclass
class Seen:
    """What is known of an image, a video or a sound after looking at it.

    Attributes:
        width: of an image in pixels; 0 if it cannot be opened.
        height: likewise.
        digest: of the content; None if there is none.
        problems: kinds of findings, with messages.
    """

    width: int = 0
    height: int = 0
    digest: str | None = None
    problems: list[tuple[str, str]] = field(default_factory=list)


def look(item: tuple[int, str, Any, str], max_pixels: int, min_pixels: int) -> Seen:
    """Look at a `media_index.Item`; never raises for what is wrong with it.

    Args:
        item: its number, its use, what stands in the row, and the folder that paths start from.
        max_pixels: LlamaFactory's `image_max_pixels`.
        min_pixels: and its `image_min_pixels`.
    """
    _, use, medium, media_dir = item
    if use == "images":
        return look_at_image(medium, media_dir, max_pixels, min_pixels)
    if isinstance(medium, list):
        return _look_at_frames([look_at_image(frame, media_dir, max_pixels, min_pixels) for frame in medium])
    seen, path = Seen(), resolve(medium, media_dir)
    try:
        seen.digest = xxhash.xxh64_hexdigest(_read(path, "media"))
        _play(path, STREAMS[use])
    except ImageError as error:
        seen.problems.append((error.kind, str(error)))
    return seen


def look_at_image(image: Any, media_dir: str, max_pixels: int = MAX_PIXELS, min_pixels: int = MIN_PIXELS) -> Seen:
    """Look at an image as it is in a row: a path, bytes, or an object of either."""
    seen, image = Seen(), resolve(image, media_dir)
    try:
        data = image if isinstance(image, bytes) else _read(image, "image")
        seen.digest = xxhash.xxh64_hexdigest(data)
        with open_image(data) as opened:
            seen.width, seen.height = opened.size
            _judge_size(opened.size, scale(*opened.size, max_pixels, min_pixels), seen.problems)
            _judge_header(opened, "" if isinstance(image, bytes) else image, seen.problems)
            if math.prod(opened.size) <= DECODED:
                _decode(opened)
                _judge_content(opened, seen.problems)
    except ImageError as error:
        seen.problems.append((error.kind, str(error)))
    return seen


def resolve(image: Any, media_dir: str) -> str | bytes:
    """Return the path or the bytes that training opens; a path inside an object is looked for only where it says."""
    if isinstance(image, dict):
        return image["bytes"] if image.get("bytes") is not None else str(image.get("path"))
    return image if isinstance(image, bytes) or no_path(image) else find_media(image, media_dir)


def _read(path: str, what: str) -> bytes:
    """Read a file; a pipe or a device, which may never end, is refused, and what is no path.

    Raises:
        ImageError: it cannot be read, or is empty; the kind begins with `what`, "image" or "media".
    """
    if refused := no_path(path):
        raise ImageError(refused[1], refused[0])
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise ImageError("a folder" if stat.S_ISDIR(mode) else "not a regular file", f"{what}-not-a-file")
        data = Path(path).read_bytes()
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError("there is no such file", f"{what}-missing") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{getattr(error, 'strerror', None) or error}", f"{what}-missing") from error
    if not data:
        raise ImageError("the file is empty", f"{what}-empty")
    return data


def _judge_size(size: tuple[int, int], scaled: tuple[int, int], problems: list[tuple[str, str]]) -> None:
    shape = f"{size[0]} x {size[1]} pixels"
    if not min(scaled):
        raise ImageError(f"{shape} become {scaled[0]} x {scaled[1]}", "image-too-thin")
    if stretch(*scaled) != tuple(max(side, PATCH) for side in scaled):
        problems.append(("image-squashed", shape))
    if min(size) < PATCH:
        problems.append(("image-tiny", shape))
    if math.prod(size) > HUGE:
        problems.append(("image-huge", shape + ("" if math.prod(size) <= DECODED else "; not decoded here")))


def _judge_header(image: Image.Image, path: str, problems: list[tuple[str, str]]) -> None:
    ending = os.path.splitext(path)[1]
    known = Image.registered_extensions().get(ending.lower())
    known = {"JPEG2000": "JPEG 2000"}.get(known, known)
    if path and known != image.format and {known, image.format} != {"JPEG", "MPO"}:
        problems.append(("image-extension", f"a {image.format} file called {ending or 'without ending'}"))
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a camera's JPEG with a preview inside
        problems.append(("image-animated", f"{image.n_frames} frames"))
    if image.mode == "CMYK":
        problems.append(("image-cmyk", "CMYK"))


def _decode(image: Image.Image) -> None:
    try:
        image.draft("RGB", (1, 1))  # a JPEG: all of its data is read, and only every eighth pixel is made
        image.crop((0, 0, 1, 1)).convert("RGB")  # decodes all of it, and shows whether there is a way to RGB
    except Exception as error:  # a decoder may raise anything; training would stop with it
        cut = any(word in str(error).lower() for word in ("truncated", "unexpected end", "not enough", "eof"))
        kind = "image-truncated" if cut else "image-unreadable"
        raise ImageError(f"{type(error).__name__}: {error}", kind) from error


def _judge_content(image: Image.Image, problems: list[tuple[str, str]]) -> None:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF data: training never looks at it
        orientation = 1
    if orientation in range(2, 9):
        problems.append(("image-rotated", f"EXIF orientation {orientation}"))
    if is_deep(image):
        lowest, highest = image.getextrema()
        if image.mode == "F" or highest > 255 or lowest < 0:
            problems.append(("image-deep", f"mode {image.mode}, values from {lowest:g} to {highest:g}"))
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
        problems.append(("image-transparent", f"mode {image.mode} with transparent pixels"))


def is_deep(image: Image.Image) -> bool:
    """Return whether a channel has more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _look_at_frames(frames: list[Seen]) -> Seen:
    """Put together what was seen of the frames of a video; what is a matter of taste in them is passed over."""
    whole = Seen(digest=xxhash.xxh64_hexdigest(repr([frame.digest for frame in frames]).encode()))
    bad = next((number for number, frame in enumerate(frames) if not frame.width or not frame.digest), None)
    if not frames:
        whole.problems.append(("media-unreadable", "its frames: there are none"))
    elif bad is not None:
        kind, message = (frames[bad].problems or [("", "no image")])[-1]
        kind = "media-missing" if kind == "image-missing" else "media-unreadable"
        whole.problems.append((kind, f"frame {bad}: {message}"))
    return whole


def _play(path: str, stream: str) -> None:
    """Decode a file as training does, with PyAV, for at most `PLAYED` seconds."""
    try:
        import av
    except ImportError:  # then training could not read it either, and says so itself
        return
    start, count = time.monotonic(), 0
    try:
        with av.open(os.fspath(path)) as container:
            found = [one for one in container.streams if one.type == stream]
            if not found:
                raise ImageError(f"there is no {stream} in it", "media-unreadable")
            for _ in container.decode(found[0]):
                count += 1
                if time.monotonic() - start > PLAYED:
                    return
    except ImageError:
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or error
        raise ImageError(f"{words}, after {count} frames" if count else f"{words}", "media-unreadable") from error
    if not count:
        raise ImageError(f"not a frame of {stream} in it", "media-unreadable")
