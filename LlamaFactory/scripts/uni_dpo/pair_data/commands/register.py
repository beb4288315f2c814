"""The command `register`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..options import DatasetDir
from ..register import register


NAME = "register"


def run(
    name: Annotated[str, typer.Argument(metavar="NAME", help="what training will call the data set")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="pairs in a .json, .jsonl, .csv or .parquet file")],
    dataset_dir: DatasetDir = None,
    replace: Annotated[bool, typer.Option("--replace", help="replace another entry of that name")] = False,
) -> None:
    r"""Describe a data set in dataset_info.json, so that training finds it by a name.

    Without --dataset-dir that is the dataset_info.json beside the file; it is made if there is none, and nothing else
    in it changes. The columns are found out from the file: questions as instruction (with input, history, system) or
    as conversations or messages, the answers chosen and rejected, images, and the scores if there are any.

    \b
    python scripts/uni_dpo/data.py register my_pairs data/uni_dpo/my_pairs.json
      then in the recipe:   dataset: my_pairs
                            dataset_dir: data/uni_dpo
    """
    done = register(name, file, dataset_dir or file.parent, replace)
    columns = ", ".join(done.entry["columns"].values())
    print(f'{done.info}: "{name}" {done.change}, {done.rows} rows in {done.entry["file_name"]}, columns {columns}')
    print(f"In the recipe: dataset: {name}   dataset_dir: {done.info.parent}")
    missing = [side for side in ("score_chosen", "score_rejected") if side not in done.entry["columns"]]
    if missing:
        print(f"Note: there is no {' and no '.join(missing)}; Uni-DPO needs them, data.py score adds them.")
    if done.lost:
        print(f"Note: {done.lost[:200]} is not a file from there: give training the media_dir it starts from.")
    if done.marked:
        print(f"Warning: {done.info} starts with a byte order mark, which LlamaFactory refuses.", file=sys.stderr)
