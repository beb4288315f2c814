"""Upstream's DPO losses with options of ours: the loss that `pref_loss` names, and a beta for each pair."""

import inspect
from typing import Any

import torch

from ...dpo.trainer import CustomDPOTrainer
from ..objective.margin_dpo import margin_factor, scaled_logratios


class OtherLosses(CustomDPOTrainer):
    """LlamaFactory's DPO trainer with `pref_loss_as_named` and `pref_margin_scale`; without them it stays as it is.

    Attributes:
        _carried: what came with the batch in hand besides the model's inputs, among it the scores.
        _terms: terms of the loss of the batch in hand that are shown as metrics, each of shape (batch,).
    """

    _carried: dict[str, torch.Tensor]
    _terms: dict[str, torch.Tensor]

    def dpo_loss(self, *logps: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute losses, chosen rewards and rejected rewards, each of shape (batch,), by upstream's own code.

        Rewards are `pref_beta` times log-ratios also where the loss has a beta of its own for each pair, so that runs
        with and without it can be compared.

        Args:
            *logps: of the chosen and the rejected responses under the policy, then under the reference.
            **kwargs: passed on.
        """
        args = self.finetuning_args
        if args.pref_loss_as_named:
            kwargs |= _named(super().dpo_loss, self.loss_type)
        losses, *rewards = super().dpo_loss(*logps, **kwargs)
        if args.uses_margin:
            scores = (self._carried["score_chosen"], self._carried["score_rejected"])
            factor = margin_factor(*scores, scale=args.pref_margin_scale, rate=args.pref_margin_rate)
            losses, *_ = super().dpo_loss(*scaled_logratios(logps, factor), **kwargs)
            self._terms = {"beta": self.beta * factor}
        return (losses, *rewards)


def _named(dpo_loss: Any, name: str) -> dict[str, str]:
    """Make the argument by which trl is told which loss to compute.

    Before 0.20 there is none: trl reads the trainer's `loss_type`, which LlamaFactory sets.
    """
    return {"loss_type": name} if "loss_type" in inspect.signature(dpo_loss).parameters else {}
