"""The pass that encodes images with a frozen vision tower, going on from where an earlier one was interrupted."""

import functools
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers.integrations import is_deepspeed_zero3_enabled

from ....extras import logging
from ..engine import encode_images, image_width, placeholder_ids, plain_model, tower_of
from ..errors import UniDPOError
from ..ranks import from_main_process
from ..training.view import PairTrainer
from .images import ImageCache
from .passes import flushing, loader, progress, refuse_under_fsdp, share, whole


logger = logging.get_logger(__name__)

IMAGES_AT_ONCE = 4


def fill_images(trainer: PairTrainer, splits: dict[str, Any], cache: ImageCache, limit: float) -> None:
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
    parts = [part for split in splits.values() for part in (split.values() if isinstance(split, dict) else [split])]
    _require_fixed_tower(trainer, parts)
    places = _places(parts)
    missing = from_main_process([name for name in places if name not in cache])
    if missing:
        refuse_under_fsdp(trainer, "uni_dpo_image_cache")
        tokens = _count_tokens(placeholder_ids(trainer.model.config)[0], [places[name] for name in missing])
        _require_space(trainer, cache, len(missing), tokens, limit)
        _encode(trainer, [(name, *places[name]) for name in missing], cache)
    else:
        logger.info_rank0("Image features: all stored already.")
    if any(name not in cache for name in places):
        raise UniDPOError("`uni_dpo_image_cache` has to be a folder that all ranks of all nodes share.")


def _encode(trainer: PairTrainer, images: list[tuple[str, Any, int, int]], cache: ImageCache) -> None:
    mine, model = share(trainer, images), plain_model(trainer.model)
    # Without a grid nobody can tell which features are whose.
    at_once = IMAGES_AT_ONCE if hasattr(model.model, "get_rope_index") else 1
    batches = loader(trainer, _Images(mine), at_once, _processing(trainer))
    tower = torch.nn.ModuleDict(_modules(model)).train(model.training)
    with whole(trainer, tower), flushing(cache), torch.no_grad():
        for names, inputs in progress(trainer, batches, "Image features"):
            inputs = {name: value.to(trainer.args.device) for name, value in inputs.items() if torch.is_tensor(value)}
            with trainer.accelerator.autocast():
                features = _features(model, inputs)
            grids = inputs.get("image_grid_thw", [None] * len(names))
            for row in zip(names, features, grids, strict=True):
                cache.add(*row)
    trainer.accelerator.wait_for_everyone()
    cache.load()


def _features(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    try:
        return encode_images(model, inputs)
    except ValueError as error:
        raise UniDPOError(
            f"`uni_dpo_image_cache` is not possible with models of type {model.config.model_type!r}; remove the "
            f"option. ({error})"
        ) from error


def _modules(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    return {name: part for name, part in tower_of(model).items() if isinstance(part, torch.nn.Module)}


class _Images(Dataset):
    """Images by name, read from their rows only when their turn comes."""

    def __init__(self, places: list[tuple[str, Any, int, int]]):
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> tuple[str, Any]:
        name, split, row, number = self._places[index]
        return name, split[row]["images"][number]


def _require_fixed_tower(trainer: PairTrainer, parts: list[Any]) -> None:
    forward, reason = trainer.pair_forward, ""
    if forward.choice.layout is None:
        reason = f"with `pref_forward: upstream` ({forward.choice.obstacle or 'as chosen'})"
    elif not forward.shares_features:
        reason = "unless nothing in the vision tower trains and the reference has the same one"
    elif (is_deepspeed_zero3_enabled() or trainer.is_fsdp_enabled) and any(map(_has_videos, parts)):
        reason = "with videos under ZeRO-3 or FSDP, where all ranks have to run the tower alike"
    if reason:
        raise UniDPOError(f"`uni_dpo_image_cache` is not possible {reason}; remove the option.")


def _has_videos(part: Any) -> bool:
    return "videos" in part.column_names and any(row["videos"] for row in part.select_columns(["videos"]))


def _places(parts: list[Any]) -> dict[str, tuple[Any, int, int]]:
    """Find one place of every distinct image: data set, row, and number in the row."""
    places = {}
    for part in parts:
        for row, names in enumerate(part["image_keys"]):
            for number, name in enumerate(names):
                places.setdefault(name, (part, row, number))
    return places


def _count_tokens(token: int, places: list[tuple[Any, int, int]]) -> float:
    """Estimate the placeholder tokens of images; of a row with several, each gets an equal part."""
    tokens, narrow = 0.0, {}
    for part, row, _ in places:
        if id(part) not in narrow:
            narrow[id(part)] = part.select_columns(["image_keys", "chosen_input_ids"])
        found = narrow[id(part)][row]
        tokens += found["chosen_input_ids"].count(token) / len(found["image_keys"])
    return tokens


def _require_space(trainer: PairTrainer, cache: ImageCache, count: int, tokens: float, limit: float) -> None:
    half = trainer.args.bf16 or trainer.args.fp16 or trainer.model.dtype.itemsize == 2
    needed = tokens * image_width(plain_model(trainer.model)) * (2 if half else 4)
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
            f"{free / 1e9:.3g} GB free. Name a folder on a larger disk, or lower `image_max_pixels`."
        )


def _processing(trainer: PairTrainer) -> Callable[[list[tuple[str, Any]]], tuple[list[str], dict[str, Any]]]:
    """Make a collator that processes images as upstream's does, and that workers of any kind can be given."""
    collator = trainer.data_collator
    return functools.partial(_process, plugin=collator.template.mm_plugin, processor=collator.processor)


def _process(named: list[tuple[str, Any]], plugin: Any, processor: Any) -> tuple[list[str], dict[str, Any]]:
    names, images = zip(*named, strict=True)
    return list(names), plugin.get_mm_inputs(list(images), [], [], [len(images)], [0], [0], [[]], processor)
