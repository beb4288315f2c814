"""Checks of options and of their combinations; each raises `UniDPOError` in the user's own terms."""

import math
import sys
from collections.abc import Callable
from typing import Any, Literal, get_args, get_type_hints

from ....extras import logging
from ....extras.misc import is_env_enabled
from ....hparams.finetuning_args import FinetuningArguments
from ..engine.choice import ROUTES
from ..errors import UniDPOError
from ..upstream.underneath import OUR_LOSSES


# Upstream's own list of losses, whatever this version has, and ours.
PreferenceLoss = Literal[(*get_args(get_type_hints(FinetuningArguments)["pref_loss"]), *OUR_LOSSES)]

# Upstream always normalises these by length; it never does so for its other losses.
LENGTH_NORMALISED_UPSTREAM = ("ipo", "orpo", "simpo")

# Upstream has no use for a reference with these.
WITHOUT_REFERENCE = ("orpo", "simpo")

# Names that trl's DPO trainer does not know (0.24), so that LlamaFactory's list promises a loss that there is not.
UNKNOWN_TO_TRL = ("kto_pair",)

# What numbers of our losses have to be: a test, and its words. The types are looked at before.
ZERO_OR_MORE = (lambda value: value >= 0, "a number, zero or more")
ABOVE_ZERO = (lambda value: value > 0, "a number above zero")
FINITE = (math.isfinite, "a finite number")
LIMITS = {
    **dict.fromkeys(("uni_dpo_qual_eta", "uni_dpo_perf_gamma", "uni_dpo_nll_lambda"), ZERO_OR_MORE),
    **dict.fromkeys(("uni_dpo_tau_ref", "uni_dpo_tau_good"), FINITE),
    **dict.fromkeys(("pref_beta", "pref_reward_scale"), ABOVE_ZERO),
    "pref_flip_rate": (lambda value: 0 <= value < 0.5, "a number from 0 to below 0.5"),
    "pref_offset_alpha": ZERO_OR_MORE,
}

WITHOUT_OURS = "without `pref_loss: uni_dpo`, `dpo_average_log_prob`, `pref_forward` and the like"

logger = logging.get_logger(__name__)


def check_run(model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any) -> None:
    """Refuse what only other options than ours show, and leave the forward to upstream where they replace it.

    Raises:
        UniDPOError: the run would go around our trainer, or stop later.
    """
    # The option's name before and since transformers 5.1.
    if getattr(training_args, "group_by_length", False) or (
        getattr(training_args, "train_sampling_strategy", "") == "group_by_length"
    ):
        raise UniDPOError(
            "`group_by_length` orders single texts, and a pair has two; remove it. It would save nothing: "
            "`pref_forward: shared_prefix` packs pairs without padding."
        )
    if getattr(model_args, "use_kt", False):
        raise UniDPOError(f"`use_kt` brings a trainer of its own, {WITHOUT_OURS}; remove it.")
    if not data_args.ignore_pad_token_for_loss:
        raise UniDPOError("`ignore_pad_token_for_loss: false` scores padding, which no answer consists of; remove it.")
    # NEFTune's noise depends on the length of a row, and a row of ours has all pairs.
    changing = {"neftune_noise_alpha": training_args.neftune_noise_alpha}
    changing |= {name: getattr(model_args, name, None) for name in ("use_unsloth", "shift_attn", "mixture_of_depths")}
    for name, value in changing.items():
        if not value or finetuning_args.forward_route == "upstream":
            continue
        if finetuning_args.forward_route != "auto":
            raise UniDPOError(
                f"`{name}` changes the model's forward, so `pref_forward: {finetuning_args.pref_forward}` is not "
                "possible; remove one of them."
            )
        finetuning_args.pref_forward = "upstream"
        logger.info_rank0(f"pref_forward: upstream, as `{name}` changes the model's forward.")


def check_loss(args: Any) -> None:
    """Refuse a loss or a forward that is none, and a clash of the two."""
    # The parser checks choices on the command line only, so a misspelt loss in a YAML would fail much later.
    if args.pref_loss not in get_args(PreferenceLoss):
        raise UniDPOError(
            f"`pref_loss: {args.pref_loss}` is unknown; choose from {', '.join(get_args(PreferenceLoss))}."
        )
    if args.pref_forward not in (None, "auto", *ROUTES):
        raise UniDPOError(f"`pref_forward: {args.pref_forward}` is unknown; choose from auto, {', '.join(ROUTES)}.")
    if args.dpo_average_log_prob is False and args.pref_loss in LENGTH_NORMALISED_UPSTREAM:
        raise UniDPOError(
            f"`dpo_average_log_prob: false` is impossible with `pref_loss: {args.pref_loss}`: LlamaFactory always "
            "normalises this loss by length. Remove the option."
        )


