"""Qwen3-VL: features of some tower layers are added to the first decoder layers too (DeepStack, arXiv 2406.04334).

A placeholder's numbers are its embedding followed by what each of these layers adds, side by side, so that whoever
stores or shares features need not know.
"""

from typing import Any

import torch
from torch import nn

from .family import Family


class Qwen3VL(Family):
    """Hands DeepStack's part of the features to the decoder, which the model's body would compute again."""

    def width(self, model: nn.Module) -> int:
        """Count the embedding, and as many again for each layer of DeepStack."""
        return super().width(model) * (1 + len(model.config.vision_config.deepstack_visual_indexes))

    def features(self, outcome: Any) -> tuple[torch.Tensor, ...]:
        """Read embeddings and DeepStack's features, side by side."""
        if isinstance(outcome, tuple):  # transformers 4
            found, deep = outcome
        else:
            found, deep = outcome.pooler_output, outcome.deepstack_features
        found = [found] if torch.is_tensor(found) else list(found)
        parts = torch.cat([torch.cat(found), *deep], dim=-1)
        return parts.split([len(part) for part in found])

    def decode(
        self, model: nn.Module, embeds: torch.Tensor, media: list[tuple[torch.Tensor, torch.Tensor]], **inputs: Any
    ) -> torch.Tensor:
        """Run the decoder with what DeepStack adds at the placeholders of images and videos."""
        if not media:
            return super().decode(model, embeds, media, **inputs)
        size = embeds.shape[-1]
        placed = embeds.new_zeros(*embeds.shape[:2], media[0][1].shape[-1])
        for where, features in media:
            placed = placed.masked_scatter(where[..., None].expand_as(placed), features)
        anywhere = torch.stack([where for where, _ in media]).any(0)
        found = placed[anywhere].split(size, dim=-1)
        deep = {"visual_pos_masks": anywhere, "deepstack_visual_embeds": list(found[1:])}
        return super().decode(model, embeds, [(anywhere, found[0])], **deep, **inputs)
