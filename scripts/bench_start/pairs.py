"""A data set of the published size with pictures, and a tiny model to train on it."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from real_shape import write

from bench_data import rows


# Half of the pictures have one of these sizes, which many collections share; the others have sizes of their own.
COMMON = ((640, 480), (480, 640), (640, 427), (500, 375), (800, 600), (1024, 768), (768, 768), (336, 336))
SIDES = (300, 1200)  # pixels, of the others
TEXTURE = 1600  # pixels a side of the picture that all are cut from
QUALITY = 88  # of JPEG: about 160 KB for 768 x 768


def make(folder: Path, pairs: int, images: int) -> None:
    """Write a model, `pairs` rows as published, and the pictures they show.

    Args:
        folder: gets `model/` and `data/`.
        pairs: how many rows.
        images: distinct pictures among them; rows beyond that show one that was shown before.
    """
    write(folder / "model", small=True, dtype=torch.float32)
    data = folder / "data"
    (data / "images").mkdir(parents=True)
    names = [f"images/{number}.jpg" for number in range(min(images, -(-pairs // rows.PAIRS_PER_IMAGE)))]
    for name, picture in zip(names, _pictures(len(names)), strict=True):
        picture.save(data / name, quality=QUALITY)
    columns = {}
    with (data / "pairs.json").open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows.pairs(pairs)):
            row["images"] = [names[number // rows.PAIRS_PER_IMAGE % len(names)]]
            columns = {"prompt": "instruction"} | {name: name for name in row if name != "instruction"}
            file.write(("," if number else "[") + json.dumps(row) + "\n")
        file.write("]")
    entry: dict[str, Any] = {"file_name": "pairs.json", "ranking": True, "columns": columns}
    (data / "dataset_info.json").write_text(json.dumps({"pairs": entry}), encoding="utf-8")


def _pictures(count: int) -> Iterator[Image.Image]:
    """Cut pictures out of one that compresses as photographs do: smooth, with a little noise."""
    rng, torch_rng = random.Random(0), torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (TEXTURE // 16, TEXTURE // 16, 3), generator=torch_rng, dtype=torch.uint8)
    smooth = Image.fromarray(coarse.numpy()).resize((TEXTURE, TEXTURE), Image.Resampling.BICUBIC)
    noise = torch.randint(0, 256, (TEXTURE, TEXTURE, 3), generator=torch_rng, dtype=torch.uint8)
    texture = Image.blend(smooth, Image.fromarray(noise.numpy()), 0.08)
    for _ in range(count):
        size = rng.choice(COMMON) if rng.random() < 0.5 else (rng.randint(*SIDES), rng.randint(*SIDES))
        left, top = (rng.randrange(TEXTURE - side) for side in size)
        yield texture.crop((left, top, left + size[0], top + size[1]))