def check_trainer(args: Any) -> None:
    """Refuse what our trainer cannot do, whatever the loss."""
    if args.uni_dpo_reference_cache and args.pref_loss in WITHOUT_REFERENCE:
        raise UniDPOError(
            f"`uni_dpo_reference_cache` has no meaning with `pref_loss: {args.pref_loss}`, which has no reference; "
            "remove it."
        )
    check_other_losses(args)
    check_weights_and_anchor(args)
    _require(args, "uni_dpo_image_cache_gb", *ABOVE_ZERO)
    _require(args, "pref_token_budget", *ZERO_OR_MORE)
    for name in ("uni_dpo_image_cache", "pref_token_budget", "pref_varlen_attention"):
        if getattr(args, name) and args.pref_forward == "upstream":
            raise UniDPOError(f"`{name}` is not possible with `pref_forward: upstream`; remove one of them.")
    if args.pref_token_budget and args.pref_bco_weight != 0:
        raise UniDPOError(
            "`pref_token_budget` is not possible with `pref_bco_weight`, whose running mean goes by micro-batches, "
            "which are joined; remove one of them."
        )
    if getattr(args, "use_mca", False) or is_env_enabled("USE_MCA"):
        raise UniDPOError(f"`use_mca` (USE_MCA=1) brings a trainer of its own, {WITHOUT_OURS}; unset USE_MCA.")
    if is_env_enabled("USE_V1"):
        raise UniDPOError(f"USE_V1=1 asks for LlamaFactory v1, {WITHOUT_OURS}; unset USE_V1.")


def check_other_losses(args: Any) -> None:
    """Refuse what our options for upstream's losses cannot do."""
    _require(args, "pref_margin_scale", *ZERO_OR_MORE)
    _require(args, "pref_margin_rate", *ABOVE_ZERO)
    if args.uses_margin and args.pref_loss != "sigmoid":
        raise UniDPOError(
            f"`pref_margin_scale: {args.pref_margin_scale}` scales the beta of `pref_loss: sigmoid` and of no other, "
            f"but this run has `pref_loss: {args.pref_loss}`. Change one of them."
        )
    if args.pref_loss_as_named and args.pref_loss in UNKNOWN_TO_TRL:
        raise UniDPOError(
            f"`pref_loss_as_named` is impossible with `pref_loss: {args.pref_loss}`: trl, which computes it for "
            "LlamaFactory, has none of this name. Choose another one, or remove `pref_loss_as_named` to train the "
            "sigmoid loss under this name."
        )
    if args.pref_loss_as_named or args.uses_margin:
        _require(args, "pref_beta", *ABOVE_ZERO)


def check_weights_and_anchor(args: Any) -> None:
    """Refuse what our options for any loss cannot do."""
    _require(args, "pref_anchor", *ZERO_OR_MORE)
    _require(args, "pref_anchor_delta", *FINITE)
    if args.pref_anchor:
        _require(args, "pref_beta", *ABOVE_ZERO)
        if args.pref_loss in WITHOUT_REFERENCE:
            raise UniDPOError(
                f"`pref_anchor: {args.pref_anchor}` compares the policy with the reference, and `pref_loss: "
                f"{args.pref_loss}` has none. Change one of them."
            )
    if args.pref_policy_weights and args.ld_alpha is not None:
        raise UniDPOError(
            "`pref_policy_weights` is not possible with `ld_alpha`: it weighs whole answers, of which `ld_alpha` "
            "leaves out a part. Remove one of them."
        )


def check_our_loss(args: Any) -> None:
    """Refuse numbers that our loss cannot use, and options that it would ignore."""
    for name in args.our_loss.options.values():
        if name in LIMITS:
            _require(args, name, *LIMITS[name])
    no_meaning = f"has no meaning with `pref_loss: {args.pref_loss}`; remove it"
    for name in ("dpo_label_smoothing", "pref_bco_weight"):
        if getattr(args, name) != 0:
            raise UniDPOError(f"`{name}` {no_meaning} or set it to 0.")
    if args.ld_alpha is not None:  # upstream applies it to the policy only, and ours compare it with the reference
        raise UniDPOError(f"`ld_alpha` {no_meaning}.")


def _require(args: Any, name: str, holds: Callable[[float], bool], what: str) -> None:
    value = getattr(args, name)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (is_number and abs(value) <= sys.float_info.max and holds(value)):  # NaN is in no order
        raise UniDPOError(f"`{name}` is {value!r}, but has to be {what}.")
