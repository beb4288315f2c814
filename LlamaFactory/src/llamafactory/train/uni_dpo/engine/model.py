"""A transformers model that takes a `PairLayout` and returns log-probs, through its own `forward`.

Going through `forward` is what keeps wrappers right: DDP, FSDP, DeepSpeed and PEFT see an ordinary call, with their
hooks before and after it. A call without a layout is the model's own.
"""

import functools
import types
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from . import own_forward
from .attention import NO_MASK_SHAPE, branch_mask, register
from .choice import Choice, plain_model
from .families import Family, decoder_of, encode, family_of, placeholder_ids, tower_of, tower_weights
from .families.family import ENCODERS
from .layout import PairLayout
from .logps import attach_head, token_logps


@dataclass
class PairLogps:
    """Log-probs of n pairs; 2n sequences, chosen ones first.

    Attributes:
        logps: summed log-probs in nats, shape (2n,).
        lengths: scored tokens, shape (2n,).
        logits: mean logit over each sequence's scored positions and the vocabulary, shape (2n,), without gradient.
        likeness: with `layout.squares` the mean over a sequence's scored tokens of log p(token) - log sum_v p(v)**2,
            shape (2n,), without gradient; else None.
        features: image and video features that came out of a frozen tower, by kind, to be given to another call.
    """

    logps: torch.Tensor
    lengths: torch.Tensor
    logits: torch.Tensor
    likeness: torch.Tensor | None
    features: dict[str, torch.Tensor]


def attach(model: nn.Module, choice: Choice) -> None:
    """Teach a model to take layouts; must happen before the model is wrapped for training, and may happen twice.

    Args:
        model: a transformers model, or a PEFT model around one.
        choice: what `choose` found for it.
    """
    model = plain_model(model)
    if choice.layout is None or getattr(model, "takes_pair_layouts", False):
        return
    family, original = family_of(model), model.forward
    if family is None:
        score = own_forward.attach(model)
    else:
        score = functools.partial(_score_pairs, model, family)
        attach_head(model.lm_head)
    if choice.layout == "packed":
        config = decoder_of(model).config
        config._attn_implementation = register(config._attn_implementation, choice.varlen)
        family.prepare(model)

    @functools.wraps(getattr(original, "__func__", original))  # transformers and accelerate read the signature
    def forward(self: nn.Module, *args: Any, pair_layout: PairLayout | None = None, **kwargs: Any):
        return original(*args, **kwargs) if pair_layout is None else score(pair_layout, **kwargs)

    model.forward = types.MethodType(forward, model)
    model.takes_pair_layouts = True


def pair_logps(
    model: nn.Module,
    layout: PairLayout,
    inputs: dict[str, torch.Tensor] | None = None,
    features: dict[str, torch.Tensor] | None = None,
    ld_alpha: float | None = None,
) -> PairLogps:
    """Compute the log-probs of a batch of pairs.

    Args:
        model: a model that `attach` was called on, in whatever wrappers.
        layout: the pairs, on the model's device.
        inputs: what a batch has beside its tokens, `pixel_values` and the like; with `media_once` each image once a
            pair, in order of pairs.
        features: encoded media by kind, shape (placeholders, width), which then need no encoding.
        ld_alpha: weight of tokens beyond the shorter answer's length (LD-DPO, arXiv 2409.06411); None for 1.

    Raises:
        ValueError: images and their placeholders do not match.
    """
    wrapped = model(pair_layout=layout, media_features=features or {}, **(inputs or {}))
    logps, likeness = wrapped["logps"], None
    lengths = torch.tensor(layout.lengths).to(logps.device, non_blocking=True)
    if layout.squares:
        likeness = _sums(logps.detach() - wrapped["squares"][0], layout) / lengths
    if ld_alpha is not None:
        logps = torch.where(layout.in_common_length, logps, ld_alpha * logps)
    means = _sums(wrapped["logits"], layout) / lengths
    return PairLogps(_sums(logps, layout), lengths, means, likeness, wrapped["features"])


def _sums(values: torch.Tensor, layout: PairLayout) -> torch.Tensor:
    """Sum up values of tokens by sequences: slices rather than `index_add`, which adds on a GPU in any order."""
    return torch.stack([part.sum() for part in values.split(layout.lengths)])


