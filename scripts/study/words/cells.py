"""One cell in the world of words: train it with LlamaFactory in this process, and mark its answers by the rule."""

import json
import os
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import yaml

from ..conditions import dataset_name
from ..plan import Cell
from .plan import Size
from .questions import Instruction, instructions
from .rule import RIGHT, points
from .seeds import RECIPE, SAMPLING, TEST_SEED, VAL_SEED, shared_options


AT_ONCE = 30  # questions answered in one batch
LONGEST = int(SAMPLING[SAMPLING.index("--max-tokens") + 1])
SEEDS = {"val": VAL_SEED, "test": TEST_SEED}


def run_cell(cell: Cell, home: Path, size: Size, scratch: Path) -> dict[str, Any]:
    """Train and measure.

    Args:
        cell: what to do.
        home: the folder that `seeds.prepare` has filled for the cell's seed.
        size: how much to ask.
        scratch: an empty folder for the run.

    Returns:
        "val" or "test": mean points, the share of right answers, points by kind, mean length in characters; "train",
        the last metrics of training.

    Raises:
        NonFiniteError: the run ended in numbers that are not finite.
    """
    model, measured = home / "start", {}
    if cell.options:
        model = scratch / "model"
        measured["train"] = _train(cell, home, model)
    return measured | {cell.measure: examine(model, cell.measure, size, cell.seed)}


def _train(cell: Cell, home: Path, out: Path) -> dict[str, float]:
    from llamafactory.train.tuner import run_exp

    options = {
        **yaml.safe_load(RECIPE.read_text(encoding="utf-8")),
        **shared_options(home, dataset_name(cell.condition)),
        "output_dir": str(out),
        "seed": 42 + cell.seed,
        **dict(cell.options),
    }
    if options["pref_loss"] == "simpo":
        del options["uni_dpo_reference_cache"]  # it has no reference
    torch.set_grad_enabled(True)  # VLMEvalKit, which an earlier cell may have imported, switches gradients off
    run_exp(options)
    history = json.loads((out / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    last = [entry for entry in history if "rewards/accuracies" in entry][-3:]
    names = [name for name in last[-1] if name.startswith(("loss", "rewards/acc", "rewards/mar", "logps", "uni_dpo/"))]
    return {name: round(fmean(entry[name] for entry in last), 5) for name in names}


def examine(model: Path, measure: str, size: Size, seed: int) -> dict[str, Any]:
    """Ask held-out instructions and mark the likeliest answers."""
    os.environ.setdefault("LMUData", str(model))  # VLMEvalKit wants a folder of its own; nothing is put there
    from vlmeval.vlm.qwen2_vl.uni_dpo.model import UniDPOVLM

    asked = instructions(measure, getattr(size, measure), SEEDS[measure] + seed)
    asked.sort(key=lambda it: it.kind)  # a batch ends with its longest answer
    adapter = UniDPOVLM(str(model), max_new_tokens=LONGEST, dtype="float32", use_custom_prompt=False)
    answers: list[str] = []
    for start in range(0, len(asked), AT_ONCE):
        messages = [[{"type": "text", "value": it.text}] for it in asked[start : start + AT_ONCE]]
        answers += adapter.answer([adapter.worded(message) for message in messages])
    return marked(asked, answers)


def marked(asked: list[Instruction], answers: list[str]) -> dict[str, Any]:
    """What `examine` returns."""
    found, kinds = [points(it.wanted, answer) for it, answer in zip(asked, answers, strict=True)], defaultdict(list)
    for it, value in zip(asked, found, strict=True):
        kinds[it.kind].append(value)
    return {
        "points": round(fmean(found), 4),
        "right": round(fmean(value >= RIGHT for value in found), 4),
        "kinds": {kind: round(fmean(values), 4) for kind, values in kinds.items()},
        "characters": round(fmean(map(len, answers)), 1),
    }
