"""Training runs in this process, with everything about them that a test may want to compare."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from pairs import train
from safetensors.torch import load_file

from llamafactory.train.uni_dpo.training.trainer import UniDPOTrainer


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        log: what the trainer logged, step by step, without timings.
        losses: the loss of every micro-batch, which the log rounds to four digits.
        batches: the tensors of every micro-batch, by name.
        said: messages of LlamaFactory, ours among them.
        weights: the trained tensors by name.
    """

    log: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    batches: list[dict[str, torch.Tensor]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def about(self, words: str) -> list[str]:
        """Find the messages that start with these words."""
        return [message for message in self.said if message.startswith(words)]

    def curve(self, name: str) -> list[float]:
        """Find all logged values of one metric."""
        return [entry[name] for entry in self.log if name in entry]


def watched_run(run: dict[str, Any]) -> Outcome:
    """Train, and return what happened."""
    outcome, compute = Outcome(), UniDPOTrainer.get_batch_loss_metrics

    def watch(self, model, batch, *args, **kwargs):
        outcome.batches.append({name: value for name, value in batch.items() if torch.is_tensor(value)})
        loss, metrics = compute(self, model, batch, *args, **kwargs)
        outcome.losses.append(loss.item())
        return loss, metrics

    with mock.patch.object(UniDPOTrainer, "get_batch_loss_metrics", watch), messages() as outcome.said:
        history = train(run)
    timings = ("runtime", "per_second")
    outcome.log = [{name: v for name, v in entry.items() if not name.endswith(timings)} for entry in history]
    for file in Path(run["output_dir"]).glob("*.safetensors"):
        outcome.weights |= load_file(file)
    return outcome


@contextmanager
def messages() -> Iterator[list[str]]:
    """Collect what LlamaFactory logs; its logger hands nothing on to the root, where `caplog` listens."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("llamafactory")
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)
