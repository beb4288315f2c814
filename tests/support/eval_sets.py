"""Small benchmarks as VLMEvalKit has them, a config for them, and what runs leave."""

import base64
import io
import json
import random
from pathlib import Path
from typing import Any

import pandas as pd
from pairs import ROOT
from PIL import Image


DEMO = ROOT / "data" / "demo" / "checkpoint"  # its answers mean something
MCQ, YORN, VQA = "ImageMCQDataset", "ImageYORNDataset", "ImageVQADataset"
SETS = {
    "Tiny_MCQ": {"class": MCQ, "dataset": "Tiny_MCQ"},
    "Tiny_YORN": {"class": YORN, "dataset": "Tiny_YORN"},
    "Tiny_ChartQA": {"class": VQA, "dataset": "Tiny_ChartQA"},
}


def picture(seed: int, mode: str = "RGB", kind: str = "PNG") -> str:
    """A picture of noise, as base64."""
    pixels = random.Random(seed).randbytes(3 * 84 * 56)
    image = Image.frombytes("RGB", (84, 56), pixels)
    image = Image.frombytes("I;16", (84, 56), pixels[: 2 * 84 * 56]) if mode == "I;16" else image.convert(mode)
    content = io.BytesIO()
    image.save(content, kind)
    return base64.b64encode(content.getvalue()).decode()


def rows(count: int = 4, first: int = 0, **columns: Any) -> list[dict[str, Any]]:
    """Rows of a benchmark; a column's value is the same for all, or one for each."""
    return [
        {"index": i, "question": f"What is it?{' Say.' * (i % 5)}", "image": picture(first + i)}
        | {name: value[i] if isinstance(value, list | tuple) else value for name, value in columns.items()}
        for i in range(count)
    ]


def write(folder: Path, name: str, table: list[dict[str, Any]]) -> None:
    """Write one benchmark."""
    folder.mkdir(exist_ok=True)
    pd.DataFrame(table).to_csv(folder / f"{name}.tsv", sep="\t", index=False)


def write_sets(folder: Path, count: int = 6) -> Path:
    """Write those of `SETS`."""
    rng = random.Random(3)
    letters, yes_no = ([rng.choice(pair) for _ in range(count)] for pair in ("AB", ("Yes", "No")))
    write(folder, "Tiny_MCQ", rows(count, A="one", B="two", answer=letters, category="all"))
    write(folder, "Tiny_YORN", rows(count, answer=yes_no, category="all"))
    write(folder, "Tiny_ChartQA", rows(count, answer=str(["12"]), split="human"))
    return folder


def write_config(path: Path, model: Path, sets: dict[str, dict] = SETS, **options: Any) -> Path:
    """Write a config for run.py and for our command, with one model, `tiny`."""
    entry = {"class": "UniDPOVLM", "model_path": str(model), "max_new_tokens": 8} | options
    path.write_text(json.dumps({"model": {"tiny": entry}, "data": sets}))
    return path


def table_of(work: Path, data: str, name: str = "tiny") -> pd.DataFrame:
    """Read a prediction file, each cell as it is written."""
    path = next(work.rglob(f"{name}_{data}.xlsx"))
    return pd.read_excel(path, dtype=str, keep_default_na=False)


def predictions(work: Path, name: str = "tiny", sets: Any = SETS) -> dict[str, list[str]]:
    """Return the prediction column of each data set."""
    return {data: list(table_of(work / name, data, name)["prediction"]) for data in sets}


def metrics(work: Path, name: str = "tiny") -> dict[str, str]:
    """Return the contents of the metric files."""
    return {path.name: path.read_text() for path in (work / name).glob("*.csv")}
