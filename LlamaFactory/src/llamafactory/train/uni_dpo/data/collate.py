"""Batches of pairs: upstream's, plus what a pair carries, each image processed once, and the engine's layout."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ....data.collator import PairwiseDataCollatorWithPadding
from ..engine import Choice, lay_out, placeholder_ids
from ..errors import UniDPOError
from ..proxy import Proxy
from .columns import CARRIED_DTYPES, MEDIA_KEYS, POSITION_KEYS, ROW_KEYS
from .media import refuse_unreadable


@dataclass
class PairCollator(PairwiseDataCollatorWithPadding):
    """Upstream's batch of n chosen and n rejected rows and more, as far as it is asked for.

    The model must not see the added keys, so the trainer takes them out again: the carried columns, `pair_layout`, and
    `image_features` where images are stored.

    Attributes:
        choice: what the engine wants; None if batches are for upstream's forward.
        read_image: gives the stored features and grid of an image by its key; None if images themselves are read.
        dataset_names: of training and of evaluation, for messages.
    """

    dataset_names: tuple[list[str], ...] = ()

    def __post_init__(self):
        """Start as upstream's; `serve` changes that."""
        super().__post_init__()
        self.choice: Choice | None = None
        self.read_image: Callable[[str], tuple[torch.Tensor, torch.Tensor | None]] | None = None

    def serve(self, choice: Choice) -> None:
        """Lay batches out for the engine from now on; workers that run already do not notice."""
        if choice.layout is None:
            return
        self.choice = choice
        self.template = copy.copy(self.template)
        self.template.mm_plugin = MediaOnce(self.template.mm_plugin)

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate pairs.

        Raises:
            UniDPOError: an image or a video cannot be read any more, or has no place in its prompt.
        """
        if self.choice is None:
            batch = self._upstream_batch(features)
        else:
            plugin = self.template.mm_plugin
            keys = [key for feature in features for key in feature.get("image_keys", [])]
            plugin.stored = None if self.read_image is None else [self.read_image(key) for key in keys]
            batch = self._upstream_batch(features)
            self._lay_out(batch, plugin)
            # Other routes call the model's own forward, which looks itself, and whose placeholders we may not know.
            seen = any(feature.get("images") or feature.get("image_keys") for feature in features)
            if seen and self.choice.route == "shared_prefix":
                _require_places(batch["pair_layout"])
        for name, dtype in CARRIED_DTYPES.items():
            if name in features[0]:
                batch[name] = torch.tensor([feature[name] for feature in features], dtype=dtype)
        return batch

    def _upstream_batch(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        try:
            return super().__call__(features)
        except Exception:
            refuse_unreadable(features, self.dataset_names)
            raise

    def _lay_out(self, batch: dict[str, Any], plugin: "MediaOnce") -> None:
        ids = placeholder_ids(self.model.config)
        layout = lay_out(batch, self.choice.layout, ids)
        if not plugin.halved and any(layout.media_tokens):  # media come for both rows of a pair
            layout = lay_out(batch, "rows", ids)
        layout.media_once, batch["pair_layout"] = plugin.halved, layout
        if layout.media_once:
            batch |= {name: _half(batch[name]) for name in POSITION_KEYS if batch.get(name) is not None}
        if plugin.stored:
            batch["image_features"] = torch.cat([features for features, _ in plugin.stored])
        elif plugin.stored is not None:  # of a text-only batch's stand-in picture: no rank runs the tower
            batch.pop("pixel_values", None)


def _require_places(layout: Any) -> None:
    """Refuse images without a token: they would pass for the stand-in picture of text, which nobody looks at."""
    if not layout.media_tokens[0]:
        raise UniDPOError(
            "Pairs with images have no image tokens. Either `cutoff_len` cut them off: raise it, or lower "
            "`image_max_pixels`; or `tokenized_path` was made with another tokenizer: give another one."
        )


class MediaOnce(Proxy):
    """Upstream's media plugin, which is asked for the media of 2n rows and processes those of n pairs.

    Attributes:
        halved: whether the last batch was one whose two halves have the same media.
        stored: features and grid (None where the model has none) of each image of the next batch, if they are stored.
    """

    def __init__(self, plugin: Any):
        """Stand in for `plugin`."""
        super().__init__(plugin)
        self.halved = False
        self.stored: list[tuple[torch.Tensor, torch.Tensor | None]] | None = None

    def get_mm_inputs(
        self,
        images: list,
        videos: list,
        audios: list,
        image_counts: list[int],
        video_counts: list[int],
        audio_counts: list[int],
        rows: list[list[int]],
        processor: Any,
    ) -> dict[str, Any]:
        """Process the media of the first half of the rows; sizes, which positions depend on, come for both."""
        media = [(images, image_counts), (videos, video_counts), (audios, audio_counts)]
        self.halved = not audios and all(_same_halves(items) and _same_halves(counts) for items, counts in media)
        if self.halved:
            halves = [_half(items) for items, _ in media] + [_half(counts) for _, counts in media]
            if self.stored:
                halves[0], halves[3] = [], [0] * len(halves[3])
            inputs = self._original.get_mm_inputs(*halves, rows, processor)
            if self.stored and self.stored[0][1] is not None:
                inputs["image_grid_thw"] = torch.stack([grid for _, grid in self.stored])
            by_row = {name: len(inputs[name]) for name in ROW_KEYS if name in inputs}
            if inputs.keys() - by_row.keys() <= set(MEDIA_KEYS) and set(by_row.values()) <= {len(rows)}:
                return inputs | {name: doubled(inputs[name]) for name in POSITION_KEYS if inputs.get(name) is not None}
        self.halved = False
        counts = (image_counts, video_counts, audio_counts)
        return self._original.get_mm_inputs(images, videos, audios, *counts, rows, processor)


def upstream_rows(batch: dict[str, Any]) -> dict[str, Any]:
    """Make what upstream's forward expects of a batch that was collated for the engine, or leave it as it is."""
    layout = batch.get("pair_layout")
    rows = {name: value for name, value in batch.items() if name != "pair_layout"}
    if layout is not None and layout.media_once:
        rows |= {name: doubled(rows[name]) for name in MEDIA_KEYS if rows.get(name) is not None}
    return rows


def doubled(values: torch.Tensor | list) -> torch.Tensor | list:
    """Repeat what belongs to n chosen rows for the n rejected ones."""
    return torch.cat([values, values]) if torch.is_tensor(values) else [*values, *values]


def _half(values: torch.Tensor | list) -> torch.Tensor | list:
    return values[: len(values) // 2]


def _same_halves(items: list) -> bool:
    half = len(items) // 2
    return len(items) % 2 == 0 and all(a is b or a == b for a, b in zip(items[:half], items[half:], strict=True))
