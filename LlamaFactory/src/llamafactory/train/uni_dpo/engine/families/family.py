"""What the engine asks of a family of models, and the answer of most.

Most are a causal decoder that mixes positions only in attention, an output layer that is a matrix, and media whose
features replace the embeddings of placeholders.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


# Of each kind of media: the model's method that encodes it, and what a batch may bring for that method.
ENCODERS = {
    "image": ("get_image_features", ("pixel_values", "image_grid_thw", "image_sizes", "image_position_ids")),
    "video": (
        "get_video_features",
        ("pixel_values_videos", "video_grid_thw", "video_position_ids", "second_per_grid_ts"),
    ),
}


class Family:
    """The plain case; others override what differs.

    Attributes:
        layer_types: entries of a config's `layer_types` that this family's shared prompt is exact for.
    """

    layer_types: frozenset[str] = frozenset({"full_attention"})

    def obstacle(self, model: nn.Module) -> str:
        """Say why the shared prompt would not be exact in this model, beyond attention; empty if it is."""
        return ""

    def unverified(self, model: nn.Module) -> str:
        """Say what in this model nobody has tried yet with a shared prompt, so that a user has to ask for it."""
        return ""

    def prepare(self, model: nn.Module) -> None:
        """Let the model's layers take `pair_spans`, beyond what attention does itself."""

    def width(self, model: nn.Module) -> int:
        """Count the numbers that one placeholder of an image gets."""
        return model.get_input_embeddings().embedding_dim

    def features(self, outcome: Any) -> tuple[torch.Tensor, ...]:
        """Read features from what the model's encoder returns, each of shape (placeholders, `width`)."""
        found = getattr(outcome, "pooler_output", outcome)  # transformers 5 wraps them
        return tuple(part.flatten(0, -2) for part in ((found,) if torch.is_tensor(found) else found))

    def decode(
        self, model: nn.Module, embeds: torch.Tensor, media: list[tuple[torch.Tensor, torch.Tensor]], **inputs: Any
    ) -> torch.Tensor:
        """Run the decoder.

        Args:
            model: a transformers model.
            embeds: of all tokens, shape (rows, length, size).
            media: for each kind, where its placeholders are, shape (rows, length), and their features in this order,
                shape (placeholders, `width`).
            inputs: keyword arguments of the decoder.

        Returns:
            The states that the output layer takes, shape (rows, length, size).
        """
        for where, features in media:
            embeds = embeds.masked_scatter(where[..., None].expand_as(embeds), features)
        return decoder_of(model)(inputs_embeds=embeds, use_cache=False, return_dict=True, **inputs).last_hidden_state


def decoder_of(model: nn.Module) -> nn.Module:
    """Find the text decoder, whose config names the attention."""
    return getattr(model.model, "language_model", model.model)


def tower_of(model: nn.Module) -> dict[str, nn.Module | nn.Parameter]:
    """Find everything that media go through before the decoder sees them: whatever is not the decoder."""
    decoder = decoder_of(model)
    if decoder is model.model:
        return {}
    parts = [*model.model.named_children(), *model.model.named_parameters(recurse=False)]
    return {name: part for name, part in parts if part is not decoder}


def tower_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """List the parameters of the tower by name."""
    weights = {}
    for name, part in tower_of(model).items():
        named = {"": part} if isinstance(part, nn.Parameter) else dict(part.named_parameters())
        weights |= {f"{name}.{inner}": weight for inner, weight in named.items()}
    return weights


def placeholder_ids(config: Any) -> tuple[int | None, int | None]:
    """Find the token ids that stand for images and for videos, None where a model has none."""
    image = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
    return image, getattr(config, "video_token_id", None)


def encode(model: nn.Module, kind: str, media: Mapping[str, Any]) -> Any:
    """Call the model's encoder of a kind of media with what it takes of a batch."""
    name, (pixels, *others) = ENCODERS[kind]
    method = getattr(model.model, name)
    taken = inspect.signature(method).parameters
    return method(media[pixels], **{name: media[name] for name in others if name in taken and name in media})
