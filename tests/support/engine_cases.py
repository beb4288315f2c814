"""Batches of pairs as LlamaFactory collates them, for the tests of the engine; tokens from a seeded generator."""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from engine_models import (
    END,
    IMAGE,
    PAD,
    START,
    build,
    pixels_of,
    placeholders,
    sees_images,
)
from torch import nn

from llamafactory.train.uni_dpo.engine import same_vision_tower, tower_of


WORDS = (10, 90)
IGNORED = -100


@dataclass(frozen=True)
class Pair:
    """A pair to collate: how many words the prompt has, both answers' tokens, and the images' patches (t, h, w)."""

    prompt: int
    chosen: list[int]
    rejected: list[int]
    images: tuple[tuple[int, int, int], ...] = ()


def words(count: int, seed: int) -> list[int]:
    """Draw ordinary tokens."""
    return torch.randint(*WORDS, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def pair(prompt: int, chosen: int, rejected: int, *images: tuple[int, int, int], common: int = 0) -> Pair:
    """Make a pair of answers of given lengths whose first `common` tokens agree."""
    start = words(common, prompt)
    answers = [start + words(length - common, prompt + side) for side, length in ((1, chosen), (2, rejected))]
    return Pair(prompt, *answers, images)


# What a batch of pairs can be like. Sizes of images differ within a batch, so that mixing them up shows.
CASES = {
    "text only": [pair(7, 5, 9), pair(12, 3, 2)],
    "one image": [pair(9, 13, 5, (1, 4, 6))],
    "two images": [pair(9, 6, 9, (1, 4, 4), (1, 2, 8))],
    "batch": [
        pair(8, 40, 3),
        pair(5, 6, 20, (1, 4, 6)),
        pair(6, 9, 1, (1, 6, 4), (1, 2, 2)),
        pair(3, 8, 8, (1, 4, 4)),
    ],
    "long answers": [pair(6, 300, 1, (1, 2, 4)), pair(4, 2, 120, (1, 4, 4))],
    "one token each": [pair(5, 1, 1, (1, 2, 2)), pair(6, 1, 1)],
    "common start": [pair(5, 12, 9, (1, 2, 4), common=4), pair(7, 6, 6, common=5)],
    "identical": [pair(5, 7, 7, (1, 2, 4), common=7), pair(6, 4, 8)],
    "prefix": [pair(5, 5, 9, (1, 2, 4), common=5), pair(6, 8, 3, common=3), pair(8, 1, 4, common=1)],
}
TEXT_CASES = {
    "batch": [pair(8, 40, 3), pair(5, 6, 20), pair(6, 9, 1), pair(3, 8, 8, common=3)],
    "edges": [pair(5, 7, 7, common=7), pair(5, 5, 9, common=5), pair(4, 1, 1), pair(3, 300, 2)],
}


def cases_of(kind: str) -> dict[str, list[Pair]]:
    """List the batches that a kind of model can take."""
    return CASES if sees_images(kind) else TEXT_CASES


def build_two(kind: str, frozen_tower: bool = True, **options: Any) -> tuple[nn.Module, nn.Module]:
    """Make a policy and a different reference; a frozen vision tower is the same in both, as in training."""
    policy, reference = build(kind, seed=0, **options), build(kind, seed=1, **options)
    if sees_images(kind) and frozen_tower:
        for ours, theirs in zip(tower_of(policy).values(), tower_of(reference).values(), strict=True):
            theirs.load_state_dict(ours.state_dict())
            ours.requires_grad_(False)
        assert same_vision_tower(policy, reference)
    return policy, reference.requires_grad_(False).eval()


def collate(model: nn.Module, pairs: list[Pair], side: str = "right", stand_in: bool = False) -> dict[str, Any]:
    """Collate pairs as LlamaFactory does, with pixels once a pair.

    Args:
        model: whose positions and dtype the batch takes.
        pairs: n pairs.
        side: of the padding.
        stand_in: hide a picture behind the attention mask of the first row, as LlamaFactory does without images.

    Returns:
        `input_ids`, `attention_mask` and `labels` of shape (2n, length), chosen rows first; for vision models
        `position_ids` of shape (4, 2n, length), `pixel_values` and `image_grid_thw`.
    """
    kind = model.config.model_type
    prompts = [_prompt(kind, each, seed) for seed, each in enumerate(pairs)]
    answers = [each.chosen for each in pairs] + [each.rejected for each in pairs]
    rows = [prompt + answer for prompt, answer in zip(prompts * 2, answers, strict=True)]
    hidden = _image(kind, (1, 2, 4)) if stand_in else []
    length = -(-max(len(row) + len(hidden) for row in rows) // 8) * 8
    shape = (len(rows), length)
    batch = {"input_ids": torch.full(shape, PAD), "attention_mask": torch.zeros(shape, dtype=torch.long)}
    batch["labels"] = torch.full(shape, IGNORED)
    for number, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        where = slice(0, len(row)) if side == "right" else slice(length - len(row), length)
        batch["input_ids"][number, where] = torch.tensor(row)
        batch["attention_mask"][number, where] = 1
        batch["labels"][number, where.stop - len(answer) : where.stop] = torch.tensor(answer)
    if stand_in:
        batch["input_ids"][0, len(rows[0]) : len(rows[0]) + len(hidden)] = torch.tensor(hidden)
    if sees_images(kind):
        batch |= _positions_and_pixels(model, batch, [grid for each in pairs for grid in each.images], stand_in)
    return batch


def media_of(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Take what a model takes beside tokens out of a batch."""
    names = ("pixel_values", "image_grid_thw", "token_type_ids")
    return {name: batch[name] for name in names if name in batch}


def _image(kind: str, grid: tuple[int, int, int]) -> list[int]:
    return [START, *[IMAGE] * placeholders(kind, grid), END]


def _prompt(kind: str, each: Pair, seed: int) -> list[int]:
    images = [token for grid in each.images for token in _image(kind, grid)]
    text = words(each.prompt, 1000 + seed)
    return text[:2] + images + text[2:]


def _positions_and_pixels(model: nn.Module, batch: dict[str, Any], grids: list, stand_in: bool) -> dict[str, Any]:
    made, seen = {}, grids or ([(1, 2, 4)] if stand_in else [])
    if hasattr(model.model, "get_rope_index"):
        made["position_ids"] = _positions(model, batch, grids)
    if model.config.model_type == "gemma3":
        made["token_type_ids"] = (batch["input_ids"] == IMAGE).long()
    return made | (pixels_of(model, seen) if seen else {})


def _positions(model: nn.Module, batch: dict[str, Any], grids: list) -> torch.Tensor:
    rope_index = model.model.get_rope_index
    options = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    if grids:
        options["image_grid_thw"] = torch.tensor(grids * 2)
    if "mm_token_type_ids" in inspect.signature(rope_index).parameters:  # transformers 5
        options["mm_token_type_ids"] = (batch["input_ids"] == IMAGE).int()
    positions = rope_index(**options)[0]
    return torch.cat([positions[:1], positions])
