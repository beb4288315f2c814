"""Images, videos and sounds that are given as something else than files: told as what they are."""

from collections.abc import Iterable, Iterator
from typing import Any

from datasets import Value

from .errors import UniDPOError
from .scores import ROW_COLUMN


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
    for column in {getattr(attr, use, None) for use in USES} & set(dataset.column_names or ()):
        if not _has_texts(dataset.features[column]):
            continue
        known = [name for name in (column, ROW_COLUMN) if name in dataset.column_names]
        for row, media in _texts(dataset.select_columns(known), column):
            if what := no_path(media):
                raise UniDPOError(
                    f'Data set "{attr!r}", row {row} (the first is 0), column "{column}": '
                    f"{media[:40]}{'...' if len(media) > 40 else ''} is {what}"
                )


def _has_texts(feature: Any) -> bool:
    """Tell whether a column holds text at some depth; images that `datasets` would decode are left alone."""
    if isinstance(feature, dict):
        return any(map(_has_texts, feature.values()))
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    if inner is not None:
        return _has_texts(inner)
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def _texts(dataset: Any, column: str) -> Iterator[tuple[int, str]]:
    row = -1
    for batch in dataset.iter(ROWS_AT_ONCE):
        for place, media in enumerate(batch[column]):
            row = batch[ROW_COLUMN][place] if ROW_COLUMN in batch else row + 1
            yield from ((row, text) for text in _flat(media))


def _flat(media: Any) -> Iterable[str]:
    if isinstance(media, str):
        yield media
    elif isinstance(media, dict):
        yield from (text for text in media.values() if isinstance(text, str))
    elif isinstance(media, list):
        for item in media:
            yield from _flat(item)
