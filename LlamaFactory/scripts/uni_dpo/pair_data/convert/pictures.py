"""Images: those inside of the data become files, and paths become such that training finds them."""

import base64
import binascii
import hashlib
import io
import os
import warnings
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from ..writing import whole_file
from .question import Unusable


MM_RLHF = "MM-RLHF/"


class Pictures:
    """Places images for an output; training looks for relative paths in the output's folder.

    Attributes:
        home: the output's folder.
        folder: where images from inside of the data go.
        prefix: what is put before relative paths.
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
            image: a path, the bytes of a file, a data URI, or a dictionary with "bytes" or "path".
            base: where the source's relative paths start, if they start anywhere.
            prefix: what is put before relative paths that do not start with it.

        Raises:
            Unusable: it is on the web, or not an image.
        """
        if isinstance(image, dict):
            image = image.get("bytes") or image.get("path")
            image = _decoded(image) if isinstance(image, str) and len(image) > 4096 else image
        if isinstance(image, str) and image.startswith("data:"):
            image = _decoded(image.partition(",")[2])
        if isinstance(image, bytes):
            return self._store(image)
        if not isinstance(image, str) or not image:
            raise Unusable("an image that is neither a path nor bytes")
        if "://" in image:
            raise Unusable("an image on the web: download it, training reads files")
        return self._found(image if os.path.isabs(image) or image.startswith(prefix) else prefix + image, base)

    def _found(self, path: str, base: Path | None) -> str:
        """Make a path absolute if the image is beside its source, and not where training would look."""
        if base is None or os.path.isabs(path) or base.resolve() == self.home or (self.home / path).is_file():
            return path
        beside = base.resolve() / path
        return str(beside) if beside.is_file() else path

    def _store(self, data: bytes) -> str:
        """Write a file named by its content, once; folders by the first letters keep them small."""
        name = hashlib.sha256(data).hexdigest()[:32]
        path = self.folder / name[:2] / f"{name}{_suffix(data)}"
        if not path.exists():
            with whole_file(path, "wb") as file:
                file.write(data)
            self.written += 1
        return path.relative_to(self.home).as_posix() if path.is_relative_to(self.home) else str(path)


def _suffix(data: bytes) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large images are for `check` to report
            kind = Image.open(io.BytesIO(data)).format.lower()
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Unusable("an embedded image that cannot be read") from error
    return {"jpeg": ".jpg", "mpo": ".jpg", "tiff": ".tif"}.get(kind, f".{kind}")


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Unusable("an embedded image that is not base64") from error
