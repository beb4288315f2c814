"""Videos and sounds: whether training can read them. A video may also be a list of the images that are its frames."""

import os
import time
from typing import Any

import xxhash

from .picture import Picture, Refused, inspect, read_file, resolve


PATIENCE = 20.0  # seconds of decoding after which a file that has no fault so far is let pass
STREAMS = {"videos": "video", "audios": "audio"}


def look(item: tuple[str, Any, str], max_pixels: int, min_pixels: int) -> Picture:
    """Look at an image, a video or a sound; never raises for what is wrong with it.

    Args:
        item: "images", "videos" or "audios", the thing as it is in a row, and the folder that paths start from.
        max_pixels: LlamaFactory's `image_max_pixels`.
        min_pixels: and its `image_min_pixels`.
    """
    use, media, media_dir = item
    if use == "images":
        return inspect((media, media_dir), max_pixels, min_pixels)
    if isinstance(media, list):
        return _look_at_frames([inspect((frame, media_dir), max_pixels, min_pixels) for frame in media])
    picture, path = Picture(), resolve(media, media_dir)
    try:
        picture.digest = xxhash.xxh64_intdigest(read_file(path, "media"))
        _decode(path, STREAMS[use])
    except Refused as refusal:
        picture.problems.append(refusal.problem)
    return picture


def _look_at_frames(frames: list[Picture]) -> Picture:
    """Put together what was seen of the frames of a video; what is a matter of taste in them is passed over."""
    whole = Picture(digest=xxhash.xxh64_intdigest(repr([frame.digest for frame in frames]).encode()))
    bad = [number for number, frame in enumerate(frames) if not frame.width or not frame.digest]
    if bad or not frames:
        kind, message = (frames[bad[0]].problems or [("", "no image")])[-1] if frames else ("", "there are none")
        kind = "media-missing" if kind == "image-missing" else "media-unreadable"
        whole.problems.append((kind, f"frame {bad[0]}: {message}" if bad else f"its frames: {message}"))
    return whole


def _decode(path: str, stream: str) -> None:
    """Decode a file as training does, with PyAV, as far as `PATIENCE` lets it."""
    try:
        import av
    except ImportError:  # then training could not read it either, and says so itself
        return
    start, count = time.monotonic(), 0
    try:
        with av.open(os.fspath(path)) as container:
            found = [one for one in container.streams if one.type == stream]
            if not found:
                raise Refused("media-unreadable", f"there is no {stream} in it")
            for _ in container.decode(found[0]):
                count += 1
                if time.monotonic() - start > PATIENCE:
                    return
    except (av.FFmpegError, OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or error
        raise Refused("media-unreadable", f"{words}, after {count} frames" if count else f"{words}") from error
    if not count:
        raise Refused("media-unreadable", f"not a frame of {stream} in it")
