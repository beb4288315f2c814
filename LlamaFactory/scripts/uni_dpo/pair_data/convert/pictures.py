"""Images: those inside of the data become files, and paths become such that training finds them."""

import base64
import hashlib
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ..images import BASE64, LONGEST_PATH, ImageError, open_image
from ..writing import whole_file
from .ratings import Unusable


# Training would open these as pictures.
MOVING = ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv .3gp .ogv .mp3 .wav .flac .m4a .ogg .aac".split()


class Pictures:
    """Places images for an output; training looks for relative paths in the output's folder.

    Attributes:
        home: the output's folder.
        folder: where images from inside of the data go.
        written: how many files have been written.
    """

    def __init__(self, output: Path, folder: Path | None = None):
        """Take `output`'s name, less its ending and plus `_images`, for the folder if there is none."""
        self.home = output.resolve().parent
        self.folder = (folder or output.with_name(f"{output.stem}_images")).resolve()
        self.written = 0

    def place(self, image: Any, base: Path | None, prefix: str = "") -> str:
        """Return the path of an image, which becomes a file first if it is none.

        Args:
            image: a path or file:// address, the bytes of a file, these as base64 or a data URI, or a dictionary with
                "bytes" or "path".
            base: where the source's relative paths start, if they start anywhere.
            prefix: what is put before relative paths that do not start with it.

        Raises:
            Unusable: it is on the web, or not an image, or a video or sound.
        """
        if isinstance(image, dict):
            inside = image.get("bytes")
            if not inside and not image.get("path") and image.keys() - {"bytes", "path"}:
                raise Unusable(f"an image that is an object of {', '.join(image)[:99]}: name the one inside")
            image = _decoded(inside) if isinstance(inside, str) and inside else inside or image.get("path")
        if isinstance(image, str):
            image = _from_text(image)
        if isinstance(image, bytes):
            return self._store(image)
        if not isinstance(image, str) or not image:
            raise Unusable("an image that is neither a path nor bytes")
        if image.lower().endswith(tuple(MOVING)):
            raise Unusable("a video or sound file where an image should be", understood=True)
        if image.startswith("file://"):
            image = url2pathname(urlsplit(image).path)
        if "://" in image:
            raise Unusable("an image on the web: download it, training reads files")
        if not os.path.isabs(image) and not image.startswith(prefix):
            image = prefix + image
        return self._found(image, base)

    def _found(self, path: str, base: Path | None) -> str:
        """Make a path absolute if the image is beside its source, where training does not look."""
        if base is None or os.path.isabs(path):
            return path
        beside, inside = base.resolve() / path, self.home / path
        if not os.path.isfile(beside) or (os.path.isfile(inside) and os.path.samefile(beside, inside)):
            return path
        return str(beside)

    def _store(self, data: bytes) -> str:
        """Write a file named by its content, once; folders by the first letters keep them small."""
        try:
            kind = open_image(data).format.lower()
        except ImageError as error:
            raise Unusable("an embedded image that cannot be read") from error
        suffix = {"jpeg": "jpg", "mpo": "jpg", "tiff": "tif"}.get(kind, kind)
        name = hashlib.sha256(data).hexdigest()[:32]
        path = self.folder / name[:2] / f"{name}.{suffix}"
        if not os.path.exists(path):
            with whole_file(path, "wb") as file:
                file.write(data)
            self.written += 1
        return path.relative_to(self.home).as_posix() if path.is_relative_to(self.home) else str(path)


def _from_text(text: str) -> str | bytes:
    """Return the bytes of a file if that is what a text holds; otherwise it is a path, and comes back as it is."""
    long = len(text) > LONGEST_PATH
    if not long and not text.startswith(("data:", *BASE64)):
        return text
    try:
        return _decoded(text)
    except Unusable:
        if long or text.startswith("data:"):
            raise
        return text  # a folder may be called 9j


def _decoded(text: str) -> bytes:
    """Decode base64, with or without what a data URI has before it, line breaks and padding."""
    text = "".join((text.partition(",")[2] if text.startswith("data:") else text).split()).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:
        raise Unusable("an embedded image that is not base64") from error
