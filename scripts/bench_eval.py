#!/usr/bin/env python3
"""Rows a second: VLMEvalKit's own loop against the batched runner, on the same checkpoint and rows."""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tabulate import tabulate

from bench_common import spread, surroundings
from common import ROOT, positive, write_json


DEMO = ROOT / "data" / "demo" / "checkpoint"

DESCRIPTION = """\
Measure how many rows a second VLMEvalKit's own loop answers, and how many the batched runner, with one checkpoint.

Both use the same adapter and the same loaded model on the same rows, in turns: loop, runner, loop, runner. Timed is
all that happens between a data set and its answers on the disk: wording prompts, decoding images, generating, writing.
Not timed: imports, loading the model or starting vLLM's engine, building the data set, scoring, and a first turn of
each that warms up. A ratio is the time of the loop by that of the runner after it. Shown are the median of all turns,
the least and the greatest.

VLMEvalKit's loop asks one row at a time, with vLLM too. It drives our adapter, since its own class wants a GPU.
"""

EPILOG = """\
examples:
  .venv/bin/python scripts/bench_eval.py                  the shipped demo checkpoint on questions of the demo world
  .venv-vllm/bin/python scripts/bench_eval.py --vllm      the same with vLLM (bash scripts/setup.sh --vllm)
  .venv/bin/python scripts/bench_eval.py --model saves/my_run --data POPE --rows 500
      a checkpoint of yours on rows of a benchmark that VLMEvalKit downloads

Run it on a machine that does nothing else. It needs the evaluation overlay:
  python3 scripts/install_overlay.py install --for vlmeval --python .venv/bin/python
"""


def main() -> int:
    """Measure and show; returns the exit code."""
    options = _parser().parse_args()
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
    it.add_argument("--model", default=str(DEMO), metavar="DIR", help="checkpoint (default: the shipped demo's)")
    it.add_argument(
        "--data", metavar="NAME", help="data set of VLMEvalKit (default: the demo world's short questions)"
    )
    it.add_argument("--rows", type=positive, default=64, metavar="N", help="its first N rows (default: 64)")
    it.add_argument("--repeats", type=positive, default=5, metavar="N", help="turns that count (default: 5)")
    it.add_argument("--batch-size", type=positive, metavar="N", help="the runner's batch (default: the runner's own)")
    it.add_argument("--max-new-tokens", type=positive, default=32, metavar="N", help="longest answer (default: 32)")
    it.add_argument("--vllm", action="store_true", help="answer with vLLM instead of transformers, both ways")
    it.add_argument("--out", type=Path, metavar="FILE", help="write all times and settings as JSON")
    return it


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Time both ways in turns; return the settings, the seconds of every turn, ratios, and how many answers agree."""
    name, dataset = _rows(options, scratch)
    from vlmeval.uni_dpo.batches import default_batch_size
    from vlmeval.vlm import UniDPOVLM

    model = UniDPOVLM(options.model, max_new_tokens=options.max_new_tokens, use_vllm=options.vllm)
    batch_size = options.batch_size or default_batch_size(model)
    model.answer([model.question([{"type": "text", "value": "Ready?"}])])  # loads the model
    seconds, answers = {"loop": [], "runner": []}, {}
    for turn in range(options.repeats + 1):
        for way in seconds:
            folder = scratch / f"{way}-{turn}"
            folder.mkdir()
            began = time.perf_counter()
            found = by_loop(model, dataset, folder) if way == "loop" else by_runner(model, dataset, folder, batch_size)
            seconds[way].append(time.perf_counter() - began)
            answers[way] = found
    seconds = {way: times[1:] for way, times in seconds.items()}  # the first turn warms up and unpacks the images
    return {
        **surroundings("ms-vlmeval", "vlmeval", "torch", "transformers", "vllm"),
        "model": options.model,
        "backend": "vllm" if options.vllm else "transformers",
        "dtype": model.dtype,
        "max_new_tokens": options.max_new_tokens,
        "data": name,
        "rows": len(dataset.data),
        "batch_size": batch_size,
        "seconds": seconds,
        "ratios": [loop / runner for loop, runner in zip(*seconds.values(), strict=True)],
        "same_answers": sum(loop == runner for loop, runner in zip(*answers.values(), strict=True)),
    }


def _rows(options: argparse.Namespace, scratch: Path) -> tuple[str, Any]:
    """Return the name of the data set and its first rows, as VLMEvalKit reads them."""
    name, entry = options.data, {}
    if name is None:
        from demo.benchmarks import SHORT, data_config, write_benchmarks

        os.environ["LMUData"] = str(scratch / "data")  # where VLMEvalKit looks for data sets
        write_benchmarks(scratch / "data", options.rows)
        name, entry = SHORT, data_config()[SHORT]
    from vlmeval.uni_dpo.runner import build_dataset

    dataset = build_dataset(name, entry)
    dataset.data = dataset.data.iloc[: options.rows].reset_index(drop=True)
    return name, dataset


def by_loop(model: Any, dataset: Any, folder: Path) -> list[str]:
    """Answer as VLMEvalKit's run.py does."""
    from vlmeval.inference import infer_data
    from vlmeval.smp import load

    infer_data(model, "bench", str(folder), dataset, str(folder / "answers.pkl"))
    found = load(str(folder / "answers.pkl"))
    return [found[index] for index in dataset.data["index"]]


def by_runner(model: Any, dataset: Any, folder: Path, batch_size: int) -> list[str]:
    """Answer as `python -m vlmeval.uni_dpo` does."""
    from vlmeval.uni_dpo.batches import answer_all, build_questions, key_of
    from vlmeval.uni_dpo.journal import Journal
    from vlmeval.uni_dpo.ranks import Ranks

    questions = build_questions(model, dataset, quiet=True)
    named = zip(dataset.data["index"], questions, strict=True)
    rows = [(str(index), key_of("", question)) for index, question in named]
    journal = Journal(folder, "bench")
    answer_all(model, questions, rows, journal, Ranks(0, 1), batch_size)
    known = journal.read()
    return [known[row] for row in rows]


def table(result: dict[str, Any]) -> str:
    """Return the result as text."""
    head = (
        f"{result['data']}, {result['rows']} rows, up to {result['max_new_tokens']} tokens, {result['backend']}"
        f" {result['dtype']}, {result['device']}, {result['threads']} threads; loading not counted"
    )
    loop, runner = ([result["rows"] / seconds for seconds in times] for times in result["seconds"].values())
    values = {"rows/s, VLMEvalKit's loop": loop, f"rows/s, batches of {result['batch_size']}": runner}
    lines = [[title, *spread(them).values()] for title, them in {**values, "ratio": result["ratios"]}.items()]
    text = tabulate(lines, ["", "median", "least", "most"], "plain", floatfmt=".2f")
    return f"\n{head}\n{text}\n{result['same_answers']} of {result['rows']} answers are the same"


if __name__ == "__main__":  # vLLM's processes import this file again
    sys.exit(main())
