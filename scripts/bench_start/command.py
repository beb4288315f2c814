"""The command line that shows where a run's time and memory go."""

import argparse
import multiprocessing
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from bench_common import surroundings
from bench_data.rows import PAIRS_PER_IMAGE, PUBLISHED_ROWS
from bench_start.parts import LATER, ORDER, Part, watch
from common import ROOT, ToolError, positive, write_json


EXAMPLE = ROOT / "examples" / "uni_dpo" / "Qwen2_VL_2B_uni_dpo.sh"
STEPS = 4
OPTIONS = {  # a step of four pairs; every second one is followed by an evaluation and a checkpoint
    **{"max_steps": STEPS, "save_steps": 2, "val_size": 16, "eval_strategy": "steps", "eval_steps": 2},
    "per_device_eval_batch_size": 1,
}
MB = 1e6

DESCRIPTION = """\
Where the time and the memory of a training run go: the example's script, as a user starts it, on as many pairs as
published (50,555) with pictures of up to 1200 pixels a side, a tiny model and four steps of four pairs. It runs twice:
the second time finds what `datasets` has kept of the first. Parts are told apart by what the run prints; memory is of
all its processes, a page that they share counted once. On the GPUs that are there, or on the CPU.
"""
EPILOG = """\
examples:
  python scripts/bench_start.py --pairs 2000                  a first look: some minutes
  python scripts/bench_start.py                               the published size: 3 GB of scratch space
  python scripts/bench_start.py -- dataloader_num_workers=2   with other options of LlamaFactory
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bench-start-", dir=options.scratch) as scratch:
        folder = Path(scratch)
        print(f"making {options.pairs:,} pairs", file=sys.stderr, flush=True)
        images, found = options.images or -(-options.pairs // PAIRS_PER_IMAGE), {}
        # In a process of its own, as torch would take half a gigabyte for as long as the runs last.
        maker = multiprocessing.get_context("spawn").Process(target=_make, args=(folder, options.pairs, images))
        maker.start()
        maker.join()
        if maker.exitcode:
            raise ToolError("the pairs could not be made; the lines above say why")
        for name in ("first", "again"):
            print(f"run: {name}", file=sys.stderr, flush=True)
            found[name] = run(folder, options.settings)
            print(table(found), flush=True)
    runs = {name: {part: asdict(took) for part, took in parts.items()} for name, parts in found.items()}
    about = {"pairs": options.pairs, "settings": options.settings, "runs": runs}
    write_json(options.output, {"machine": surroundings("torch", "transformers", "llamafactory", "datasets")} | about)
    print(f"all numbers: {options.output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    wide = argparse.RawDescriptionHelpFormatter
    it = argparse.ArgumentParser(description=DESCRIPTION, epilog=EPILOG, formatter_class=wide)
    it.add_argument("--pairs", type=positive, default=PUBLISHED_ROWS, metavar="N", help="default: 50555")
    it.add_argument("--images", type=positive, metavar="N", help="distinct pictures (default: one for three pairs)")
    it.add_argument("--scratch", type=Path, metavar="DIR", help="where all is made (default: the system's place)")
    output = ROOT / "outputs" / "bench_start.json"
    it.add_argument("--output", type=Path, default=output, metavar="FILE", help="default: outputs/bench_start.json")
    it.add_argument("settings", nargs="*", metavar="key=value", help="of the training")
    return it


def _make(*args: Any) -> None:
    from bench_start.pairs import make

    make(*args)


def run(folder: Path, settings: list[str]) -> dict[str, Part]:
    """Train once with the example's script and return what its parts took.

    Raises:
        ToolError: the run failed.
    """
    output = folder / "out"
    told = {"MODEL": folder / "model", "DATASET_DIR": folder / "data", "DATA": "pairs", "OUTPUT": output}
    told |= {"GLOBAL_BATCH": 4, "FRESH": 1, "PYTHON": sys.executable, "HF_DATASETS_CACHE": folder / "cache"}
    environment = {"HF_HUB_OFFLINE": "1"} | os.environ | {name: str(value) for name, value in told.items()}
    words = [f"{name}={value}" for name, value in OPTIONS.items()]
    return watch(["bash", str(EXAMPLE), *words, *settings], environment, output)


def table(found: dict[str, dict[str, Part]]) -> str:
    """Return all parts of some runs as a table of Markdown; of later steps, evaluations and savings, one each."""
    head, lines = ["part"], []
    for name in found:
        head += [f"{name}: s", "CPU s", "peak, MB"]
    for part in ORDER:
        line = [part if part != LATER else "a later step"]
        for parts in found.values():
            took = parts.get(part, Part())
            times = max(1, took.times)
            line += [f"{took.seconds / times:.1f}", f"{took.cpu / times:.1f}", f"{took.peak / MB:,.0f}"]
        lines.append(line)
    total = ["all"]
    for parts in found.values():
        sums = [sum(getattr(took, name) for took in parts.values()) for name in ("seconds", "cpu")]
        total += [f"{value:.1f}" for value in sums] + [f"{max(took.peak for took in parts.values()) / MB:,.0f}"]
    align = ["left", *["right"] * (len(head) - 1)]
    return tabulate([*lines, total], head, "github", disable_numparse=True, colalign=align)
