"""Tiny random models, and batches of pairs as LlamaFactory collates them, for the tests of the engine.

Nothing is read from files: models come from configs in memory, tokens from a seeded generator. Weights are large
enough that every token matters to those after it, so that a wrong mask or position shows in the first digits.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from llamafactory.train.uni_dpo.engine import same_vision_tower


VISION_KINDS = ("qwen2_vl", "qwen2_5_vl")
TEXT_KINDS = ("qwen2", "qwen3", "llama", "mistral")
KINDS = VISION_KINDS + TEXT_KINDS

PAD, IMAGE, VIDEO, START, END, VOCABULARY = 0, 90, 91, 92, 93, 96
WORDS = (10, 90)
IGNORED = -100

TEXT = {
    **{"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048, "pad_token_id": PAD},
}
VISION = {
    "qwen2_vl": {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2, "in_channels": 3},
    "qwen2_5_vl": {
        **{"hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 24, "in_channels": 3},
        **{"window_size": 8, "fullatt_block_indexes": [1]},  # windows of two by two merged patches
    },
}
PATCHES = {"depth": 2, "num_heads": 2, "patch_size": 2, "spatial_merge_size": 2, "temporal_patch_size": 2}


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
    return CASES if kind in VISION_KINDS else TEXT_CASES


def config_of(kind: str, **changes: Any) -> Any:
    """Make the config of a tiny model; `changes` go to its text part."""
    text = TEXT | changes
    if kind == "mistral":
        text = {"sliding_window": None} | text
    if kind == "qwen3":
        text = {"head_dim": 8} | text
    if kind not in VISION_KINDS:
        return AutoConfig.for_model(kind, **text)
    text |= {"rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [1, 1, 2]}}
    ids = {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "vision_start_token_id": START,
        "vision_end_token_id": END,
    }
    tied = text.get("tie_word_embeddings", False)
    text["tie_word_embeddings"] = tied
    vision = PATCHES | VISION[kind]
    return AutoConfig.for_model(kind, text_config=text, vision_config=vision, tie_word_embeddings=tied, **ids)


def build(
    kind: str, dtype: torch.dtype = torch.float32, attention: str = "sdpa", seed: int = 0, **changes: Any
) -> nn.Module:
    """Make a model with random weights, norms and biases included, in training mode."""
    auto = AutoModelForImageTextToText if kind in VISION_KINDS else AutoModelForCausalLM
    model = auto.from_config(config_of(kind, **changes), attn_implementation=attention)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.dim() > 1:
                weight.copy_(noise * weight[0].numel() ** -0.5)
            else:
                weight.copy_(0.1 * noise + (0.0 if name.endswith("bias") else 1.0))
    return model.to(dtype).train()


def build_two(kind: str, frozen_tower: bool = True, **options: Any) -> tuple[nn.Module, nn.Module]:
    """Make a policy and a different reference; a frozen vision tower is the same in both, as in training."""
    policy, reference = build(kind, seed=0, **options), build(kind, seed=1, **options)
    if kind in VISION_KINDS and frozen_tower:
        reference.model.visual.load_state_dict(policy.model.visual.state_dict())
        policy.model.visual.requires_grad_(False)
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
    prompts = [_prompt(each, seed) for seed, each in enumerate(pairs)]
    answers = [each.chosen for each in pairs] + [each.rejected for each in pairs]
    rows = [prompt + answer for prompt, answer in zip(prompts * 2, answers, strict=True)]
    hidden = _image((1, 2, 4)) if stand_in else []
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
    if model.config.model_type in VISION_KINDS:
        batch |= _positions_and_pixels(model, batch, [grid for each in pairs for grid in each.images], stand_in)
    return batch


def media_of(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Take the pixels and their sizes out of a batch."""
    return {name: batch[name] for name in ("pixel_values", "image_grid_thw") if name in batch}


def _image(grid: tuple[int, int, int]) -> list[int]:
    return [START, *[IMAGE] * (grid[0] * grid[1] * grid[2] // PATCHES["spatial_merge_size"] ** 2), END]


def _prompt(each: Pair, seed: int) -> list[int]:
    images = [token for grid in each.images for token in _image(grid)]
    text = words(each.prompt, 1000 + seed)
    return text[:2] + images + text[2:]


def _positions_and_pixels(model: nn.Module, batch: dict[str, Any], grids: list, stand_in: bool) -> dict[str, Any]:
    rope_index, media = model.model.get_rope_index, {}
    options = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    if grids:
        options["image_grid_thw"] = torch.tensor(grids * 2)
    if "mm_token_type_ids" in inspect.signature(rope_index).parameters:  # transformers 5
        options["mm_token_type_ids"] = (batch["input_ids"] == IMAGE).int()
    positions = rope_index(**options)[0]
    if stand_in:
        grids = [(1, 2, 4)]
    if grids:
        patches = sum(t * h * w for t, h, w in grids)
        size = 3 * PATCHES["temporal_patch_size"] * PATCHES["patch_size"] ** 2
        pixels = torch.randn(patches, size, generator=torch.Generator().manual_seed(7))
        media = {"pixel_values": pixels.to(model.dtype), "image_grid_thw": torch.tensor(grids)}
    return {"position_ids": torch.cat([positions[:1], positions])} | media
