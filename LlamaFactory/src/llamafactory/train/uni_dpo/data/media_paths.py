"""Messages for images, videos and sounds that are given as something else than files."""

from collections.abc import Iterator
from typing import Any

from datasets import Value

from ..errors import UniDPOError
from .scores import ROW_COLUMN, row_numbers


USES = ("images", "videos", "audios")
BASE64 = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR")  # what PNG, JPEG, GIF and WebP begin with
LONGEST_PATH = 4096  # characters: no system has longer ones
ROWS_AT_ONCE = 1000
CONVERT = "`python scripts/uni_dpo/data.py convert` makes a data set with files of them."


def no_path(media: str) -> str:
    """Return what a text is that is no path, and what to do about it; "" for what may be one."""
    if media.startswith("data:"):
        return f"a data URI. {CONVERT}"
    if media.startswith("file://"):
        return f"a file:// address, and a path is expected. {CONVERT}"
    if media.startswith(("http://", "https://", "s3://", "gs://", "hf://", "ftp://")):
        return "on the web. Download it, and give the path of the file."
    if len(media) > LONGEST_PATH or (media.startswith(BASE64) and len(media) > 255):
        return f"not a path but, it seems, an image in base64. {CONVERT}"
    return ""


def refuse_no_paths(dataset: Any, attr: Any) -> None:
    """Look at all media that are text.

    Args:
        dataset: a `datasets.Dataset` as it was loaded.
        attr: its description.

    Raises:
        UniDPOError: one is certainly no path.
    """
    for column in {getattr(attr, use, None) for use in USES} & set(dataset.column_names):
        if not _has_texts(dataset.features[column]):
            continue
        rows = dataset[ROW_COLUMN] if ROW_COLUMN in dataset.column_names else row_numbers(dataset)
        for row, media in zip(rows, _items(dataset.select_columns([column]), column), strict=True):
            for text in _texts(media):
                if what := no_path(text):
                    raise UniDPOError(
                        f'Data set "{attr!r}", row {row} (the first is 0), column "{column}": '
                        f"{text[:40]}{'...' if len(text) > 40 else ''} is {what}"
                    )


def _has_texts(feature: Any) -> bool:
    """Tell whether a column holds text at some depth, but for images in bytes, which are many of them and all read."""
    if isinstance(feature, dict):
        kinds = [getattr(part, "dtype", "") for part in feature.values()]
        return not {"binary", "large_binary"} & set(kinds) and any(map(_has_texts, feature.values()))
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    if inner is not None:
        return _has_texts(inner)
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def _items(dataset: Any, column: str) -> Iterator[Any]:
    for batch in dataset.iter(ROWS_AT_ONCE):
        yield from batch[column]


def _texts(media: Any) -> Iterator[str]:
    parts = media.values() if isinstance(media, dict) else media if isinstance(media, list) else ()
    for part in parts:
        yield from _texts(part)
    if isinstance(media, str):
        yield media
