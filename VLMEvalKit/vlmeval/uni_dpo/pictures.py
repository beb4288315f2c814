"""A benchmark's pictures, on the disk as its file has them.

VLMEvalKit names a row's picture after its index and takes whatever lies there already, be it of an older file; it
writes JPEG (2025) or PNG (2026), so that two of its versions show a model different pictures; and it cannot write some
kinds, such as CMYK. Here the bytes of the file are kept, under a name made of them, and turned into RGB on reading, as
in training. The name ends in .png whatever they are: VLMEvalKit wants the ending of a picture, Pillow looks inside.
"""

import base64
import hashlib
import io
import os
from pathlib import Path
from typing import Any

from PIL import Image

from ..dataset.image_base import ImageBaseDataset
from ..smp import LMUDataRoot
from . import RunError


UNPACKED = 1 << 30  # bytes; larger TSVs are


def keep_as_written(dataset: Any) -> None:
    """Let a data set write its pictures our way, unless its class has a way of its own."""
    if type(dataset).dump_image is not ImageBaseDataset.dump_image:
        return
    theirs = dataset.dump_image
    folder = Path(LMUDataRoot()) / "images" / "uni_dpo" / dataset.dataset_name

    def dump_image(row: Any) -> list[str]:
        if "image" not in row:
            return theirs(row)  # the row names files, which are read from where they are
        pictures = row["image"] if isinstance(row["image"], list) else [row["image"]]
        try:
            return [str(write(text, folder)) for text in pictures]
        except (ValueError, OSError) as error:  # of which Pillow's and base64's errors are kinds
            raise ValueError(f"the picture of index {row['index']} cannot be read: {error}") from error

    dataset.dump_image = dump_image


def write(text: str, folder: Path) -> Path:
    """Write a picture in base64 to the disk, if it is not there, and return where it is.

    Raises:
        ValueError: It is no picture.
        OSError: It is not a whole one.
    """
    content = decoded(text)
    name = f"{hashlib.sha256(content).hexdigest()[:40]}.png"
    path = folder / name
    if path.is_file():
        return path
    with Image.open(io.BytesIO(content)) as picture:
        picture.convert("RGB")  # reads all of it, so that half a picture is noticed here and not in a batch
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".{name}.{os.getpid()}"
    scratch.write_bytes(content)
    os.replace(scratch, path)
    return path


def decoded(text: str) -> bytes:
    """Return the bytes of a picture in base64, with or without the head of a data URI.

    Raises:
        ValueError: There is none.
    """
    content = base64.b64decode(text.rpartition(",")[2] if text.startswith("data:") else text)
    if not content:
        raise ValueError("there is no picture")
    return content


def require_own_copy(name: str) -> None:
    """Refuse the copy that VLMEvalKit made of a large TSV when the TSV has changed since.

    It unpacks such a file once, into `images/NAME` and `NAME_local.tsv`, and never looks at it again.

    Raises:
        RunError: The copy is older.
    """
    path, copy = (Path(LMUDataRoot()) / f"{name}{end}.tsv" for end in ("", "_local"))
    if not (path.is_file() and copy.is_file()) or path.stat().st_size <= UNPACKED:
        return
    if copy.stat().st_mtime < path.stat().st_mtime:
        raise RunError(
            f"data set {name}: VLMEvalKit would read {copy}, which is older than {path}\n"
            f"  remove it, and {path.parent / 'images' / name} with the pictures of it"
        )
