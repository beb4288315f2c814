#!/usr/bin/env python
"""Make the image paths of the published pairs those of this machine; `data.py paths` can do more."""

from pathlib import Path
from typing import Annotated

import typer

from pair_data.cli import help_of, main
from pair_data.commands.paths import print_report
from pair_data.paths import rewrite_paths
from pair_data.sources import open_source
from pair_data.writing import require_new_name


def change(
    input_file: Annotated[Path, typer.Option("--input_file", "--input-file", help="the downloaded pairs")],
    image_dir: Annotated[Path, typer.Option("--image_dir", "--image-dir", help="folder with MM-RLHF, or MM-RLHF")],
    output_file: Annotated[Path, typer.Option("--output_file", "--output-file", help="the file to write")],
) -> None:
    r"""Make the image paths of the published pairs those of this machine.

    \b
    python scripts/change_data_image_path.py \
      --input_file downloaded/uni_dpo_image_only_mcq_short_long_50k.json \
      --image_dir data/uni_dpo \
      --output_file data/uni_dpo/uni_dpo_image_only_mcq_short_long_50k.json

    Files are .json, .jsonl or .parquet. The input stays as it is. More options: data.py paths --help.
    """
    require_new_name(output_file, [input_file])
    print_report(rewrite_paths(open_source(str(input_file)), output_file, image_dir), output_file)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command(help=help_of(change), no_args_is_help=True)(change)


if __name__ == "__main__":
    main(app)
