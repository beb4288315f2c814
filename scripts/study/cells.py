"""One cell: train it with LlamaFactory in this process, and measure what came of it."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from .conditions import dataset_name
from .course import EVAL_EVERY, course_of
from .measure import benchmark, examine, training_log
from .methods import uses_reference
from .plan import Cell, Size
from .seeds import RECIPE, VAL_PAIRS, shared_options


def run_cell(cell: Cell, home: Path, size: Size, scratch: Path) -> dict[str, Any]:
    """Train and measure.

    Args:
        cell: what to do.
        home: the folder that `seeds.prepare` has filled for the cell's seed.
        size: how much to ask.
        scratch: a folder for the run, removed afterwards.

    Returns:
        "val", "test" (our exam), "vlmeval" or "course", as the cell's measure says; "train", the last metrics of
        training; "seconds". A run that ended in numbers that are not finite is {"diverged": its message}.
    """
    from llamafactory.train.uni_dpo.errors import NonFiniteError

    started = time.perf_counter()
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        measured = _measured(cell, home, size, scratch)
    except NonFiniteError as error:
        measured = {"diverged": str(error).split(". ")[0]}
    finally:
        shutil.rmtree(scratch)
    return {**measured, "seconds": round(time.perf_counter() - started, 1)}


def _measured(cell: Cell, home: Path, size: Size, scratch: Path) -> dict[str, Any]:
    model, measured = home / "start", {}
    if cell.options:
        model = _train(cell, home, scratch / "model")
        measured["train"] = training_log(model)
    if cell.measure == "course":
        measured["course"] = course_of(model, home / "start", size, cell.seed)
    elif cell.measure == "val":
        measured["val"] = examine(model, "val", size, cell.seed)
    else:
        measured["test"] = examine(model, "test", size, cell.seed)
        measured["vlmeval"] = benchmark(model, home / "benchmarks", scratch / "eval")
    return measured


def _train(cell: Cell, home: Path, out: Path) -> Path:
    from llamafactory.train.tuner import run_exp

    options = {
        **yaml.safe_load(RECIPE.read_text(encoding="utf-8")),
        **shared_options(home, dataset_name(cell.condition)),
        "output_dir": str(out),
        "seed": 42 + cell.seed,
        **dict(cell.options),
    }
    if cell.measure == "course":
        options |= {
            "eval_dataset": VAL_PAIRS,
            "eval_strategy": "steps",
            "eval_steps": EVAL_EVERY,
            "eval_on_start": True,
        }
        options |= {"save_strategy": "epoch", "save_only_model": True}
        options |= {"uni_dpo_log_pairs": True} if options["pref_loss"] == "uni_dpo" else {}
    if cell.measure == "course" or not uses_reference(options):
        del options["uni_dpo_reference_cache"]  # validation pairs are not in it; without a reference it is refused
    torch.set_grad_enabled(True)  # VLMEvalKit, which an earlier cell may have imported, switches gradients off
    run_exp(options)
    # transformers 4 writes a config.json that 5 misreads; the architecture is unchanged.
    for folder in (out, *out.glob("checkpoint-*")):
        shutil.copy(home / "start" / "config.json", folder / "config.json")
    return out


def describe(cell: Cell) -> str:
    """A cell in words, for logs."""
    return f"{cell.key}: seed {cell.seed}, {cell.condition}, {json.dumps(dict(cell.options))}"
