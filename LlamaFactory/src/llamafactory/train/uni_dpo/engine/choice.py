"""What a model allows: the shared prompt, log-probs of responses only, or upstream's forward."""

from dataclasses import dataclass
from typing import Any

import transformers
from torch import nn

from .attention import ALL_MASK_ATTENTION_FUNCTIONS


ROUTES = ("shared_prefix", "response_only", "upstream")

# Models whose logits are `lm_head` of the decoder's output, and whose decoder hands keyword arguments to attention.
VISION_MODELS = ("qwen2_vl", "qwen2_5_vl")
TEXT_MODELS = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True)
class Choice:
    """How log-probs of pairs are computed.

    Attributes:
        route: one of `ROUTES`.
        layout: the `kind` for `lay_out`; None for `upstream`.
        obstacle: why no better route is possible; empty for the best.
    """

    route: str
    layout: str | None = None
    obstacle: str = ""


def choose(model: nn.Module, reference: nn.Module | None = None) -> Choice:
    """Find the best route for a policy and its reference; both take the same, so that they start out equal.

    Args:
        model: a transformers model, or a PEFT model around one.
        reference: another, if there is one.
    """
    choices = [_best(plain_model(part)) for part in (model, reference) if part is not None]
    return max(choices, key=lambda choice: (ROUTES.index(choice.route), choice.layout == "masked"))


def plain_model(model: nn.Module) -> nn.Module:
    """Take a transformers model out of PEFT's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _best(model: nn.Module) -> Choice:
    if ALL_MASK_ATTENTION_FUNCTIONS is None:
        return Choice("upstream", obstacle=f"transformers {transformers.__version__} has no masking_utils")
    kind = getattr(model.config, "model_type", "")
    head = getattr(model, "lm_head", None)
    if kind not in VISION_MODELS + TEXT_MODELS or head is None or model.get_output_embeddings() is not head:
        known = ", ".join(VISION_MODELS + TEXT_MODELS)
        return Choice("upstream", obstacle=f"the engine knows models of type {known}, and this one is {kind!r}")
    config = decoder_of(model).config
    obstacle = _attention_obstacle(config)
    if obstacle:
        return Choice("response_only", "rows", obstacle)
    return Choice("shared_prefix", "masked" if config._attn_implementation == "eager" else "packed")


def decoder_of(model: nn.Module) -> nn.Module:
    """Find the text decoder, whose config names the attention."""
    return getattr(model.model, "language_model", model.model)


def _attention_obstacle(config: Any) -> str:
    if config._attn_implementation not in ("sdpa", "eager", "flash_attention_2"):
        return f"no shared prompt with `{config._attn_implementation}` attention"
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()) or getattr(config, "sliding_window", None):
        return "no shared prompt with sliding-window attention"
    if getattr(config, "attention_dropout", 0.0):
        return "no shared prompt with dropout in attention"
    return ""
