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

from .attention import NO_MASK_SHAPE, branch_mask, register
from .choice import Choice, decoder_of, plain_model
from .layout import PairLayout
from .logps import attach_head, token_logps


# Pixels and grids of each kind of media, and the model's method that encodes them.
MEDIA = {
    "image": ("pixel_values", "image_grid_thw", "get_image_features"),
    "video": ("pixel_values_videos", "video_grid_thw", "get_video_features"),
}


@dataclass
class PairLogps:
    """Log-probs of n pairs; 2n sequences, chosen ones first.

    Attributes:
        logps: summed log-probs in nats, shape (2n,).
        lengths: scored tokens, shape (2n,).
        logits: mean logit over each sequence's scored positions and the vocabulary, shape (2n,), without gradient.
        features: image and video features that came out of a frozen tower, by kind, to be given to another call.
    """

    logps: torch.Tensor
    lengths: torch.Tensor
    logits: torch.Tensor
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
    if choice.layout == "packed":
        config = decoder_of(model).config
        config._attn_implementation = register(config._attn_implementation)
    attach_head(model.lm_head)
    original = model.forward

    @functools.wraps(getattr(original, "__func__", original))  # transformers and accelerate read the signature
    def forward(self: nn.Module, *args: Any, pair_layout: PairLayout | None = None, **kwargs: Any):
        return original(*args, **kwargs) if pair_layout is None else _score_pairs(self, pair_layout, **kwargs)

    model.forward = types.MethodType(forward, model)
    model.takes_pair_layouts = True


def pair_logps(
    model: nn.Module,
    layout: PairLayout,
    media: dict[str, torch.Tensor] | None = None,
    features: dict[str, torch.Tensor] | None = None,
    ld_alpha: float | None = None,
) -> PairLogps:
    """Compute the log-probs of a batch of pairs.

    Args:
        model: a model that `attach` was called on, in whatever wrappers.
        layout: the pairs, on the model's device.
        media: `pixel_values` and `image_grid_thw` (and those of videos), each image once a pair, in order of pairs.
        features: encoded media by kind, shape (placeholders, size), which then need no encoding.
        ld_alpha: weight of tokens beyond the shorter answer's length (LD-DPO, arXiv 2409.06411); None for 1.

    Raises:
        ValueError: images and their placeholders do not match.
    """
    wrapped = model(pair_layout=layout, media_features=features or {}, **(media or {}))
    logps = wrapped["logps"]
    if ld_alpha is not None:
        logps = torch.where(layout.in_common_length, logps, ld_alpha * logps)
    lengths = torch.tensor(layout.lengths).to(logps.device, non_blocking=True)
    # Sums of slices rather than `index_add`, whose order of additions on a GPU is left to chance.
    sums, means = (torch.stack([part.sum() for part in x.split(layout.lengths)]) for x in (logps, wrapped["logits"]))
    return PairLogps(sums, lengths, means / lengths, wrapped["features"])


def encode_images(model: nn.Module, pixels: torch.Tensor, grid: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Encode images one by one, as a model that is not wrapped does within its forward.

    Args:
        model: a transformers model.
        pixels: patches of all images, shape (patches, values).
        grid: their sizes in patches (frames, height, width), shape (images, 3).

    Returns:
        For each image its features, shape (placeholders, size).
    """
    return _features(model, MEDIA["image"][2], pixels, grid)


def same_vision_tower(policy: nn.Module, reference: nn.Module | None) -> bool:
    """Tell whether policy and reference see every image alike, and always will, on this rank.

    Args:
        policy: the model in training; as its own reference (without adapter) if `reference` is None.
        reference: the other model.

    Returns:
        True if nothing in the policy's tower trains or drops out, and the reference's is equal bit for bit.
    """
    tower = getattr(plain_model(policy).model, "visual", None)
    if tower is None or any(weight.requires_grad for weight in tower.parameters()):
        return False
    if any(isinstance(part, nn.Dropout) and part.p > 0 for part in tower.modules()):
        return False
    if reference is None:  # PEFT's layers and copies keep what they stand in for under these names
        return not any(hasattr(part, "base_layer") or hasattr(part, "original_module") for part in tower.modules())
    other = getattr(plain_model(reference).model, "visual", None)
    return other is not None and _equal(_tensors(tower), _tensors(other))


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
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
    model: nn.Module, layout: PairLayout, media_features: dict[str, torch.Tensor], **media: Any
) -> dict[str, Any]:
    """Run inside the model's `forward`, and so inside whatever wraps it."""
    embeds = model.get_input_embeddings()(layout.input_ids)
    embeds, features = _embed_media(model, embeds, layout, media_features, media)
    mask, kwargs = layout.attention_mask, {}
    if layout.spans is not None:
        mask, kwargs = embeds.new_zeros(NO_MASK_SHAPE), {"pair_spans": layout.spans}
    elif layout.branches is not None:
        mask = branch_mask(layout.branches, embeds.dtype)
    output = model.model(
        inputs_embeds=embeds,
        attention_mask=mask,
        position_ids=layout.position_ids,
        use_cache=False,
        return_dict=True,
        **kwargs,
    )
    hidden = output.last_hidden_state.flatten(0, 1)[layout.sources]
    logps, logits = token_logps(model.lm_head, hidden, layout.targets)
    return {"logps": logps, "logits": logits, "features": features}


def _embed_media(
    model: nn.Module,
    embeds: torch.Tensor,
    layout: PairLayout,
    given: dict[str, torch.Tensor],
    media: dict[str, torch.Tensor],
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Put image and video features where their placeholders are; return those of a frozen tower too."""
    frozen = {}
    for (kind, (pixels, grid, encode)), placeholders in zip(MEDIA.items(), layout.media_tokens, strict=True):
        features = given.get(kind)
        if features is None and media.get(pixels) is not None:
            features, trains = _encode(model, encode, media[pixels], media[grid])
            if not trains:
                frozen[kind] = features
        if features is None:
            continue
        features = features.to(embeds.device, embeds.dtype)
        if placeholders == 0:  # upstream's stand-in picture: every rank runs the tower, and nobody looks at it
            embeds = embeds + (0.0 * features).sum()
            continue
        repeats, rest = divmod(placeholders, len(features))
        if rest or repeats > 2:
            raise ValueError(
                f"A batch has {placeholders} {kind} placeholders and {len(features)} {kind} features. Usually "
                "`cutoff_len` cut a prompt within its image: raise it, or lower `image_max_pixels`."
            )
        token = getattr(model.config, f"{kind}_token_id")
        where = (layout.input_ids == token)[..., None].expand_as(embeds)
        embeds = embeds.masked_scatter(where, torch.cat([features] * repeats))
    return embeds, frozen


def _encode(model: nn.Module, method: str, pixels: torch.Tensor, grid: torch.Tensor) -> tuple[torch.Tensor, bool]:
    trains = torch.is_grad_enabled() and any(weight.requires_grad for weight in model.model.visual.parameters())
    # Without `no_grad` LoRA with checkpointing can go back through a tower in which nothing trains.
    with torch.set_grad_enabled(trains):
        return torch.cat(_features(model, method, pixels, grid)), trains


def _features(model: nn.Module, method: str, pixels: torch.Tensor, grid: torch.Tensor) -> tuple[torch.Tensor, ...]:
    features = getattr(model.model, method)(pixels, grid)
    return tuple(getattr(features, "pooler_output", features))  # transformers 5 wraps them
