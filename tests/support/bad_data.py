"""Image files and rows with every fault there is, each with what a check has to say about it."""

import copy
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image


def write_images(folder: Path) -> dict[str, str]:
    """Make the files, and return the kind of finding that is due for each name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (_, make) in IMAGES.items():
        make(folder / name, Image.effect_noise((120, 90), 80).convert("RGB"))
    due = {name: kind for name, (kind, _) in IMAGES.items()}
    return {"missing.png": "image-missing", "": "image-not-a-file"} | due


def write_unnameable(folder: Path) -> str:
    """Make a good image whose file name is not UTF-8; return the name as Python has it, with half a surrogate pair."""
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (64, 64)).save(folder / name)
    return name


def oriented(orientation: int) -> Image.Exif:
    """Return EXIF data that say how a camera was held."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


Make = Callable[[Path, Image.Image], Any]


def _part(keep: float) -> Make:
    def make(path: Path, picture: Image.Image) -> None:
        picture.save(path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])

    return make


def _blank(mode: str, size: tuple[int, int], colour: Any = 0) -> Make:
    return lambda path, _: Image.new(mode, size, colour).save(path)


def _animated(path: Path, picture: Image.Image) -> None:
    picture.save(path, save_all=True, append_images=[picture.rotate(90), picture.rotate(180)])


def _loop(path: Path, picture: Image.Image) -> None:
    path.symlink_to(path.with_name("loop-back.png"))
    path.with_name("loop-back.png").symlink_to(path)


def _transparent(path: Path, picture: Image.Image) -> None:
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    picture.save(path)


IMAGES: dict[str, tuple[str, Make]] = {
    "truncated.png": ("image-truncated", _part(0.6)),
    "truncated.jpg": ("image-truncated", _part(0.5)),
    "head-only.png": ("image-unreadable", lambda path, _: path.write_bytes(b"\x89PNG\r\n\x1a\n")),
    "zero.png": ("image-empty", lambda path, _: path.write_bytes(b"")),
    "page.png": ("image-unreadable", lambda path, _: path.write_bytes(b"<html>404 Not Found</html>")),
    "jpeg-called.png": ("image-extension", lambda path, picture: picture.save(path, "JPEG")),
    "one-pixel.png": ("image-tiny", _blank("RGB", (1, 1))),
    "bomb.png": ("image-too-large", _blank("1", (20_000, 20_000))),
    "huge.png": ("image-huge", _blank("1", (9_000, 7_500))),
    "strip.png": ("image-squashed", _blank("1", (20_000, 40))),
    "thread.png": ("image-too-thin", _blank("1", (2_000_000, 1))),
    "cmyk.jpg": ("image-cmyk", lambda path, picture: picture.convert("CMYK").save(path)),
    "animated.gif": ("image-animated", _animated),
    "animated.webp": ("image-animated", _animated),
    "rotated.jpg": ("image-rotated", lambda path, picture: picture.save(path, exif=oriented(6))),
    "transparent.png": ("image-transparent", _transparent),
    "palette.png": ("image-transparent", lambda path, picture: picture.quantize(16).save(path, transparency=0)),
    "sixteen.png": ("image-deep", _blank("I;16", (64, 64), 40_000)),
    "loop.png": ("image-missing", _loop),
    "broken-link.png": ("image-missing", lambda path, _: path.symlink_to("nowhere.png")),
    "folder.png": ("image-not-a-file", lambda path, _: path.mkdir()),
    "pipe.png": ("image-not-a-file", lambda path, _: os.mkfifo(path)),  # opening it would wait for ever
}

# What is changed in a good row, and the kind of finding that is due. ABSENT removes the column.
ABSENT = object()
CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"score_chosen": None}, "score-missing"),
    ({"score_chosen": ABSENT}, "score-missing"),
    ({"score_rejected": float("nan")}, "score-not-finite"),
    ({"score_chosen": float("inf")}, "score-not-finite"),
    ({"score_chosen": 1e39}, "score-not-finite"),  # in float32, which training uses
    ({"score_chosen": 2.0, "score_rejected": 2.0}, "score-equal"),
    ({"score_chosen": 1.0, "score_rejected": 2.0}, "score-reversed"),
    ({"instruction": ""}, "question-empty"),
    ({"instruction": " \n"}, "question-empty"),
    ({"instruction": None}, "question-empty"),
    ({"instruction": "<image>\n"}, "question-only-images"),
    ({"chosen": ""}, "answer-empty"),
    ({"rejected": "\t \n"}, "answer-empty"),
    ({"rejected": None}, "answer-missing"),
    ({"chosen": "The same.", "rejected": "The same."}, "answers-identical"),
    ({"chosen": "The same.", "rejected": "The same. "}, "answers-identical"),
    ({"instruction": "No picture?"}, "image-count"),
    ({"instruction": "<image><image>Two pictures?"}, "image-count"),
    ({"images": []}, "image-count"),
    ({"images": None}, "image-count"),
    ({"chosen": "It is <image> that."}, "placeholder-in-answer"),
    ({"instruction": "<image>And <video>?"}, "media-count"),
    ({"chosen": "A <|image_pad|> of it."}, "media-token"),
    ({"chosen": "A <|AUDIO|> of it."}, "media-token"),
    ({"system": "See <|vision_start|>."}, "media-token"),
    ({"chosen": "Yes.<|im_end|>"}, "special-token"),
    ({"system": "You get an <image>."}, "placeholder-elsewhere"),
]
# Lines that are no good rows.
LINES = [
    (b'{"instruction": "cut', "row-unreadable"),
    *((line, "row-not-object") for line in (b"[1, 2]", b"3", b"null")),
    (b'{"chosen": "caf\xe9"}', "row-unreadable"),
    (b'{"chosen": "caf\\ud800"}', "text-not-unicode"),
]


def rows_with(good: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a row with some columns changed."""
    row = copy.deepcopy(good) | changes
    return {name: value for name, value in row.items() if value is not ABSENT}


def work(item: Any) -> Any:
    """End the process, hang it, or double the item."""
    if str(item).startswith("die"):
        os._exit(11)
    if item == "hang":
        time.sleep(1000)
    return item * 2
