"""The pass that encodes images with a frozen vision tower, going on from where an earlier one was interrupted."""

import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ....extras import logging
from ..engine import encode_images, plain_model
from ..errors import UniDPOError
from .images import ImageCache
from .work import flushing, loader, progress, share, whole


if TYPE_CHECKING:
    from ..trainer import UniDPOTrainer

logger = logging.get_logger(__name__)

IMAGES_AT_ONCE = 4


def fill_images(trainer: "UniDPOTrainer", splits: dict[str, Any], cache: ImageCache, limit: float) -> None:
    """Encode the images that are missing.

    Args:
        trainer: before its model is wrapped for training.
        splits: data sets by name, with a column `image_keys`.
        cache: where features go.
        limit: bytes that all features may take.

    Raises:
        UniDPOError: the vision tower is not one that sees an image alike throughout the run, or images need too much
            space.
    """
    _require_fixed_tower(trainer)
    images, tokens = {}, 0
    for split in splits.values():
        parts = split.values() if isinstance(split, dict) else [split]
        tokens += sum(_find_missing(trainer, part, cache, images) for part in parts)
    if not images:
        logger.info_rank0("Image features: all stored already.")
        return
    _require_space(trainer, cache, len(images), tokens, limit)
    mine = share(trainer, list(images.items()), by_one=trainer.is_fsdp_enabled)
    batches = loader(trainer, mine, IMAGES_AT_ONCE, _processing(trainer))
    model = plain_model(trainer.model)
    with whole(trainer, model.model.visual), flushing(cache), torch.no_grad(), trainer.accelerator.autocast():
        for names, inputs in progress(trainer, batches, "Image features"):
            grid = inputs["image_grid_thw"].to(trainer.args.device)
            features = encode_images(model, inputs["pixel_values"].to(trainer.args.device), grid)
            for row in zip(names, features, grid, strict=True):
                cache.add(*row)
    trainer.accelerator.wait_for_everyone()
    cache.load()
    if any(image not in cache for image in images):
        raise UniDPOError("`uni_dpo_image_cache` has to be a folder that all ranks of all nodes share.")


def _require_fixed_tower(trainer: "UniDPOTrainer") -> None:
    forward, reason = trainer.pair_forward, ""
    if forward.choice.layout is None:
        reason = f"with `pref_forward: upstream` ({forward.choice.obstacle or 'as chosen'})"
    elif not forward.shares_features:
        reason = "unless nothing in the vision tower trains and the reference has the same one"
    if reason:
        raise UniDPOError(f"`uni_dpo_image_cache` is not possible {reason}; remove the option.")


def _find_missing(trainer: "UniDPOTrainer", split: Any, cache: ImageCache, images: dict[str, Any]) -> int:
    """Add a data set's unknown images to `images`, and estimate their tokens."""
    shares = {}  # by row, which part of its images is new
    for place, row in enumerate(split.select_columns(["images", "image_keys"])):
        named = zip(row["image_keys"], row["images"] or [], strict=True)
        new = {key: image for key, image in named if key not in cache and key not in images}
        if new:
            shares[place] = len(new) / len(row["image_keys"])
            images |= new
    token = trainer.model.config.image_token_id
    prompts = split.select_columns(["chosen_input_ids"]).select(list(shares))
    counted = (
        row["chosen_input_ids"].count(token) * share for row, share in zip(prompts, shares.values(), strict=True)
    )
    return round(sum(counted))


def _require_space(trainer: "UniDPOTrainer", cache: ImageCache, count: int, tokens: int, limit: float) -> None:
    half = trainer.args.bf16 or trainer.args.fp16 or trainer.model.dtype.itemsize == 2
    needed = tokens * trainer.model.get_input_embeddings().embedding_dim * (2 if half else 4)
    size, free = cache.stored_bytes() + needed, shutil.disk_usage(cache.folder).free
    logger.info_rank0(
        f"Image features: {count:,} images to encode, about {needed / 1e9:.3g} GB; {size / 1e9:.3g} GB in all, of "
        f"{limit / 1e9:g} GB allowed and {free / 1e9:.3g} GB free."
    )
    if size > limit:
        raise UniDPOError(
            f"`uni_dpo_image_cache` would need {size / 1e9:.3g} GB, more than `uni_dpo_image_cache_gb` "
            f"({limit / 1e9:g}). Raise that limit, lower `image_max_pixels`, or remove the option."
        )
    if needed > free:
        raise UniDPOError(
            f"`uni_dpo_image_cache` needs another {needed / 1e9:.3g} GB in {cache.folder}, and there are "
            f"{free / 1e9:.3g} GB free."
        )


def _processing(trainer: "UniDPOTrainer") -> Callable[[list[tuple[str, Any]]], tuple[list[str], dict[str, Any]]]:
    """Make a collator that processes images as upstream's does."""
    plugin, processor = trainer.data_collator.template.mm_plugin, trainer.data_collator.processor

    def process(named: list[tuple[str, Any]]) -> tuple[list[str], dict[str, Any]]:
        names, images = zip(*named, strict=True)
        count = len(images)
        return list(names), plugin.get_mm_inputs(list(images), [], [], [count], [0], [0], [[]], processor)

    return process
