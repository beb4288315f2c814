"""One cell: train it with LlamaFactory in this process, and measure what came of it."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from scipy.stats import spearmanr

from common import ToolError
from demo.exam import accuracy, exam, mark
from demo.generate import Answerer
from demo.questions import KINDS

from .conditions import dataset_name, quality_of
from .plan import Cell, Size
from .seeds import RECIPE, TEST_SEED, VAL_PAIRS, VAL_SEED, shared_options


LAST = ("loss", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected")
WEIGHTS = ("uni_dpo/w_qual", "uni_dpo/w_perf", "uni_dpo/nll_weight")
TERMS = (*WEIGHTS, "uni_dpo/weight", "uni_dpo/w_policy", "uni_dpo/offset", "uni_dpo/target", "uni_dpo/anchor")
FOLLOWED = (
    *("eval_loss", "eval_rewards/accuracies", "eval_rewards/margins", "eval_logps/chosen", "eval_logps/rejected"),
    *("loss", "logps/chosen", "logps/rejected"),
    *WEIGHTS,
)
# Validation pairs are examined every 15 steps, and each epoch's model is kept.
COURSE_OPTIONS = {
    "eval_dataset": VAL_PAIRS,
    "eval_strategy": "steps",
    "eval_steps": 15,
    "eval_on_start": True,
    "save_strategy": "epoch",
    "save_only_model": True,
}


def run_cell(cell: Cell, home: Path, size: Size, scratch: Path) -> dict[str, Any]:
    """Train and measure.

    Args:
        cell: what to do.
        home: the folder that `seeds.prepare` has filled for the cell's seed.
        size: how much to ask.
        scratch: an empty folder for the run.

    Returns:
        "val", "test" (our exam), "vlmeval", "course" or "data", as the cell's measure says; "train", the last metrics
        of training.

    Raises:
        NonFiniteError: the run ended in numbers that are not finite.
    """
    if cell.measure == "data":
        file = home / "data" / f"{dataset_name(cell.condition)}.json"
        return {"data": quality_of(json.loads(file.read_text(encoding="utf-8")))}
    model, measured = home / "start", {}
    if cell.options:
        model = _train(cell, home, scratch / "model")
        last = [entry for entry in _history(model) if "rewards/accuracies" in entry][-3:]
        values = {name: [entry[name] for entry in last if name in entry] for name in (*LAST, *TERMS)}
        measured["train"] = {name: round(sum(them) / len(them), 5) for name, them in values.items() if them}
    if cell.measure == "course":
        measured["course"] = _course(model, home / "start", size, cell.seed)
    elif cell.measure == "val":
        measured["val"] = _examine(model, "val", size, cell.seed)
    else:
        measured["test"] = _examine(model, "test", size, cell.seed)
        measured["vlmeval"] = _benchmark(model, home / "benchmarks", scratch / "eval")
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
        options |= COURSE_OPTIONS
        options |= {"uni_dpo_log_pairs": True} if options["pref_loss"] == "uni_dpo" else {}
    if cell.measure == "course" or options["pref_loss"] == "simpo":
        del options["uni_dpo_reference_cache"]  # validation pairs are not in it; without a reference it is refused
    torch.set_grad_enabled(True)  # VLMEvalKit, which an earlier cell may have imported, switches gradients off
    run_exp(options)
    # transformers 4 writes a config.json that 5 misreads; the architecture is unchanged.
    for folder in (out, *out.glob("checkpoint-*")):
        shutil.copy(home / "start" / "config.json", folder / "config.json")
    return out


def _history(model: Path) -> list[dict[str, Any]]:
    return json.loads((model / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]


def _examine(model: Path, split: str, size: Size, seed: int) -> dict[str, Any]:
    """Ask our own questions: shares of right answers over all and by kind, and the mean of the rule's scores."""
    questions = exam(split, size.exam, (VAL_SEED if split == "val" else TEST_SEED) + seed)
    answers = Answerer(model).answers([(question.text, image) for question, image in questions])
    table = accuracy(mark([question for question, _ in questions], [texts[0] for texts in answers]))
    return {
        "accuracy": table["all"]["accuracy"],
        "quality": table["all"]["mean_score"],
        "kinds": {kind: table[kind]["accuracy"] for kind in KINDS},
    }


def _benchmark(model: Path, benchmarks: Path, scratch: Path) -> dict[str, float]:
    """Let VLMEvalKit ask and score its four benchmarks: its headline numbers in per cent, and their "mean"."""
    from vlmeval.uni_dpo.cli import main  # takes seconds to import, and not every cell needs it

    from summarize_eval.folders import find_checkpoints
    from summarize_eval.results import collect, data_sets

    os.environ["LMUData"] = str(benchmarks)
    command = ["--config", str(benchmarks / "config.json"), "--model", f"model={model}", "--work-dir", str(scratch)]
    with _unpacked(benchmarks):
        failed = main(command)
    if failed:
        raise ToolError(f"VLMEvalKit failed on {model}: see the log")
    checkpoints = find_checkpoints([f"model={scratch / 'model'}"])
    results = collect(checkpoints, data_sets(checkpoints, None))
    missing = [f"{data}: {result.note}" for (_, data), result in results.items() if result.score is None]
    if missing:
        raise ToolError("VLMEvalKit left no score for " + "; ".join(missing))
    scores = {
        data.removeprefix("DemoWorld_").split("_")[0]: result.score.value for (_, data), result in results.items()
    }
    return {**scores, "mean": round(sum(scores.values()) / len(scores), 4)}


@contextmanager
def _unpacked(benchmarks: Path) -> Iterator[None]:
    """Let one process alone be the first: VLMEvalKit unpacks pictures as it needs them, and not in one piece."""
    done = benchmarks / "unpacked"
    with open(benchmarks / "lock", "w", encoding="utf-8") as lock:
        if not done.exists():
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        done.touch()


def _course(out: Path, start: Path, size: Size, seed: int) -> dict[str, Any]:
    """Follow a run that saved a checkpoint after each epoch.

    Returns:
        "log": metrics over steps; "exams": our exam by step, 0 being the start; "pairs": of Uni-DPO, for each epoch,
        the rank correlation of score margin and reward margin, and the mean w_perf of pairs with a reward margin
        above zero (fitted) and of the others.
    """
    exams = {0: _examine(start, "val", size, seed)}
    for folder in sorted(out.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])):
        for file in start.glob("*.json"):
            shutil.copy(file, folder / file.name)
        exams[int(folder.name.split("-")[1])] = _examine(folder, "val", size, seed)
    followed = [(entry["step"], {n: round(entry[n], 5) for n in FOLLOWED if n in entry}) for entry in _history(out)]
    log = [values | {"step": step} for step, values in followed if values]
    pairs = out / "uni_dpo_pairs.jsonl"
    return {"log": log, "exams": exams, "pairs": _epochs(pairs, sorted(exams)[1:]) if pairs.is_file() else []}


def _epochs(path: Path, ends: list[int]) -> list[dict[str, float]]:
    table = pd.DataFrame(map(json.loads, path.read_text(encoding="utf-8").splitlines()))
    found = []
    for _, rows in table.groupby(np.searchsorted(ends, table["step"])):
        margins = rows["score_chosen"] - rows["score_rejected"]
        weights = rows["w_perf"].groupby(rows["reward_margin"] > 0).mean().round(4)
        named = {"w_perf_fitted": True, "w_perf_unfitted": False}
        found.append(
            {
                "spearman": round(float(spearmanr(margins, rows["reward_margin"]).statistic), 4),
                **{name: float(weights[fits]) for name, fits in named.items() if fits in weights},
            }
        )
    return found
