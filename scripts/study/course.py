"""What happens during a longer run: metrics of validation pairs, exams after each epoch, and what weights did."""

import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from .measure import examine
from .plan import Size


EVAL_EVERY = 15  # steps
SHOWN = (
    "eval_loss",
    "eval_rewards/accuracies",
    "eval_rewards/margins",
    "eval_logps/chosen",
    "eval_logps/rejected",
    "loss",
    "logps/chosen",
    "logps/rejected",
    "uni_dpo/w_qual",
    "uni_dpo/w_perf",
    "uni_dpo/nll_weight",
)


def course_of(out: Path, start: Path, size: Size, seed: int) -> dict[str, Any]:
    """Follow a run that saved a checkpoint after each epoch.

    Returns:
        "log": metrics over steps; "exams": our exam by step, 0 being the start; "pairs": of Uni-DPO, for each epoch,
        the rank correlation of score margin and reward margin, and the mean w_perf of pairs with a reward margin
        above zero (fitted) and of the others.
    """
    history = json.loads((out / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    log = [
        {name: round(entry[name], 5) for name in SHOWN if name in entry} | {"step": entry["step"]} for entry in history
    ]
    exams = {0: examine(start, "val", size, seed)}
    for folder in sorted(out.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])):
        for file in start.glob("*.json"):
            shutil.copy(file, folder / file.name)
        exams[int(folder.name.split("-")[1])] = examine(folder, "val", size, seed)
    pairs = out / "uni_dpo_pairs.jsonl"
    shown = [entry for entry in log if len(entry) > 1]
    return {"log": shown, "exams": exams, "pairs": _pairs(pairs, sorted(exams)[1:]) if pairs.is_file() else []}


def _pairs(path: Path, ends: list[int]) -> list[dict[str, float]]:
    epochs = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        epochs[next(number for number, end in enumerate(ends) if row["step"] <= end)].append(row)
    return [_epoch(rows) for _, rows in sorted(epochs.items())]


def _epoch(rows: list[dict]) -> dict[str, float]:
    margins = [row["score_chosen"] - row["score_rejected"] for row in rows]
    fitted = [row["reward_margin"] > 0 for row in rows]
    weights = {
        "w_perf_fitted": [row["w_perf"] for row, fits in zip(rows, fitted, strict=True) if fits],
        "w_perf_unfitted": [row["w_perf"] for row, fits in zip(rows, fitted, strict=True) if not fits],
    }
    return {
        "spearman": round(float(spearmanr(margins, [row["reward_margin"] for row in rows]).statistic), 4),
        **{name: round(sum(values) / len(values), 4) for name, values in weights.items() if values},
    }
