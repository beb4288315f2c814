"""Pictures of a finished run, drawn from the files in its output folder.

`python -m llamafactory.train.uni_dpo.record.plots OUTPUT_DIR` draws them again.
"""

import json
import math
import os
import re
import sys
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ....extras import logging
from ..files.disk import replacing
from .pair_log import PAIR_LOG, read_pair_log


logger = logging.get_logger(__name__)

TRAINING_PICTURE = "uni_dpo_training.png"
PAIRS_PICTURE = "uni_dpo_pairs.png"

# What the loss of a pair is multiplied with, and which terms have an axis of their own or none.
WEIGHTS = ("w_qual", "w_perf", "w_policy", "weight")
SHOWN_ELSEWHERE = ("nll_weight", "policy_margin", "reference_margin")


def plot_run(output_dir: str) -> list[str]:
    """Draw what the run left behind and return the paths of the pictures.

    A picture that cannot be drawn is worth a warning, but not the exit status of a run whose model is saved.
    """
    drawn = []
    for draw in (_plot_training, _plot_pairs):
        try:
            path = draw(output_dir)
        except (OSError, ValueError, KeyError) as error:
            logger.warning_rank0(f"No picture by {draw.__name__.strip('_')}: {error!r}")
            continue
        if path is not None:
            logger.info_rank0(f"Picture saved at {path}")
            drawn.append(path)
    return drawn


def evaluation_losses(history: list[dict[str, Any]]) -> dict[str, str]:
    """Name the evaluation losses of a log: one, or one for each data set with `eval_on_each_dataset`."""
    keys = sorted({key for entry in history for key in entry if re.fullmatch("eval_(.+_)?loss", key)})
    return {key.removesuffix("_loss").replace("_", " "): key for key in keys}


def _plot_training(output_dir: str) -> str:
    with open(os.path.join(output_dir, "trainer_state.json"), encoding="utf-8") as state:
        history = json.load(state)["log_history"]
    figure = Figure(figsize=(12, 8), layout="constrained")
    loss, margin, accuracy, weights = figure.subplots(2, 2).flat
    _curves(loss, history, "Loss", {"train": "loss"} | evaluation_losses(history))
    _curves(margin, history, "Reward margin", {"train": "rewards/margins", "eval": "eval_rewards/margins"})
    _curves(accuracy, history, "Reward accuracy", {"train": "rewards/accuracies", "eval": "eval_rewards/accuracies"})
    _curves(weights, history, "Mean terms of the loss", _terms(history))
    nll = weights.twinx()  # lambda is small: on the scale of the weights its curve would lie on the axis
    _curves(nll, history, "", {"c-NLL (right)": "uni_dpo/nll_weight"}, color="tab:green", linewidth=0.8)
    nll.grid(False)
    _one_legend(weights, nll)
    accuracy.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    return _save(figure, os.path.join(output_dir, TRAINING_PICTURE))


def _plot_pairs(output_dir: str) -> str | None:
    log = os.path.join(output_dir, PAIR_LOG)
    if not os.path.exists(log):
        return None
    rows = read_pair_log(log)
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    label, margins = _margins(rows)
    weights = [name for name in WEIGHTS if rows and name in rows[0]]
    color = [math.prod(row[name] for name in weights) if weights else row["loss"] for row in rows]
    points = axes.scatter(margins, [row["reward_margin"] for row in rows], c=color, s=8, alpha=0.6)
    figure.colorbar(points, label=f"weight, {' * '.join(weights)}" if weights else "loss")
    axes.set(xlabel=label, ylabel="reward margin", title="Every pair of every step")
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.axvline(0, color="grey", linewidth=0.8)
    return _save(figure, os.path.join(output_dir, PAIRS_PICTURE))


def _terms(history: list[dict[str, Any]]) -> dict[str, str]:
    """Name the logged terms of the loss that share an axis."""
    keys = dict.fromkeys(key for entry in history for key in entry if key.startswith("uni_dpo/"))
    names = {key.removeprefix("uni_dpo/"): key for key in keys}
    return {name: key for name, key in names.items() if name not in SHOWN_ELSEWHERE}


def _margins(rows: list[dict[str, Any]]) -> tuple[str, list[float]]:
    """Give pairs their places: by their scores, or by what the reference says where a loss has none."""
    if rows and "score_chosen" in rows[0]:
        return "score margin", [row["score_chosen"] - row["score_rejected"] for row in rows]
    return "reference margin", [row["reference_margin"] for row in rows]


def _curves(axes: Axes, history: list[dict[str, Any]], title: str, keys: dict[str, str], **style: Any) -> None:
    for label, key in keys.items():
        points = [(entry["step"], entry[key]) for entry in history if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 30 else None, **style)
    axes.set(title=title, xlabel="step")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()


def _one_legend(axes: Axes, twin: Axes) -> None:
    """Name the curves of two axes that lie on each other together, below them, where no curve is."""
    for part in (axes, twin):
        if part.get_legend():
            part.get_legend().remove()
    curves = [*axes.lines, *twin.lines]
    if curves:
        axes.legend(handles=curves, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=len(curves), frameon=False)


def _save(figure: Figure, path: str) -> str:
    with replacing(path) as scratch:
        figure.savefig(scratch, dpi=120)
    return path


if __name__ == "__main__":
    plot_run(sys.argv[1])
