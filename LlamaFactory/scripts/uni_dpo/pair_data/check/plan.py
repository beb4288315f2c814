"""What a check is asked for, and what it leaves behind."""

from dataclasses import dataclass, field
from typing import Any

from ..images import MAX_PIXELS, MIN_PIXELS
from ..sources import Source
from .findings import Findings
from .media_index import MediaIndex
from .value_types import Types


@dataclass(frozen=True)
class Plan:
    """What to check, and how.

    Attributes:
        sources: the data sets to train on.
        held_out: those to evaluate on.
        scored: whether pairs need scores.
        weighted: whether they need weights.
        images: whether to open images.
        workers: processes that open images.
        max_pixels: LlamaFactory's `image_max_pixels`.
        min_pixels: and `image_min_pixels`.
        shards: processes that training prepares the data with, each from its own part of the rows.
        split: whether training holds out some of the rows itself (`val_size`).
        training: the options of training (`training.Options`) if they are known.
        tokens: whether to count tokens, with the options of training and images.
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
    tokens: bool = True
    weighted: bool = False


@dataclass
class Checked:
    """What a check leaves behind.

    Attributes:
        plan: what was checked.
        found: the findings.
        media: the images, videos and sounds.
        types: of the values of every data set, by file.
    """

    plan: Plan
    found: Findings
    media: MediaIndex
    types: list[list[Types]]
