"""In which precision what ranks share is handed on and added up: float32, whatever the model computes in.

A run on one process in bfloat16 keeps weights in float32 (LlamaFactory's way), computes log-probs in float32 from its
logits, and adds up micro-batches in float32. Wrappers for several ranks round more than that by default; here they are
set to round no more, as far as a trainer may do so.

- FSDP2: accelerate has every output rounded, log-probs among them, and gradients added up and averaged in bfloat16.
- FSDP1: gradients are averaged in bfloat16, and added up in it until ranks average them.
- DeepSpeed: `data_types.grad_accum_dtype` of its config decides, which is the user's; a warning says so.
"""

import dataclasses
from contextlib import nullcontext

import torch
from transformers import Trainer

from ....extras import logging


logger = logging.get_logger(__name__)


class KeepsFloat32(Trainer):
    """A trainer whose wrappers hand log-probs on, and add gradients up, in float32."""

    def create_accelerator_and_postprocess(self) -> None:
        """Make upstream's accelerator, then correct what models will be wrapped with."""
        super().create_accelerator_and_postprocess()
        if self.is_fsdp_enabled:
            self._correct_fsdp()
        elif self.is_deepspeed_enabled and self.args.gradient_accumulation_steps > 1:
            warn_of_rounded_sums(self.accelerator.state.deepspeed_plugin.deepspeed_config)

    def _correct_fsdp(self) -> None:
        plugin = self.accelerator.state.fsdp_plugin
        if plugin.mixed_precision_policy is None:
            return
        exact = {"reduce_dtype": torch.float32}
        if plugin.fsdp_version == 2:
            exact["output_dtype"] = None  # of every layer, too
        elif self.args.gradient_accumulation_steps > 1:
            # So ranks average each micro-batch; what is not averaged yet FSDP1 keeps in half precision.
            self.accelerator.no_sync = lambda model: nullcontext()
        plugin.mixed_precision_policy = dataclasses.replace(plugin.mixed_precision_policy, **exact)


def warn_of_rounded_sums(config: dict) -> None:
    """Say so if DeepSpeed will add micro-batches up in half precision.

    Args:
        config: of DeepSpeed, where "auto" has been replaced.
    """
    half = next((name for name in ("bf16", "fp16") if config.get(name, {}).get("enabled") is True), None)
    summed_in = config.get("data_types", {}).get("grad_accum_dtype")
    if half and config.get("zero_optimization", {}).get("stage") and summed_in != "fp32":
        logger.warning_rank0(
            f"This DeepSpeed config adds up the gradients of micro-batches in {summed_in or half}, so small ones are "
            'rounded away. Add "data_types": {"grad_accum_dtype": "fp32"} to it.'
        )
