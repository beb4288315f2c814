"""The command `stats`."""

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from ..errors import DataError
from ..options import Data, DatasetDir, MediaDir


NAME = "stats"


def run(
    data: Data,
    dataset_dir: DatasetDir = None,
    media_dir: MediaDir = None,
    by: Annotated[
        str | None,
        typer.Option(help="column whose values are the subsets (default: the folder of MM-RLHF an image is in)"),
    ] = None,
    eta: Annotated[float, typer.Option(help="steepness of w_qual, uni_dpo_qual_eta in training", min=0)] = 0.7,
    tau_good: Annotated[float, typer.Option(help="threshold of the NLL term, uni_dpo_tau_good in training")] = 2.5,
    model: Annotated[
        str | None, typer.Option(help="count lengths in tokens of this model's tokenizer, not in characters")
    ] = None,
    images: Annotated[bool, typer.Option(help="read sizes of images, of 2,000 at most")] = True,
    out: Annotated[
        Path | None, typer.Option(help="folder for what is written (default: outputs/stats/NAME)", show_default=False)
    ] = None,
) -> None:
    r"""Show what Uni-DPO will do with scored pairs, before a GPU is busy with them.

    Uni-DPO weighs a pair by w_qual = sigmoid(eta * margin), margin being the score of its chosen answer minus that of
    the rejected, and imitates chosen answers that score at least tau_good. Both depend on the scale of the scores: on
    one scale every pair weighs the same, on another only the sign of the margin is left. This command shows scores,
    margins and weights for each subset, ties and reversed pairs, whether longer answers are scored higher, and sizes
    of images; and it suggests eta and tau_good and says why.

    \b
    data.py stats pairs.json
    data.py stats uni_dpo_mm_rlhf --dataset-dir data/uni_dpo --media-dir MM-RLHF
    data.py stats pairs.parquet --by source --eta 0.3 --tau-good 4

    Written are stats.txt (what is shown), stats.json (every number) and stats.png (a picture). Rows without a pair or
    without scores are counted and left out.
    """
    from ..sources import open_source
    from ..stats.page import page
    from ..stats.picture import draw
    from ..stats.report import describe
    from ..writing import whole_file

    if not math.isfinite(eta) or not math.isfinite(tau_good):
        raise DataError("--eta and --tau-good must be finite numbers")
    source = open_source(data, dataset_dir, media_dir)
    folder = out or Path("outputs") / "stats" / Path(source.name).stem
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; --out names a folder")
    report = describe(source, by, eta, tau_good, model, images)
    text = page(report)
    with whole_file(folder / "stats.txt") as file:
        file.write(text)
    with whole_file(folder / "stats.json") as file:
        json.dump(report, file, indent=1, ensure_ascii=False, allow_nan=False)
    with whole_file(folder / "stats.png", "wb") as file:
        draw(report, file)
    print(f"{text}\nWritten to {folder}: stats.txt, stats.json, stats.png")
