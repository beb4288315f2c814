"""A folder of nasty image files and a list of nasty rows, each with what a check has to say about it."""

import copy
import os
import time
from pathlib import Path
from typing import Any

from PIL import Image


def write_images(folder: Path) -> dict[str, set[str]]:
    """Make the files, and return the kinds of findings that are due for each name."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.effect_noise((120, 90), 80).convert("RGB")
    due: dict[str, set[str]] = {"missing.png": {"image-missing"}, "": {"image-not-a-file"}}
    for name, make in _FILES.items():
        due[name] = make(folder / name, picture)
    return due


def write_unnameable(folder: Path) -> str:
    """Make a good image whose file name is not UTF-8; return the name as Python has it, with half a surrogate pair."""
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (64, 64)).save(folder / name)
    return name


def _part(keep: float):
    def make(path: Path, picture: Image.Image) -> set[str]:
        picture.save(path)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * keep)])
        return {"image-truncated"}

    return make


def _bytes(data: bytes, kind: str):
    def make(path: Path, picture: Image.Image) -> set[str]:
        path.write_bytes(data)
        return {kind}

    return make


def _blank(mode: str, size: tuple[int, int], *kinds: str, colour: Any = 0, **options: Any):
    def make(path: Path, picture: Image.Image) -> set[str]:
        Image.new(mode, size, colour).save(path, **options)
        return set(kinds)

    return make


def _wrong_extension(path: Path, picture: Image.Image) -> set[str]:
    picture.save(path, "JPEG")
    return {"image-extension"}


def _folder(path: Path, picture: Image.Image) -> set[str]:
    path.mkdir()
    return {"image-not-a-file"}


def _pipe(path: Path, picture: Image.Image) -> set[str]:
    os.mkfifo(path)  # opening it would wait for ever
    return {"image-not-a-file"}


def _loop(path: Path, picture: Image.Image) -> set[str]:
    path.symlink_to(path.with_name("loop-back.png"))
    path.with_name("loop-back.png").symlink_to(path)
    return {"image-missing"}


def _broken_link(path: Path, picture: Image.Image) -> set[str]:
    path.symlink_to("nowhere.png")
    return {"image-missing"}


def _cmyk(path: Path, picture: Image.Image) -> set[str]:
    picture.convert("CMYK").save(path)
    return {"image-cmyk"}


def _animated(path: Path, picture: Image.Image) -> set[str]:
    frames = [picture.rotate(90 * turn) for turn in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return {"image-animated"}


def _rotated(path: Path, picture: Image.Image) -> set[str]:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(path, exif=exif)
    return {"image-rotated"}


def _transparent(path: Path, picture: Image.Image) -> set[str]:
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    picture.save(path)
    return {"image-transparent"}


def _palette(path: Path, picture: Image.Image) -> set[str]:
    picture.convert("RGB").quantize(16).save(path, transparency=0)
    return {"image-transparent"}


_FILES = {
    "truncated.png": _part(0.6),
    "truncated.jpg": _part(0.5),
    "head-only.png": _bytes(b"\x89PNG\r\n\x1a\n", "image-unreadable"),
    "zero.png": _bytes(b"", "image-empty"),
    "page.png": _bytes(b"<html>404 Not Found</html>", "image-unreadable"),
    "jpeg-called.png": _wrong_extension,
    "one-pixel.png": _blank("RGB", (1, 1), "image-tiny"),
    "bomb.png": _blank("1", (20_000, 20_000), "image-too-large"),
    "huge.png": _blank("1", (20_000, 8_000), "image-huge"),
    "strip.png": _blank("1", (20_000, 40), "image-squashed"),
    "thread.png": _blank("1", (2_000_000, 1), "image-too-thin"),
    "cmyk.jpg": _cmyk,
    "animated.gif": _animated,
    "animated.webp": _animated,
    "rotated.jpg": _rotated,
    "transparent.png": _transparent,
    "palette.png": _palette,
    "sixteen.png": _blank("I;16", (64, 64), "image-deep", colour=40_000),
    "loop.png": _loop,
    "broken-link.png": _broken_link,
    "folder.png": _folder,
    "pipe.png": _pipe,
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


def rows_with(good: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a row with some columns changed."""
    row = copy.deepcopy(good) | changes
    return {name: value for name, value in row.items() if value is not ABSENT}


def work(item: Any) -> Any:
    """End the process, hang it, or double the item."""
    if item == "die":
        os._exit(11)
    if item == "hang":
        time.sleep(1000)
    return item * 2
