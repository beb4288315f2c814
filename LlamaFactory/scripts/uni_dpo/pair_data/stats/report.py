"""The whole of `stats`: read, work out, write."""

import json
import math
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..sources import open_source
from ..writing import whole_file
from .advice import add_advice
from .gather import gather
from .images import measure as measure_images
from .measures import measure
from .page import page
from .picture import draw


def make(
    data: str,
    dataset_dir: Path | None,
    media_dir: Path | None,
    by: str | None,
    eta: float,
    tau_good: float,
    model: str | None,
    with_images: bool,
    out: Path | None,
) -> str:
    """Write stats.txt, stats.json and stats.png, and return what to show.

    Args:
        data: a file, or a name in `dataset_dir`; so are `dataset_dir` and `media_dir` as for `open_source`.
        dataset_dir: see there.
        media_dir: see there.
        by: column whose values are the subsets.
        eta: steepness of w_qual.
        tau_good: threshold of the NLL term.
        model: folder or name of a model whose tokenizer counts lengths.
        with_images: whether to look at images.
        out: folder to write to; None for outputs/stats/ and the name of the data.

    Raises:
        DataError: the data cannot be read, or the options do not fit them.
    """
    if not math.isfinite(eta) or not math.isfinite(tau_good):
        raise DataError("--eta and --tau-good must be finite numbers")
    source = open_source(data, dataset_dir, media_dir)
    folder = out or Path("outputs") / "stats" / Path(source.name).stem
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; --out names a folder")
    found = gather(source, by, load_tokenizer(model) if model else None, with_images)
    report = measure(found, eta, tau_good)
    if with_images:
        report["images"] |= measure_images(found.images, source)
    add_advice(report, found)
    text = page(report)
    _write(folder, report, text)
    return f"{text}\nWritten to {folder}: stats.txt, stats.json, stats.png\n"


def load_tokenizer(model: str) -> Any:
    """Load the tokenizer of a model.

    Raises:
        DataError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"--model {model}: no tokenizer could be loaded ({reason}).") from error


def _write(folder: Path, report: dict[str, Any], text: str) -> None:
    with whole_file(folder / "stats.txt") as file:
        file.write(text)
    with whole_file(folder / "stats.json") as file:
        json.dump(report, file, indent=1, ensure_ascii=False, allow_nan=False)
    with whole_file(folder / "stats.png", "wb") as file:
        draw(report, file)
