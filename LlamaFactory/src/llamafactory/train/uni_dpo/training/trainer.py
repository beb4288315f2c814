"""One training step with Uni-DPO, built on LlamaFactory's DPO trainer.

Upstream's losses, reference handling and logging stay. Ours are the scores, the loss, length normalisation, the route
to log-probs (`forward.py`), micro-batches joined to fewer calls (`budget.py`), metrics that do not stall the device,
the optional pair log, a guard that stops a run before a ruined model is saved (`finite.py`), whole saves
(`saving.py`), exact resuming (`resume.py`), and log-probs and sums of gradients in float32 (`precision.py`).
"""

import os
from collections.abc import Callable
from typing import Any, Literal

import torch
from transformers.trainer_utils import TrainOutput

from ....extras.constants import IGNORE_INDEX
from ...dpo.trainer import CustomDPOTrainer
from ..data.collate import upstream_rows
from ..data.columns import CARRIED_DTYPES, REFERENCE_COLUMNS, SCORED_DTYPES
from ..data.packs import SIZES
from ..objective.pairs import SIDES, Pairs
from ..options.checks import LENGTH_NORMALISED_UPSTREAM
from ..record import metrics
from ..record.pair_log import PAIR_LOG, PairLog
from ..upstream.underneath import refuse_other_forward
from .budget import JoinsByTokens, usable_budget
from .finite import StopsAtNonFinite
from .forward import PairForward, require_varlen
from .other_losses import OtherLosses
from .precision import KeepsFloat32
from .resume import ExactResume
from .same_start import SameStart
from .saving import WholeSaves
from .self_check import check_engine
from .view import PairTrainer
from .weighing import likeness_of, reweighed, weighted


