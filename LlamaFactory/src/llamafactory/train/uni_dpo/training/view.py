"""What other rooms and the trainer's own parts use of the trainer, and nothing else of it."""

from typing import Any, Protocol

import torch
from accelerate import Accelerator
from transformers import TrainerState, TrainingArguments

from ..data.collate import PairCollator
from .forward import PairForward


class PairTrainer(Protocol):
    """A trainer of pairs.

    Attributes:
        args, state, accelerator, model, train_dataset, eval_dataset, is_fsdp_enabled: transformers'.
        ref_model: LlamaFactory's reference model; None if there is none, or if it is the policy without its adapter.
        data_collator: makes batches; caches hand it what is stored.
        pair_forward: the route to log-probs.
        reference_is_stored: whether the reference's log-probs come with the batches.
        takes_means: whether log-probs are means over response tokens.
        ld_alpha: LlamaFactory's option of the name `ld_alpha`.
    """

    args: TrainingArguments
    state: TrainerState
    accelerator: Accelerator
    model: torch.nn.Module
    ref_model: torch.nn.Module | None
    train_dataset: Any
    eval_dataset: Any
    is_fsdp_enabled: bool
    data_collator: PairCollator
    pair_forward: PairForward
    reference_is_stored: bool
    takes_means: bool
    ld_alpha: float | None

    def is_world_process_zero(self) -> bool:
        """Tell whether this is the main process of all."""

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Move a batch to the device."""

    def concatenated_forward(
        self, model: torch.nn.Module, batch: dict[str, Any], is_ref_model: bool = False
    ) -> dict[str, torch.Tensor]:
        """Compute the log-probs of n chosen and n rejected rows."""

    def compute_reference_log_probs(
        self, model: torch.nn.Module, batch: dict[str, Any]
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Compute the reference's log-probs of n chosen and of n rejected rows, each of shape (n,)."""
