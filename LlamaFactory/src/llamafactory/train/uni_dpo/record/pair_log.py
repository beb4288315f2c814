"""The pair log: one row per pair and optimizer step, for people who want to see what the weights did.

Rows of `uni_dpo_pairs.jsonl` hold `step`, `dataset` (its name in the `dataset` option), `row` (in that data set as it
is loaded, from 0, so the row of its file; null in a stream), both scores and the weight where the run reads them, the
terms of the loss, the policy's and the reference's margins, the reward margin, and the whole loss of the pair (with
`pref_ftx`, that term too).
"""

import json
import math
import os
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..files.checkpoints import resume_hint
from ..files.disk import explained, replacing


PAIR_LOG = "uni_dpo_pairs.jsonl"


class PairLog(TrainerCallback):
    """Collects rows on every rank and appends them to one file on the main one, before a checkpoint is written."""

    def __init__(self, path: str, datasets: list[str]):
        """Log to `path` pairs of `datasets`, which are numbered in the batch."""
        self.path, self.datasets = path, datasets
        self._waiting: list[tuple[int, dict[str, torch.Tensor]]] = []

    def add(self, step: int, columns: dict[str, torch.Tensor]) -> None:
        """Keep the columns of one batch, each of shape (batch,), on their device until the step is complete."""
        self._waiting.append((step, columns))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drop rows of steps that this run is going to take (again)."""
        self._waiting.clear()
        if state.is_world_process_zero and os.path.exists(self.path):
            with self._explained():
                _keep_rows(self.path, state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the rows of the step that has just been taken."""
        rows = gather_object([row for step, columns in self._waiting for row in self._rows(step, columns)])
        self._waiting.clear()
        if state.is_world_process_zero:
            with self._explained():
                os.makedirs(os.path.dirname(self.path), exist_ok=True)
                with open(self.path, "a", encoding="utf-8") as log:
                    log.writelines(json.dumps(row) + "\n" for row in rows)

    def _rows(self, step: int, columns: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
        names = [name.removeprefix("pair_") for name in columns]
        values = zip(*(column.tolist() for column in columns.values()), strict=True)
        rows = [{"step": step} | dict(zip(names, map(_readable, row), strict=True)) for row in values]
        return [row | {"dataset": self.datasets[row["dataset"]]} for row in rows]

    def _explained(self) -> AbstractContextManager[None]:
        folder, name = os.path.split(self.path)
        return explained(name, folder, resume_hint(folder))


def read_pair_log(path: str) -> list[dict[str, Any]]:
    """Read the rows of a log; an unfinished last line, left by a killed run, is skipped."""
    with open(path, encoding="utf-8") as log:
        return [json.loads(line) for line in log if line.endswith("\n")]


def _readable(value: float | int) -> float | int | None:
    if isinstance(value, int):
        return value if value >= 0 else None
    return float(f"{value:.7g}") if math.isfinite(value) else None  # float32 has seven digits, JSON has no NaN


def _keep_rows(path: str, last_step: int) -> None:
    rows = [row for row in read_pair_log(path) if row["step"] <= last_step]
    with replacing(path) as scratch, open(scratch, "w", encoding="utf-8") as log:
        log.writelines(json.dumps(row) + "\n" for row in rows)
