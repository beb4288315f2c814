"""A step's pairs in as few calls of the model as a budget of tokens allows (`pref_token_budget`).

A step is made of micro-batches: `per_device_train_batch_size` pairs, `gradient_accumulation_steps` times. A packed row
costs what its pairs cost, and a device that is given one pair at a time waits most of the time. So micro-batches of a
step are joined, and the sums of gradients stay what they were to rounding, whatever the budget. transformers counts
micro-batches; those that were joined to another are handed to it empty, before the ones that are computed.
"""

from typing import Any

import torch
from transformers import Trainer

from ....extras import logging
from ..data.packs import can_join, join_batches
from ..engine import Choice
from ..ranks import any_rank, most_of_ranks


logger = logging.get_logger(__name__)


class JoinsByTokens(Trainer):
    """A trainer that joins the micro-batches of a step, as far as a budget of tokens allows.

    Attributes:
        token_budget: most tokens of a call of the model, if no single micro-batch has more; 0 joins nothing.
    """

    token_budget = 0

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[dict[str, Any]], Any]:
        """Fetch the micro-batches of a step as upstream does, and join them."""
        batches, items = super().get_batch_samples(*args, **kwargs)
        if self.token_budget and len(batches) > 1:
            batches = self._joined(batches)
        return batches, items

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Train on a micro-batch, if there is something in it."""
        if not inputs["input_ids"].numel():
            return torch.zeros((), device=self.args.device)
        return super().training_step(model, inputs, *args, **kwargs)

    def _joined(self, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if any_rank(self.accelerator, not all(map(can_join, batches))):
            return batches
        tokens = [batch["pair_layout"].tokens for batch in batches]
        # Sharded models want equally many calls on every rank.
        count = most_of_ranks(self.accelerator, -(-sum(tokens) // self.token_budget))
        packs = spread(tokens, min(count, len(tokens)))
        while any_rank(self.accelerator, not _fit(packs, tokens, self.token_budget)):
            packs = spread(tokens, len(packs) + 1)
        if len(packs) == len(batches):
            return batches
        empty = {name: batches[0][name].new_zeros(0) for name in ("input_ids", "attention_mask")}
        joined = [join_batches([batches[place] for place in pack]) for pack in packs]
        return [empty] * (len(batches) - len(packs)) + joined


def usable_budget(wanted: int, choice: Choice) -> int:
    """Return the budget, or 0 with a warning where this run has no packed rows, which alone can be joined."""
    if wanted and choice.layout != "packed":
        logger.warning_rank0(f"pref_token_budget: {wanted} joins nothing, as {choice.route} has no packed rows.")
        return 0
    return wanted


def spread(tokens: list[int], count: int) -> list[list[int]]:
    """Put micro-batches into packs of about equally many tokens: the longest first, each where least is.

    Args:
        tokens: of each micro-batch.
        count: of packs, at most that of micro-batches.

    Returns:
        For each pack the places of its micro-batches in `tokens`, in order.
    """
    packs: list[list[int]] = [[] for _ in range(count)]
    filled = [0] * count
    for place in sorted(range(len(tokens)), key=lambda place: -tokens[place]):
        least = filled.index(min(filled))
        packs[least].append(place)
        filled[least] += tokens[place]
    return [sorted(pack) for pack in packs]


def _fit(packs: list[list[int]], tokens: list[int], budget: int) -> bool:
    return all(len(pack) == 1 or sum(tokens[place] for place in pack) <= budget for pack in packs)
