"""Try the overlays with every version of upstream that they are meant for, and print the table of the README.

For each pair of an upstream (LlamaFactory 0.9.4 and 0.9.5, ms-vlmeval, and checkouts of yours) and a transformers that
it accepts, this makes an environment, lays the overlay on with the installer, looks for every name of the contract
(tests/support/contract_list.py), and runs: with LlamaFactory two steps with its own loss before and after the overlay,
which have to be bit-equal, two with Uni-DPO on both routes to log-probs, and one of them again from its checkpoint;
with VLMEvalKit two questions to a tiny model, one by one and as a batch.

With --checkpoints it prints another table: checkpoints written under each version of transformers (full with tied and
untied embeddings, LoRA, LoRA with embeddings), read under each by training, resuming, evaluation and scoring, and by
vLLM. A number is the largest difference from what the trained model itself said.
"""

import argparse
import hashlib
import json
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common import ToolError
from install_overlay.kinds import KINDS
from versions.cells import TRANSFORMERS, Cell, cells
from versions.crossing import VERSIONS, cross, crossing_table, holds
from versions.layers import ROOT
from versions.tables import summary, tables
from versions.trials import Trial, make_world


EPILOG = """\
examples:
  .venv/bin/python scripts/versions.py
      LlamaFactory 0.9.4 and 0.9.5, and ms-vlmeval: about a minute for each cell
  .venv/bin/python scripts/versions.py --checkout ~/LLaMA-Factory --checkout ~/VLMEvalKit
      and these checkouts, which are copied and not touched
  .venv/bin/python scripts/versions.py --only llamafactory --llamafactory 0.9.5 --transformers 5.6.0
      one cell
  .venv/bin/python scripts/versions.py --checkpoints --vllm .venv-vllm/bin/python
      checkpoints that cross between versions and to vLLM: about half an hour

Environments are layers over the one that runs this (scripts/setup.sh makes it), with only the packages that differ:
some 0.2 GB each, in outputs/versions. The package index has to be reachable. What has been tried with this very
overlay is not tried again, so an interrupted run goes on where it stopped.

exit codes: 0 every cell works or is refused by name; 1 one fails; 2 wrong arguments.
"""


def main(arguments: list[str] | None = None) -> int:
    """Try all cells, print the tables and return the exit code."""
    options = parser().parse_args(arguments)
    if options.checkpoints:
        return checkpoints(options)
    kinds = [KINDS[name] for name in options.only or KINDS]
    try:
        vlmeval = metadata.version("ms-vlmeval") if KINDS["vlmeval"] in kinds else ""
        checkouts = [path.resolve() for path in options.checkout]
        chosen = cells(kinds, options.llamafactory, checkouts, options.transformers or list(TRANSFORMERS), vlmeval)
    except metadata.PackageNotFoundError:
        print(
            "error: ms-vlmeval is not installed here; scripts/setup.sh does it, or --only llamafactory",
            file=sys.stderr,
        )
        return 2
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    folder = options.folder.resolve()
    make_world(folder / "world")
    results = []
    with tqdm(chosen, unit="cell") as bar:
        for cell in bar:
            bar.set_description(f"{cell.upstream}, transformers {cell.transformers}")
            found = tried(cell, folder, options.again)
            results.append((cell, found))
            bar.write(
                f"{found['state']:8}{cell.upstream}, transformers {cell.transformers} {found['note']}", sys.stderr
            )
    print(f"{tables(results)}\n\n{summary(results)}")
    return int(any(found["state"] == "fails" for _, found in results))


def checkpoints(options: argparse.Namespace) -> int:
    """Print the table of checkpoints and return the exit code."""
    vllm = options.vllm and Path(os.path.abspath(options.vllm))  # not resolved: a link to Python is an environment
    try:
        table = cross(options.folder.resolve(), options.transformers or list(VERSIONS), vllm)
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(crossing_table(table))
    return int(not all(holds(column, seen) for row in table.values() for column, seen in row.items()))


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    wide = argparse.RawDescriptionHelpFormatter
    it = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=wide)
    it.add_argument(
        "--checkout",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="a checkout of LlamaFactory or VLMEvalKit, too; may be given several times",
    )
    it.add_argument(
        "--llamafactory",
        nargs="+",
        default=["0.9.4", "0.9.5"],
        metavar="VERSION",
        help="versions of LlamaFactory on the package index (default: %(default)s)",
    )
    it.add_argument(
        "--transformers",
        nargs="+",
        metavar="VERSION",
        help="versions of transformers; of each minor version the newest that upstream accepts is tried"
        f" (default: {' '.join(TRANSFORMERS)}; with --checkpoints: {' '.join(VERSIONS)})",
    )
    it.add_argument("--checkpoints", action="store_true", help="the table of checkpoints instead")
    it.add_argument(
        "--vllm", type=Path, metavar="PYTHON", help="of an environment with vLLM (scripts/setup.sh --vllm), for that"
    )
    it.add_argument("--only", nargs="+", choices=KINDS, help="one of the two upstreams (default: both)")
    it.add_argument("--again", action="store_true", help="try what has been tried before, too")
    it.add_argument(
        "--folder",
        default=ROOT / "outputs" / "versions",
        type=Path,
        help="where environments go (default: %(default)s)",
    )
    return it


def tried(cell: Cell, folder: Path, again: bool) -> dict[str, Any]:
    """Return what came of a cell, now or when it was last tried with this overlay and this checkout."""
    stamp, note = stamp_of(cell), folder / f"{cell.name}.json"
    if note.is_file() and not again:
        known = json.loads(note.read_text())
        if known.pop("stamp") == stamp:
            return known
    found = Trial(cell, folder / cell.name, folder / "world").outcome()
    scratch = note.with_suffix(".tmp")
    scratch.write_text(json.dumps(found | {"stamp": stamp}, indent=1))
    os.replace(scratch, note)
    return found


def stamp_of(cell: Cell) -> str:
    """Return a hash of all that an outcome depends on: the overlay's code, the contract and a checkout's code."""
    folders = [ROOT / cell.kind.folder / cell.kind.inside.partition("/")[0]]
    folders += [cell.checkout / cell.kind.inside] if cell.checkout else []
    files = [path for folder in folders for path in folder.rglob("*.py")]
    files += [ROOT / "tests" / "support" / name for name in ("contract.py", "contract_list.py", "upstream_names.py")]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
