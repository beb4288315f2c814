#!/usr/bin/env python
"""Make the image paths of the published pairs those of this machine; `uni_dpo/data.py paths` can do more."""

import sys
from pathlib import Path
from typing import Annotated

import typer


sys.path.insert(0, str(Path(__file__).resolve().parent / "uni_dpo"))

from pair_data.cli import help_of, main  # noqa: E402
from pair_data.paths import print_report, rewrite_paths  # noqa: E402
from pair_data.sources import open_source  # noqa: E402
from pair_data.writing import keeping_original, require_new_name  # noqa: E402


def change(
    input_file: Annotated[Path, typer.Option("--input_file", "--input-file", help="the downloaded pairs")],
    image_dir: Annotated[Path, typer.Option("--image_dir", "--image-dir", help="folder with MM-RLHF, or MM-RLHF")],
    output_file: Annotated[
        Path | None,
        typer.Option("--output_file", "--output-file", help="the file to write (default: the input file itself)"),
    ] = None,
) -> None:
    r"""Make the image paths of the published pairs those of this machine.

    \b
    python scripts/change_data_image_path.py \
      --input_file data/uni_dpo_image_only_mcq_short_long_50k.json --image_dir data

    Files are .json, .jsonl or .parquet. Without --output_file the input file is replaced in one step, and what it was
    is kept beside it, as NAME.original.json; one that is there already stays. More options: uni_dpo/data.py paths.
    """
    source = open_source(str(input_file))
    if output_file is not None:
        require_new_name(output_file, [input_file])
        print_report(rewrite_paths(source, output_file, image_dir), output_file)
        return
    with keeping_original(input_file) as original:
        report = rewrite_paths(source, input_file, image_dir)
    print_report(report, input_file)
    print(f"As it was: {original}")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command(help=help_of(change), no_args_is_help=True)(change)


if __name__ == "__main__":
    main(app)
