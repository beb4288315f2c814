"""What a model allows: the shared prompt, log-probs of responses only, or upstream's forward."""

from dataclasses import dataclass
from typing import Any

import transformers
from torch import nn

from . import own_forward
from .attention import ALL_MASK_ATTENTION_FUNCTIONS
from .families import LOOK_AHEAD, Family, decoder_of, family_of


ROUTES = ("shared_prefix", "response_only", "upstream")


@dataclass(frozen=True)
class Choice:
    """How log-probs of pairs are computed.

    Attributes:
        route: one of `ROUTES`.
        layout: the `kind` for `lay_out`; None for `upstream`.
        obstacle: why no better route is possible; empty for the best.
        varlen: whether attention is one call of torch's variable-length FlashAttention a layer.
    """

    route: str
    layout: str | None = None
    obstacle: str = ""
    varlen: bool = False


def choose(model: nn.Module, reference: nn.Module | None = None, unverified: bool = False) -> Choice:
    """Find the best route for a policy and its reference; both take the same, so that they start out equal.

    Args:
        model: a transformers model, or a PEFT model around one.
        reference: another, if there is one.
        unverified: whether a shared prompt may be what nobody has tried yet, because the user asked for it.
    """
    choices = [_best(plain_model(part), unverified) for part in (model, reference) if part is not None]
    return max(choices, key=lambda choice: (ROUTES.index(choice.route), choice.layout == "masked"))


def misses_attention(model: nn.Module) -> bool:
    """Tell whether a model's own attention leaves out what its images need, so that no forward of it is right."""
    config = plain_model(model).config
    return config.model_type in LOOK_AHEAD and config.get_text_config()._attn_implementation.startswith("flash")


def plain_model(model: nn.Module) -> nn.Module:
    """Take a transformers model out of PEFT's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _best(model: nn.Module, unverified: bool) -> Choice:
    if ALL_MASK_ATTENTION_FUNCTIONS is None:
        return Choice("upstream", obstacle=f"transformers {transformers.__version__} has no masking_utils")
    family = family_of(model)
    if family is None:
        kind, obstacle = getattr(model.config, "model_type", ""), own_forward.obstacle(model)
        if obstacle:
            return Choice("upstream", obstacle=f"the engine does not know models of type {kind!r}, and {obstacle}")
        return Choice("response_only", "rows", f"no shared prompt with models of type {kind!r}, which run as they are")
    config = decoder_of(model).config
    obstacle = _attention_obstacle(config, family) or family.obstacle(model)
    if not obstacle and not unverified and (untried := family.unverified(model)):
        obstacle = f"{untried}; `pref_forward: shared_prefix` asks for it"
    if obstacle:
        return Choice("response_only", "rows", obstacle)
    return Choice("shared_prefix", "masked" if config._attn_implementation == "eager" else "packed")


def _attention_obstacle(config: Any, family: Family) -> str:
    if config._attn_implementation not in ("sdpa", "eager", "flash_attention_2"):
        return f"no shared prompt with `{config._attn_implementation}` attention"
    others = set(getattr(config, "layer_types", None) or ()) - family.layer_types
    if "sliding_attention" in others or getattr(config, "sliding_window", None):
        return "no shared prompt with sliding-window attention"
    if others:
        return f"no shared prompt with layers of type {', '.join(sorted(others))}"
    if getattr(config, "attention_dropout", 0.0):
        return "no shared prompt with dropout in attention"
    return ""
