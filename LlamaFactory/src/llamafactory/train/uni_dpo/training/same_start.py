"""Is the reference the model that training starts from? If not, the user should have said so.

LlamaFactory takes as reference of an adapter the model without it. That is the start model if the adapter is new, and
another one if it is an earlier training's.
"""

from typing import Any

import torch

from ....extras import logging
from ....extras.constants import IGNORE_INDEX
from ..errors import UniDPOError
from ..models.history import adapters_before, check_chain, training_record
from ..ranks import any_rank
from .view import PairTrainer


# Sums of log-probs of one response under equal weights may differ by this many nats and this part of them. In half
# precision the policy keeps float32 weights, and so does its residual stream, where the reference's has 8 bits.
BOUND, BOUND_IN_HALF = (0.01, 1e-4), (1.0, 0.02)

logger = logging.get_logger(__name__)


class SameStart:
    """Compares policy and reference, by the options and before the first step."""

    def __init__(self, model_args: Any, finetuning_args: Any):
        """Look at the options.

        Raises:
            UniDPOError: the reference would be another model than the one that training starts from, unasked.
        """
        self._compared = False
        self._wish = f"`ref_model: {finetuning_args.ref_model}`" if finetuning_args.ref_model else ""
        if finetuning_args.finetuning_type not in ("lora", "oft"):
            return
        check_chain("adapter_name_or_path", model_args.adapter_name_or_path or [])
        check_chain("ref_model_adapters", list(filter(None, (finetuning_args.ref_model_adapters or "").split(","))))
        if not self._wish and finetuning_args.use_ref_model:
            self._wish = _check_adapters(model_args, finetuning_args)

    def compare(
        self,
        trainer: PairTrainer,
        model: torch.nn.Module,
        batch: dict[str, Any],
        policy: dict[str, torch.Tensor],
        reference: tuple[torch.Tensor | None, torch.Tensor | None],
    ) -> None:
        """Compare log-probs of the first batch, once; all ranks together.

        Args:
            trainer: with the ranks, and the forward if dropout asks for another one.
            model: the policy.
            batch: what was forwarded.
            policy: `chosen_logps` and `rejected_logps`, each of shape (batch,).
            reference: the same of the reference, or None if this loss has none.

        Raises:
            UniDPOError: they differ, which nothing asks for.
        """
        if self._compared:
            return
        self._compared = True
        # `ld_alpha` weighs tokens of the policy's answers, and not of the reference's.
        if trainer.state.global_step or reference[0] is None or trainer.ld_alpha is not None:
            return
        lengths = (batch["labels"][:, 1:] != IGNORE_INDEX).sum(-1) if trainer.takes_means else 1
        off, too_far = _difference(trainer, policy, reference, lengths)
        if any_rank(trainer.accelerator, too_far) and (_drops(model) or trainer.args.neftune_noise_alpha):
            training = model.training
            model.eval()
            with torch.no_grad():
                policy = trainer.concatenated_forward(model, batch)
            model.train(training)
            off, too_far = _difference(trainer, policy, reference, lengths)
        if not any_rank(trainer.accelerator, too_far):
            return
        what = f"Before the first step, policy and reference differ by up to {off:.3g} nats on the first pairs"
        if not self._wish:
            raise UniDPOError(
                f"{what}, though the reference is to be the model that training starts from. Look whether the start "
                "model loads whole, and whether `uni_dpo_reference_cache` is of this model. To train against another "
                "reference, name it by `ref_model`."
            )
        logger.info_rank0(f"{what}, as {self._wish} asks.")


def _check_adapters(model_args: Any, finetuning_args: Any) -> str:
    """Refuse an adapter without which the reference is not the start model; return why one may be so."""
    base = model_args.model_name_or_path
    _, continued = adapters_before(model_args, finetuning_args)
    if continued is None:
        return ""
    if (training_record(continued) or {}).get("pref_loss"):  # its own reference was without it, too
        return f"training on in {continued}, whose reference was the model without it,"
    raise UniDPOError(
        f"`adapter_name_or_path` trains on in {continued}, and LlamaFactory takes the model without it as the "
        "reference, which is not the one that training starts from. Choose: `create_new_adapter: true` (a new adapter "
        "on top of it; not for quantised models or ZeRO-3), or the same adapter with "
        f"`ref_model: {base}` and `ref_model_adapters: {','.join(model_args.adapter_name_or_path)}`. `ref_model: "
        f"{base}` alone takes the base as the reference on purpose."
    )


def _drops(model: torch.nn.Module) -> bool:
    """Tell whether two forwards in training may differ."""
    config = getattr(model, "config", None)
    in_attention = getattr(config and config.get_text_config(), "attention_dropout", 0)
    return bool(in_attention) or any(isinstance(part, torch.nn.Dropout) and part.p for part in model.modules())


def _difference(
    trainer: PairTrainer, policy: dict[str, torch.Tensor], reference: Any, lengths: Any
) -> tuple[float, bool]:
    """Return the largest difference of two sums of log-probs, in nats, and whether one is beyond the bounds."""
    ours = torch.cat([policy["chosen_logps"], policy["rejected_logps"]]).detach().float() * lengths
    theirs = torch.cat(list(reference)).float() * lengths
    half = trainer.args.bf16 or trainer.args.fp16 or trainer.model.dtype in (torch.bfloat16, torch.float16)
    absolute, relative = BOUND_IN_HALF if half else BOUND
    off = (ours - theirs).abs()
    # NaN is another guard's, which says what to do about it.
    return float(off.max()), bool((off > absolute + relative * theirs.abs()).any())
