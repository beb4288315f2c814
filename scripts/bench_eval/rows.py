"""Which model is asked, and which questions."""

import base64
import io
import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from PIL import Image
from real_shape import write

from common import ROOT, write_json
from demo.benchmarks import SHORT, data_config, write_benchmarks


DEMO = ROOT / "data" / "demo" / "checkpoint"
VOCABULARY = 151936  # Qwen2-VL-2B's
SIDE = 448  # pixels, 256 tokens


def random_model(folder: Path) -> Path:
    """Write a small random Qwen2-VL with a real vocabulary, each token of which is a text of its own."""
    write(folder, small=True, vocabulary=VOCABULARY, dtype=torch.float32)
    file = folder / "tokenizer.json"
    known = json.loads(file.read_text(encoding="utf-8"))
    words = known["model"]["vocab"]
    words |= {token["content"]: token["id"] for token in known["added_tokens"]}  # or they would be numbered anew
    taken = set(words.values())
    words |= {f"Ġw{number}": number for number in range(VOCABULARY) if number not in taken}
    write_json(file, known, indent=None)
    return folder


def demo_rows(folder: Path, count: int, side: int | None = None) -> tuple[str, dict[str, str]]:
    """Write short questions about the demo world where VLMEvalKit looks for data sets.

    Args:
        folder: It is told to VLMEvalKit.
        count: Questions, each about a picture of its own.
        side: Pixels to which pictures are enlarged.

    Returns:
        The data set's name and its entry in a config.
    """
    os.environ["LMUData"] = str(folder)
    path = write_benchmarks(folder, count)[SHORT]
    if side:
        table = pd.read_csv(path, sep="\t", dtype=str)
        table["image"] = [_enlarged(image, side) for image in table["image"]]
        table.to_csv(path, sep="\t", index=False)
    return SHORT, data_config()[SHORT]


def _enlarged(text: str, side: int) -> str:
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        larger, png = image.resize((side, side), Image.Resampling.BICUBIC), io.BytesIO()
    larger.save(png, "PNG")
    return base64.b64encode(png.getvalue()).decode()


def chosen(options: Any, scratch: Path) -> tuple[str, str, dict[str, str]]:
    """Return the model's folder, the data set's name and its entry in a config, as the command line asks for them."""
    count = options.rows * (options.repeats + 1)
    model = str(random_model(scratch / "model")) if options.random else options.model or str(DEMO)
    if options.data:
        return model, options.data, {}
    return model, *demo_rows(scratch / "data", count, SIDE if options.random else None)