class UniDPOTrainer(
    JoinsByTokens, StopsAtNonFinite, KeepsFloat32, ExactResume, WholeSaves, OtherLosses, CustomDPOTrainer
):
    """LlamaFactory's DPO trainer with our losses, and with our forward and options for its own losses."""

    def __init__(
        self,
        before_first_step: Callable[[PairTrainer], None] | None = None,
        start: SameStart | None = None,
        **kwargs: Any,
    ):
        """Take upstream's arguments, of which `finetuning_args` must be a `UniDPOFinetuningArguments`.

        Args:
            before_first_step: is called once, before the model is wrapped; it may set `reference_is_stored`.
            start: compares policy and reference before the first step.
            **kwargs: upstream's.
        """
        self._before_first_step, self.reference_is_stored, self._start = before_first_step, False, start
        route = kwargs["finetuning_args"].forward_route
        varlen = kwargs["finetuning_args"].pref_varlen_attention
        if varlen:
            require_varlen(kwargs["args"])
        self.pair_forward = PairForward(kwargs["model"], kwargs["ref_model"], route, varlen)
        kwargs["data_collator"].serve(self.pair_forward.choice)
        super().__init__(**kwargs)
        refuse_other_forward(super().concatenated_forward, self.loss_type in LENGTH_NORMALISED_UPSTREAM)
        self.pair_forward.agree(self.accelerator)
        self.token_budget = usable_budget(self.finetuning_args.pref_token_budget, self.pair_forward.choice)
        # The filter would show a NaN loss as the average of the losses before it, also to our guard.
        self.args.logging_nan_inf_filter = False
        # Of the batch in hand, each of shape (batch,): what came with it, and the terms shown as metrics.
        self._carried: dict[str, torch.Tensor] = {}
        self._terms: dict[str, torch.Tensor] = {}
        self.pair_log: PairLog | None = None
        if self.finetuning_args.logs_pairs:
            names, _ = self.data_collator.dataset_names
            self.pair_log = PairLog(os.path.join(self.args.output_dir, PAIR_LOG), names)
            self.add_callback(self.pair_log)

    @property
    def takes_means(self) -> bool:
        """Whether log-probs are means over response tokens."""
        return self.finetuning_args.takes_means

    @property
    def _wants_likeness(self) -> bool:
        return self.finetuning_args.pref_policy_weights

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as upstream does, after what comes before the first step."""
        self._prepare()
        return super().train(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as upstream does, after what comes before the first step."""
        self._prepare()
        return super().evaluate(*args, **kwargs)

    def _prepare(self) -> None:
        prepare, self._before_first_step = self._before_first_step, None
        if prepare is not None:
            prepare(self)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Move a batch to the device; scores stay float32, which DeepSpeed would round to the model's precision."""
        carried = {name: inputs.pop(name).to(self.args.device) for name in CARRIED_DTYPES if name in inputs}
        if "pair_layout" in inputs:
            carried["pair_layout"] = inputs.pop("pair_layout").to(self.args.device)
        return super()._prepare_inputs(inputs) | carried

    def get_batch_loss_metrics(
        self, model: torch.nn.Module, batch: dict[str, Any], train_eval: Literal["train", "eval"] = "train"
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the mean loss of a batch and its metrics: upstream's, and our terms under `uni_dpo/`.

        Scores leave the batch first, so that they never reach `model.forward`. Metrics stay on the device, as reading
        each of them would stall it; `log` reads them together.
        """
        check_engine(self, model)
        sizes = batch.pop(SIZES, None)
        self._carried, self._terms = {name: batch.pop(name) for name in CARRIED_DTYPES if name in batch}, {}
        policy = self.concatenated_forward(model, batch)
        reference = self.compute_reference_log_probs(model, batch)
        if self._start is not None and train_eval == "train":
            self._start.compare(self, model, batch, policy, reference)
        logps = (policy["chosen_logps"], policy["rejected_logps"], *reference)
        losses, *rewards = self.compute_preference_loss(*logps)
        losses, terms = reweighed(losses, Pairs(*logps), policy.get("likeness"), self.finetuning_args)
        sft_loss = -policy["chosen_logps_avg"]
        if self.ftx_gamma > 1e-6:
            losses = losses + self.ftx_gamma * sft_loss
        orpo = metrics.of_orpo(losses, sft_loss, self.beta, sizes) if self.loss_type == "orpo" else {}
        losses, weights = weighted(losses, self._carried, self.finetuning_args)
        self._terms |= terms | weights
        values = metrics.of_batch(policy, rewards, self._terms, sizes) | orpo
        if self.pair_log is not None and train_eval == "train":
            outcome = {"reward_margin": rewards[0] - rewards[1], "loss": losses.detach()}
            carried = {name: self._carried[name] for name in SCORED_DTYPES if name in self._carried}
            self.pair_log.add(self.state.global_step + 1, carried | self._terms | outcome)
        prefix = "eval_" if train_eval == "eval" else ""
        # Of several micro-batches in one, as they would add up one by one.
        loss = metrics.means(losses, sizes).sum()
        return loss, {f"{prefix}{name}": value for name, value in values.items()}

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log as upstream does, after one transfer of all metrics from the device."""
        for stored in self._stored_metrics.values():
            metrics.read(stored)
        super().log(logs, *args, **kwargs)

    def concatenated_forward(
        self, model: torch.nn.Module, batch: dict[str, Any], is_ref_model: bool = False
    ) -> dict[str, torch.Tensor]:
        """Compute log-probs, by the engine or by upstream's forward; as means where this run asks for them.

        Of the engine's logits there are only means over scored positions, of shape (batch,).
        """
        if not self.pair_forward.serves(batch):
            return self._upstream_forward(model, batch, is_ref_model)
        ld_alpha, likeness = (None, False) if is_ref_model else (self.ld_alpha, self._wants_likeness)
        output = self.pair_forward.run(model, batch, is_ref_model, ld_alpha, likeness)
        means = output["logps"] / output["lengths"]
        chosen, rejected = (means if self.takes_means else output["logps"]).chunk(2)
        chosen_logits, rejected_logits = output["logits"].chunk(2)
        return {
            "chosen_logps": chosen,
            "rejected_logps": rejected,
            "chosen_logits": chosen_logits,
            "rejected_logits": rejected_logits,
            "chosen_logps_avg": means.chunk(2)[0],
            "likeness": output["likeness"],
        }

    def compute_reference_log_probs(
        self, model: torch.nn.Module, batch: dict[str, Any]
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Compute the reference's log-probs as upstream does, or take the stored ones, which come with the batch."""
        if not self.reference_is_stored:
            return super().compute_reference_log_probs(model, batch)
        stored = [self._carried[name] for name in REFERENCE_COLUMNS]
        if self.takes_means:
            lengths = (batch["labels"][:, 1:] != IGNORE_INDEX).sum(-1).chunk(2)
            stored = [sums / length for sums, length in zip(stored, lengths, strict=True)]
        return stored[0].float(), stored[1].float()

    def _upstream_forward(
        self, model: torch.nn.Module, batch: dict[str, Any], is_ref_model: bool
    ) -> dict[str, torch.Tensor]:
        lengths = (batch["labels"][:, 1:] != IGNORE_INDEX).sum(-1)  # the first token is never predicted
        output = super().concatenated_forward(model, upstream_rows(batch), is_ref_model)
        if self._wants_likeness and not is_ref_model:
            logits = (output["chosen_logits"], output["rejected_logits"])
            sides = zip(logits, batch["labels"].chunk(2), strict=True)
            output["likeness"] = torch.cat([likeness_of(*side) for side in sides])
        if self.finetuning_args.averages_logps:
            chosen_lengths, rejected_lengths = lengths.chunk(2)
            output["chosen_logps"] = output["chosen_logps"] / chosen_lengths
            output["rejected_logps"] = output["rejected_logps"] / rejected_lengths
        return output

    def compute_preference_loss(
        self,
        policy_chosen_logps: torch.Tensor,
        policy_rejected_logps: torch.Tensor,
        reference_chosen_logps: torch.Tensor | None,
        reference_rejected_logps: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute losses, chosen rewards and rejected rewards, each of shape (batch,)."""
        logps = (policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
        loss = self.finetuning_args.our_loss
        if loss is None:
            return super().compute_preference_loss(*logps)
        scores = [self._carried[side] for side in SIDES] if loss.scores else []
        pairs = Pairs(*logps, *scores)
        outcome = loss(pairs, self.finetuning_args)
        margins = {
            "policy_margin": policy_chosen_logps - policy_rejected_logps,
            "reference_margin": reference_chosen_logps - reference_rejected_logps,
        }
        self._terms = {name: values.detach() for name, values in (outcome.terms | margins).items()}
        logratios = (pairs.chosen_logratios, pairs.rejected_logratios)
        return outcome.losses, *((self.beta * values).detach() for values in logratios)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Create upstream's optimizer, under DeepSpeed without empty groups, which LoRA leaves for biases and norms.

        DeepSpeed drops them later itself, and a scheduler made before that fails at its first step (torch 2.10).
        """
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.is_deepspeed_enabled:
            optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
        return optimizer
