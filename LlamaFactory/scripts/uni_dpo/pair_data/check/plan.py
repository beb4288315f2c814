"""What to check, and how."""

from dataclasses import dataclass, field
from typing import Any

from ..images import MAX_PIXELS, MIN_PIXELS
from ..sources import Source


@dataclass(frozen=True)
class Plan:
    """What to check, and how.

    Attributes:
        sources: the data sets to train on.
        held_out: those to evaluate on.
        scored: whether pairs need scores.
        images: whether to open images.
        workers: processes that open images.
        max_pixels: LlamaFactory's `image_max_pixels`.
        min_pixels: and `image_min_pixels`.
        shards: processes that training prepares the data with, each from its own part of the rows.
        split: whether training holds out some of the rows itself (`val_size`).
        training: for tokens, the options of training (`training.Options`), or None.
        tokenized: the same for the `tokenized_path` of a run, whether or not tokens are counted.
    """

    sources: list[Source]
    held_out: list[Source] = field(default_factory=list)
    scored: bool = True
    images: bool = True
    workers: int = 1
    max_pixels: int = MAX_PIXELS
    min_pixels: int = MIN_PIXELS
    shards: int = 1
    split: bool = False
    training: Any = None
    tokenized: Any = None
