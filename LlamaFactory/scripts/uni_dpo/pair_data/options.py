"""Options that several commands share, described once."""

from pathlib import Path
from typing import Annotated, Literal

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
# Of commands that ask an endpoint.
RequestsPerMinute = Annotated[
    float | None, typer.Option(min=0.01, help="the most requests, retries included", show_default="no limit")
]
Concurrency = Annotated[int, typer.Option(min=1, help="requests under way at a time")]
Timeout = Annotated[float, typer.Option(min=0.1, help="seconds until a request has failed")]
Retries = Annotated[int, typer.Option(min=0, help="how often a failed request is sent again")]
RequestFields = Annotated[str, typer.Option(help="further fields of requests, as JSON")]
OnError = Annotated[
    Literal["finish", "skip", "stop"],
    typer.Option(
        help="where one fails: do the rest and write nothing (finish), do the rest and leave it out (skip), end there"
    ),
]
