"""Options that several commands share, described once, and what is said of those that do not fit together."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from .errors import DataError


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
Report = Annotated[Path | None, typer.Option(help="also write the report as JSON here", show_default=False)]
# Of commands that read questions of any shape.
ImageDir = Annotated[
    Path | None, typer.Option(help="where images from inside the data go (default: OUTPUT_images)", show_default=False)
]
Split = Annotated[str, typer.Option(help="split of a folder or hub data set")]
Config = Annotated[str, typer.Option(help="configuration of a hub data set")]
Limit = Annotated[int | None, typer.Option(min=1, help="read so many rows only", show_default=False)]
Strict = Annotated[bool, typer.Option("--strict", help="stop at a row that cannot be understood")]
# Of commands that make pairs.
Pairs = Annotated[Literal["best-worst", "all", "adjacent"], typer.Option(help="which answers make a pair, see above")]
MaxPerQuestion = Annotated[
    int | None, typer.Option(min=1, help="of more pairs, a sample that --seed decides", show_default=False)
]
# Of commands that ask a model.
Backend = Annotated[Literal["transformers", "vllm"], typer.Option(help="what runs a model's folder")]
Device = Annotated[str, typer.Option(help="cuda, cuda:1, cpu, ...", show_default="a GPU if there is one")]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
ImageMaxPixels = Annotated[
    int, typer.Option(min=1, help="larger images are scaled down, as in training", show_default="768*768")
]
ImageMinPixels = Annotated[int, typer.Option(min=1, help="smaller ones up", show_default="32*32")]
# Of those that may ask an endpoint.
Endpoint = Annotated[
    str | None, typer.Option(help="address of a chat endpoint, such as http://localhost:8000/v1", show_default=False)
]
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


def refuse_odd(context: typer.Context, rules: Iterable[tuple[object, Iterable[str], str]]) -> None:
    """Refuse options that are given and mean nothing beside the others.

    Args:
        context: of the command.
        rules: whether a rule holds here, names of parameters that it forbids, and why.

    Raises:
        DataError: such an option is given.
    """
    for holds, names, reason in rules:
        odd = [name for name in names if is_given(context, name)]
        if holds and odd:
            raise DataError(", ".join(f"--{name.replace('_', '-')}" for name in odd) + f": {reason}")


def is_given(context: typer.Context, name: str) -> bool:
    """Tell whether a parameter was given and is not only its default."""
    return context.get_parameter_source(name).name != "DEFAULT"


@contextmanager
def importing(endpoint: str | None) -> Iterator[None]:
    """Say where packages come from that a model or an endpoint needs (DataError: one is not installed)."""
    try:
        yield
    except ImportError as error:
        what = "--endpoint needs openai" if endpoint else "--model needs torch and transformers"
        raise DataError(f"{what} ({error}). `bash scripts/setup.sh` makes an environment with them.") from error
