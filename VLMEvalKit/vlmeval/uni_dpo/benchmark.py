"""One benchmark: VLMEvalKit's data set of a config's entry, its rows checked and its pictures those of the file.

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

import pandas as pd
from PIL import Image

from .. import dataset as datasets
from ..dataset.image_base import ImageBaseDataset
from ..smp import LMUDataRoot
from .checks import require_rows
from .errors import UniDPOError, in_context
from .files import replacing
from .reading import as_written


UNPACKED = 1 << 30  # bytes; VLMEvalKit unpacks larger TSVs


def build_dataset(name: str, config: dict[str, Any]) -> Any:
    """Build a data set from a config's entry, or from its name alone if the entry is empty.

    Raises:
        UniDPOError: VLMEvalKit has no such data set, it is of a kind that has no prompts to batch, or it has rows that
            cannot be scored.
    """
    options = dict(config)
    kind = options.pop("class", None)
    if kind is not None and not isinstance(getattr(datasets, str(kind), None), type):
        raise UniDPOError(f"data set {name}: vlmeval.dataset has no class {kind}")
    _require_own_copy(options.get("dataset", name))
    with (
        in_context(f"data set {name} cannot be read", "is its entry in the config right, and its TSV whole?"),
        as_written(kind) as last,
    ):
        dataset = getattr(datasets, kind)(**options) if kind else datasets.build_dataset(name)
    if dataset is None:
        raise UniDPOError(f"data set {name}: VLMEvalKit does not know it, and the folder LMUData has no {name}.tsv")
    if not isinstance(getattr(dataset, "data", None), pd.DataFrame) or "index" not in dataset.data:
        raise UniDPOError(f"data set {name}: vlmeval.dataset.{kind or name} makes no table of questions with an index")
    if dataset.MODALITY == "VIDEO" or dataset.TYPE == "MT":
        raise UniDPOError(
            f"data set {name}: videos and dialogues go through VLMEvalKit's own run.py, with the same class"
        )
    with in_context(f"data set {name} cannot be looked through", "is its TSV whole?"):
        require_rows(name, last[0] if last else None, dataset)
    keep_pictures(dataset)
    return dataset


def _require_own_copy(name: str) -> None:
    """Refuse the copy that VLMEvalKit made of a large TSV when the TSV has changed since.

    It unpacks such a file once, into `images/NAME` and `NAME_local.tsv`, and never looks at it again.
    """
    path, copy = (Path(LMUDataRoot()) / f"{name}{end}.tsv" for end in ("", "_local"))
    if not (path.is_file() and copy.is_file()) or path.stat().st_size <= UNPACKED:
        return
    if copy.stat().st_mtime < path.stat().st_mtime:
        raise UniDPOError(
            f"data set {name}: VLMEvalKit would read {copy}, which is older than {path}\n"
            f"  remove it, and {path.parent / 'images' / name} with the pictures of it"
        )


def keep_pictures(dataset: Any) -> None:
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
            return [str(_written(text, folder)) for text in pictures]
        except (ValueError, OSError) as error:  # of which Pillow's and base64's errors are kinds
            raise ValueError(f"the picture of index {row['index']} cannot be read: {error}") from error

    dataset.dump_image = dump_image


def _written(text: str, folder: Path) -> Path:
    """Write a picture in base64, with or without the head of a data URI, if it is not there; return where it is.

    Raises:
        ValueError: It is no picture.
        OSError: It is not a whole one.
    """
    content = base64.b64decode(text.rpartition(",")[2] if text.startswith("data:") else text)
    if not content:
        raise ValueError("there is no picture")
    path = folder / f"{hashlib.sha256(content).hexdigest()[:40]}.png"
    if not path.is_file():
        with Image.open(io.BytesIO(content)) as picture:
            picture.convert("RGB")  # reads all of it, so that half a picture is found here and not in a batch
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as scratch:
            scratch.write_bytes(content)
    return path


def require_own_files(row: Any) -> None:
    """Refuse a row whose picture would be written elsewhere than into the folder of its data set.

    Raises:
        UniDPOError: Its `index`, or the `image_path` of a picture that the row itself holds, leads out of the folder.
    """
    if "image" not in row:
        return  # pictures are read from where they are, and nothing is written
    paths = row["image_path"] if "image_path" in row else []
    for path in (str(row["index"]), *([paths] if isinstance(paths, str) else paths)):
        parts = str(path).replace(os.sep, "/").split("/")
        if os.path.isabs(str(path)) or ".." in parts or "\0" in str(path):
            raise UniDPOError(f"its picture would go to {str(path)[:100]!r}, out of the folder of its data set")
