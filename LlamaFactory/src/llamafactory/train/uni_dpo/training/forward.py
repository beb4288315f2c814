"""The trainer's forward: which route computes the log-probs of a run."""

from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from transformers import TrainingArguments

from ....extras import logging
from ..data.columns import CARRIED_DTYPES
from ..engine import Choice, attach, choose, has_varlen, misses_attention, pair_logps, same_vision_tower
from ..errors import UniDPOError
from ..ranks import any_rank


logger = logging.get_logger(__name__)

# What a batch has besides inputs of the model's forward, and what the layout has instead of it.
NOT_INPUTS = (
    "labels",
    "pair_layout",
    "image_features",
    "input_ids",
    "attention_mask",
    "position_ids",
    *CARRIED_DTYPES,
)


class PairForward:
    """Log-probs of batches of pairs by the engine, after it was seen to agree with upstream's forward.

    Attributes:
        choice: what the engine does in this run; `upstream` when it does nothing.
        checked: whether `self_check.py` has nothing more to do.
        shares_features: whether the reference can use the policy's image features.
    """

    def __init__(self, model: torch.nn.Module, reference: torch.nn.Module | None, route: str, varlen: bool = False):
        """Choose, and prepare both models, before anything wraps them.

        Args:
            model: the policy.
            reference: the reference model; None if there is none, or if it is the policy without its adapter.
            route: the option `pref_forward`.
            varlen: the option `pref_varlen_attention`.

        Raises:
            UniDPOError: `route` asks for more than the models allow, or a model is not right by any route.
        """
        if misses_attention(model):
            raise UniDPOError(
                f"`flash_attn: fa2` is not possible with models of type {model.config.model_type!r}: tokens of one "
                "image see each other there, and transformers' FlashAttention leaves that out. Use `flash_attn: sdpa`."
            )
        self.choice = _choice(model, reference, route)
        if varlen:
            self.choice = _with_varlen(self.choice, model)
        for part in (model, reference):
            if part is not None:
                attach(part, self.choice)
        self.checked = self.choice.layout is None
        self.shares_features = self.choice.layout is not None and same_vision_tower(model, reference)
        self._features: dict[str, torch.Tensor] = {}

    def agree(self, accelerator: Accelerator) -> None:
        """Share image features between policy and reference only if every rank can: all must do the same work."""
        # Under FSDP only the main process need have loaded weights yet; the others' may be whatever memory held.
        knows = accelerator.is_main_process or accelerator.distributed_type != DistributedType.FSDP
        self.shares_features = not any_rank(accelerator, knows and not self.shares_features)

    def serves(self, batch: dict[str, Any]) -> bool:
        """Tell whether the engine computes this batch."""
        return self.choice.layout is not None and "pair_layout" in batch

    def run(
        self,
        model: torch.nn.Module,
        batch: dict[str, Any],
        is_ref_model: bool,
        ld_alpha: float | None,
        likeness: bool = False,
    ) -> dict[str, torch.Tensor]:
        """Compute sums of log-probs, lengths, mean logits and, if asked, WPO's likeness of 2n sequences.

        The policy's call comes first; the image features of its frozen tower serve the reference's call too.
        """
        layout, inputs = batch["pair_layout"], {name: batch[name] for name in batch if name not in NOT_INPUTS}
        given = self._features if is_ref_model and self.shares_features else {}
        if "image_features" in batch:
            given = given | {"image": batch["image_features"]}
        self._features, layout.squares = {}, likeness
        output = pair_logps(model, layout, inputs, given, ld_alpha)
        if not is_ref_model and self.shares_features:
            self._features = output.features
        return {name: getattr(output, name) for name in ("logps", "lengths", "logits", "likeness")}


def require_varlen(args: TrainingArguments) -> None:
    """Refuse `pref_varlen_attention` where torch has no such kernel, or none for this device or precision.

    Raises:
        UniDPOError: it says what is missing.
    """
    lacks = "" if has_varlen() else f"torch 2.11 or newer (this is {torch.__version__})"
    if args.device.type != "cuda" or not (args.bf16 or args.fp16):
        lacks = "`bf16: true` or `fp16: true` on a GPU"
    if lacks:
        raise UniDPOError(f"`pref_varlen_attention` needs {lacks}; remove it.")


def _with_varlen(choice: Choice, model: torch.nn.Module) -> Choice:
    attention = model.config.get_text_config()._attn_implementation
    if choice.layout != "packed" or attention != "sdpa":
        raise UniDPOError(
            f"`pref_varlen_attention` is for `shared_prefix` and `flash_attn: sdpa`; this run has {choice.route} and "
            f"{attention}. Remove it."
        )
    logger.warning_rank0("pref_varlen_attention: no GPU has tried this kernel yet; the self-check looks at it.")
    return replace(choice, varlen=True)


def _choice(model: torch.nn.Module, reference: torch.nn.Module | None, route: str) -> Choice:
    if route == "upstream":
        return Choice("upstream")
    best = choose(model, reference, unverified=route == "shared_prefix")
    if route == "response_only" and best.route == "shared_prefix":
        best = Choice("response_only", "rows")
    elif route not in ("auto", best.route):
        raise UniDPOError(f"`pref_forward: {route}` is not possible: {best.obstacle}. Use `auto` or `{best.route}`.")
    logger.info_rank0(f"pref_forward: {best.route}" + (f" ({best.obstacle})." if best.obstacle else "."))
    return best