def encode_images(model: nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Encode images, as a model that is not wrapped does within its forward.

    Args:
        model: a transformers model.
        inputs: `pixel_values` and what else the model's encoder takes.

    Returns:
        Features, shape (placeholders, width); of each image where a model has `image_grid_thw`, else of all in one.

    Raises:
        ValueError: the model does not encode images to one row for each placeholder.
    """
    outcome, family = encode(model, "image", inputs), family_of(model)
    return own_forward.features(outcome) if family is None else family.features(outcome)


def image_width(model: nn.Module) -> int:
    """Count the numbers that one placeholder of an image gets."""
    return (family_of(model) or Family()).width(model)


def same_vision_tower(policy: nn.Module, reference: nn.Module | None) -> bool:
    """Tell whether policy and reference see every image alike, and always will, on this rank.

    Args:
        policy: the model in training; as its own reference (without adapter) if `reference` is None.
        reference: the other model.

    Returns:
        True if nothing in the policy's tower trains or drops out, and the reference's is equal bit for bit.
    """
    policy = plain_model(policy)
    weights = tower_weights(policy)
    if not weights or any(weight.requires_grad for weight in weights.values()):
        return False
    parts = [part for module in _modules(policy) for part in module.modules()]
    if any(isinstance(part, nn.Dropout) and part.p > 0 for part in parts):
        return False
    if reference is None:  # PEFT's layers and copies keep what they stand in for under these names
        return not any(hasattr(part, "base_layer") or hasattr(part, "original_module") for part in parts)
    return _equal(_tensors(policy), _tensors(plain_model(reference)))


def _modules(model: nn.Module) -> list[nn.Module]:
    return [part for part in tower_of(model).values() if isinstance(part, nn.Module)]


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    buffers = {f"{n}.{name}": value for n, part in enumerate(_modules(model)) for name, value in part.named_buffers()}
    tensors = tower_weights(model) | buffers
    # Under ZeRO-3 a parameter is an empty placeholder, and `ds_tensor` this rank's share of it.
    return {name: getattr(tensor, "ds_tensor", tensor) for name, tensor in tensors.items()}


def _equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype
        and first[name].shape == second[name].shape
        and torch.equal(first[name], second[name].to(first[name].device))
        for name in first
    )


def _score_pairs(
    model: nn.Module, family: Family, layout: PairLayout, media_features: dict[str, torch.Tensor], **inputs: Any
) -> dict[str, Any]:
    """Run inside the model's `forward`, and so inside whatever wraps it."""
    embeds = model.get_input_embeddings()(layout.input_ids)
    embeds, media, frozen = _media(model, family, embeds, layout, media_features, inputs)
    mask, spans = layout.attention_mask, {}
    if layout.spans is not None:
        mask, spans = embeds.new_zeros(NO_MASK_SHAPE), {"pair_spans": layout.spans}
    elif layout.branches is not None:
        mask = branch_mask(layout.branches, embeds.dtype)
    hidden = family.decode(model, embeds, media, attention_mask=mask, position_ids=layout.position_ids, **spans)
    scored = hidden.flatten(0, 1)[layout.sources]
    logps, logits, *squares = token_logps(model.lm_head, scored, layout.targets, layout.squares)
    return {"logps": logps, "logits": logits, "squares": squares, "features": frozen}


def _media(
    model: nn.Module,
    family: Family,
    embeds: torch.Tensor,
    layout: PairLayout,
    given: dict[str, torch.Tensor],
    inputs: dict[str, torch.Tensor],
) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]], dict[str, torch.Tensor]]:
    """Find features of images and videos, and their places; what a frozen tower made is for other calls too."""
    media, frozen = [], {}
    kinds = zip(ENCODERS.items(), layout.media_tokens, placeholder_ids(model.config), strict=True)
    for (kind, (_, names)), placeholders, token in kinds:
        features = given.get(kind)
        if features is None and inputs.get(names[0]) is not None:
            features, trains = _encode(model, family, kind, inputs)
            if not trains:
                frozen[kind] = features
        if features is None:
            continue
        features = features.to(embeds.device, embeds.dtype)
        if (
            placeholders == 0 and kind == "image"
        ):  # upstream's stand-in picture: every rank runs the tower, and nobody looks at it
            embeds = embeds + (0.0 * features).sum()
            continue
        repeats, rest = divmod(placeholders, len(features))
        if rest or repeats not in (1, 2):
            raise ValueError(
                f"A batch has {placeholders} {kind} placeholders and {len(features)} {kind} features. Usually "
                "`cutoff_len` cut a prompt within its image: raise it, or lower `image_max_pixels`. "
                "A model whose videos stand at placeholders of images needs `pref_forward: upstream`."
            )
        media.append((layout.input_ids == token, torch.cat([features] * repeats)))
    return embeds, media, frozen


def _encode(model: nn.Module, family: Family, kind: str, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, bool]:
    trains = torch.is_grad_enabled() and any(weight.requires_grad for weight in tower_weights(model).values())
    # Without `no_grad` LoRA with checkpointing can go back through a tower in which nothing trains.
    with torch.set_grad_enabled(trains):
        return torch.cat(family.features(encode(model, kind, inputs))), trains
