"""The command `paths`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import DataError
from ..options import Data, DatasetDir, MediaDir
from ..paths import PREFIX, Report, rewrite_paths
from ..sources import Source, open_source
from ..writing import require_new_name


NAME = "paths"


def run(
    data: Data,
    image_dir: Annotated[Path, typer.Option(help="folder on this machine that holds MM-RLHF, or MM-RLHF itself")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="the file to write: .json, .jsonl or .parquet", show_default=False),
    ] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="replace the data's own file instead")] = False,
    prefix: Annotated[str, typer.Option(help="keep paths from this folder on")] = PREFIX,
    missing: Annotated[
        Path | None, typer.Option(help="write every image that is not there to this JSONL file", show_default=False)
    ] = None,
    dataset_dir: DatasetDir = None,
    media_dir: MediaDir = None,
) -> None:
    r"""Make the image paths of somebody else's data those of this machine.

    Of every path in the column of images, the part from the last MM-RLHF/ on is put below --image-dir:

    \b
    python scripts/uni_dpo/data.py paths downloaded.json -o data/uni_dpo/pairs.json --image-dir data/uni_dpo
      /home/them/MM-RLHF/long/1.png  ->  /here/data/uni_dpo/MM-RLHF/long/1.png

    Paths of Windows are understood anywhere. A relative path without the prefix is put below the folder too if the
    file is there; other paths without the prefix are left as they are. Images that cannot be found are counted and
    listed, and the file is written all the same: run it again when they have been downloaded.
    """
    source = open_source(data, dataset_dir, media_dir)
    target = _target(source, output, in_place)
    report = rewrite_paths(source, target, image_dir, prefix, missing)
    print_report(report, target, missing)


def print_report(report: Report, output: Path, missing: Path | None = None) -> None:
    """Say what was done, and warn of images that are not there."""
    print(
        f"{output}: {report.rows} rows; images: {report.rewritten} rewritten, {report.right} already right, ", end=""
    )
    print(f"{report.left} left alone. They lie in {report.folder}")
    if not report.missing:
        return
    rest = f"; all of them are in {missing}" if missing else "; data.py paths --missing FILE lists them all"
    print(f"Warning: {report.missing} images are not there{rest}:", file=sys.stderr)
    for entry in report.first_missing:
        print(f"  row {entry['row']}: {entry['image']}", file=sys.stderr)
    if report.missing > len(report.first_missing):
        print("  ...", file=sys.stderr)


def _target(source: Source, output: Path | None, in_place: bool) -> Path:
    if (output is None) != in_place:
        raise DataError("give either --output FILE or --in-place")
    if output is not None:
        require_new_name(output, source.files)
        return output
    if len(source.files) != 1:
        raise DataError(f"{source.name} has {len(source.files)} files; --in-place works on one. Give --output FILE.")
    return source.files[0]
