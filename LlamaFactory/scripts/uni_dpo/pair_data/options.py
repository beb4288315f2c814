"""Options that several commands share, described once."""

from pathlib import Path
from typing import Annotated

import typer


Data = Annotated[
    str, typer.Argument(metavar="DATA", help="a .json, .jsonl, .csv or .parquet file, or a name in --dataset-dir")
]
DatasetDir = Annotated[
    Path | None, typer.Option(help="folder whose dataset_info.json describes the data", show_default=False)
]
MediaDir = Annotated[
    Path | None,
    typer.Option(
        help="where image paths start, as in training (default: --dataset-dir, or the file's folder)",
        show_default=False,
    ),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="the file to write: .json, .jsonl or .parquet", show_default=False)
]
