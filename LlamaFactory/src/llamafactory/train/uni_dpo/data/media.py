"""Naming the image or video that was there when the data was read, and is not when its batch is made."""

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from PIL import Image

from ..errors import UniDPOError
from .scores import NO_ROW


def refuse_unreadable(features: list[dict[str, Any]], dataset_names: Sequence[Sequence[str]]) -> None:
    """Look for a file that cannot be read among those of a batch; return if there is none.

    Args:
        features: pairs, as they are collated.
        dataset_names: lists of data sets, in each of which the place of a pair's data set may be.

    Raises:
        UniDPOError: there is one.
    """
    for feature in features:
        media = [(item, _check_image) for item in feature.get("images") or []]
        media += [(item, _check_file) for kind in ("videos", "audios") for item in feature.get(kind) or []]
        for item, check in media:
            path = item.get("path") if isinstance(item, dict) and item.get("bytes") is None else item
            if not isinstance(path, (str, os.PathLike)):
                continue  # held by the data set itself, which has been read
            try:
                check(path)
            except Exception as error:  # Pillow has many
                words = getattr(error, "strerror", None) or str(error).partition("\n")[0]
                raise UniDPOError(
                    f"{_place(feature, dataset_names)}: {os.path.abspath(path)} cannot be read any more: {words}. "
                    "Put it back as it was; the same command then goes on from the last checkpoint."
                ) from error


def _check_image(path: str) -> None:
    with Image.open(path) as image:
        image.load()


def _check_file(path: str) -> None:
    with open(path, "rb") as file:
        file.read(1)


def _place(feature: dict[str, Any], dataset_names: Sequence[Sequence[str]]) -> str:
    with suppress(KeyError):  # only runs with scores keep them
        position, row = feature["pair_dataset"], feature["pair_row"]
        # Whether this is training or evaluation data is not known here, and mostly there is only one.
        names = dict.fromkeys(f'"{names[position]}"' for names in dataset_names if position < len(names))
        return f"Data set {' or '.join(names)}, " + ("a row" if row == NO_ROW else f"row {row} (the first is 0)")
    return "A pair"
