"""Tiny random models of every family that the engine knows, and of some that it does not, from configs in memory.

Weights are large enough that every token matters to those after it, so that a wrong mask or position shows in the
first digits. A new family needs an entry in `VISION` or `TEXT_KINDS`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText


PAD, IMAGE, VIDEO, START, END, VOCABULARY = 0, 90, 91, 92, 93, 96
SIZE = 32

TEXT = {
    **{"vocab_size": VOCABULARY, "hidden_size": SIZE, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048, "pad_token_id": PAD},
    **{"bos_token_id": None, "eos_token_id": None},
}
EXPERTS = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
# Layers with a state, and one of attention after them.
DELTA = {
    **{"num_hidden_layers": 4, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8},
    **{"linear_value_head_dim": 8, "head_dim": 8},
}
MROPE = {"rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [1, 1, 2]}}
MROPE_3 = {"rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [2, 1, 1]}}
MROPE_5 = {
    "rope_parameters": {
        **{"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        **{"mrope_interleaved": True, "mrope_section": [1, 1, 0]},
    }
}
SHARED_EXPERT = {"shared_expert_intermediate_size": 16}

# What a text model needs beyond `TEXT`.
TEXT_KINDS = {
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "llama": {},
    "mistral": {"sliding_window": None},
    "gemma": {"head_dim": 8},
    "qwen3_moe": EXPERTS | {"head_dim": 8},
    "qwen3_next": EXPERTS | DELTA | SHARED_EXPERT,
    "qwen3_5_text": DELTA,
    "qwen3_5_moe_text": EXPERTS | DELTA | SHARED_EXPERT,
}

PATCHES = {"depth": 2, "num_heads": 2, "patch_size": 2, "spatial_merge_size": 2, "temporal_patch_size": 2}
TILE = 8  # pixels
GRID_VISION = {"hidden_size": 16, "out_hidden_size": SIZE, "intermediate_size": 24, "in_channels": 3} | PATCHES
PINPOINTS = [[TILE, 2 * TILE], [2 * TILE, TILE], [2 * TILE, 2 * TILE]]
SIGLIP = {
    **{"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"image_size": TILE, "patch_size": 2},
}


@dataclass(frozen=True)
class Vision:
    """How to make a tiny model that sees images.

    Attributes:
        text: what its decoder needs beyond `TEXT`.
        vision: the config of its tower.
        others: what else its config has.
        tile_tokens: placeholders of a tile of `TILE` pixels; 0 where images have grids of patches.
    """

    text: dict[str, Any]
    vision: dict[str, Any]
    others: dict[str, Any]
    tile_tokens: int = 0


IDS = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END}
GLM_IDS = {
    **{"image_token_id": IMAGE, "video_token_id": VIDEO},
    **{"image_start_token_id": START, "image_end_token_id": END},
}
DEEP = GRID_VISION | {"depth": 3, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
LEARNED = GRID_VISION | {"num_position_embeddings": 64}
VISION = {
    "qwen2_vl": Vision(MROPE, PATCHES | {"embed_dim": 16, "hidden_size": SIZE, "mlp_ratio": 2, "in_channels": 3}, IDS),
    "qwen2_5_vl": Vision(  # windows of two by two merged patches
        MROPE, GRID_VISION | {"window_size": 8, "fullatt_block_indexes": [1]}, IDS
    ),
    "qwen3_vl": Vision({"num_hidden_layers": 3, "head_dim": 8} | MROPE_3, DEEP, IDS),
    "qwen3_vl_moe": Vision(
        {"num_hidden_layers": 3, "head_dim": 8, "decoder_sparse_step": 1} | EXPERTS | MROPE_3, DEEP, IDS
    ),
    "qwen3_5": Vision(DELTA | MROPE_5, LEARNED, IDS),
    "qwen3_5_moe": Vision(DELTA | EXPERTS | SHARED_EXPERT | MROPE_5, LEARNED, IDS),
    "glm4v": Vision(
        {"rope_scaling": {"rope_type": "default", "mrope_section": [1, 1, 2]}},
        GRID_VISION | {"image_size": 16},
        GLM_IDS,
    ),
    "glm4v_moe": Vision(  # experts from the second layer on
        {
            **{"head_dim": 8, "moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2},
            "rope_parameters": {
                **{"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
                "mrope_section": [1, 1, 0],
            },
        },
        GRID_VISION | {"image_size": 16},
        GLM_IDS,
    ),
    "internvl": Vision(
        {"model_type": "qwen2"},
        {
            **{"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2},
            **{"image_size": [TILE, TILE], "patch_size": [2, 2], "use_mask_token": False},
        },
        {"image_token_id": IMAGE, "image_seq_length": 4, "downsample_ratio": 0.5},
        tile_tokens=4,
    ),
}
# The engine knows nothing of these: they run through their own forward.
STRANGERS = {
    "gemma3": Vision(
        {"head_dim": 8, "num_hidden_layers": 3, "sliding_window": 6}
        | {"query_pre_attn_scalar": 8, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
        SIGLIP,
        {"image_token_id": IMAGE, "image_token_index": IMAGE, "mm_tokens_per_image": 4, "boi_token_index": START},
        tile_tokens=4,
    ),
    "llava": Vision(
        {"model_type": "llama"},
        {"model_type": "siglip_vision_model", "vision_use_head": False} | SIGLIP,
        {"image_token_index": IMAGE, "image_seq_length": 16, "vision_feature_select_strategy": "full"},
        tile_tokens=16,
    ),
}
# Nor of these, which are made for whole runs only: their images come in other forms than `pixels_of` makes.
RUN_STRANGERS = {
    "gemma4": Vision(
        {
            **{"head_dim": 8, "global_head_dim": 8, "num_hidden_layers": 3, "sliding_window": 16},
            **{"hidden_size_per_layer_input": 0, "final_logit_softcapping": 30.0},
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
        {
            **{"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2},
            **{"num_key_value_heads": 2, "head_dim": 8, "patch_size": 16},
        },
        {"audio_config": None},
    ),
    "llava_next": Vision(
        {"model_type": "llama"},
        {"model_type": "siglip_vision_model", "vision_use_head": False} | SIGLIP,
        {"image_grid_pinpoints": PINPOINTS, "vision_feature_select_strategy": "full"},
    ),
}
TEXT_STRANGERS = {
    "gemma2": {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8, "final_logit_softcapping": 1.5},
}
VISION_KINDS = tuple(VISION)
KINDS = VISION_KINDS + tuple(TEXT_KINDS)


def sees_images(kind: str) -> bool:
    """Tell whether a kind of model takes images."""
    return kind in VISION | STRANGERS | RUN_STRANGERS


def config_of(kind: str, **changes: Any) -> Any:
    """Make the config of a tiny model; `changes` go to its text part."""
    if not sees_images(kind):
        return AutoConfig.for_model(kind, **TEXT | (TEXT_KINDS | TEXT_STRANGERS)[kind] | changes)
    parts = (VISION | STRANGERS | RUN_STRANGERS)[kind]
    text = TEXT | parts.text | changes
    text["tie_word_embeddings"] = tied = text.get("tie_word_embeddings", False)
    vision = dict(parts.vision)
    return AutoConfig.for_model(kind, text_config=text, vision_config=vision, tie_word_embeddings=tied, **parts.others)


def build(
    kind: str, dtype: torch.dtype = torch.float32, attention: str = "sdpa", seed: int = 0, **changes: Any
) -> nn.Module:
    """Make a model with random weights, norms and biases included, in training mode."""
    auto = AutoModelForImageTextToText if sees_images(kind) else AutoModelForCausalLM
    config = config_of(kind, **changes)
    # The other kernels of experts know no float64.
    names = ("num_experts", "n_routed_experts")
    has_experts = any(hasattr(config.get_text_config(), name) for name in names)
    experts = {"experts_implementation": "eager"} if has_experts else {}
    model = auto.from_config(config, attn_implementation=attention, **experts)
    fill(model, seed)
    return model.to(dtype).train()


@torch.no_grad()
def fill(model: nn.Module, seed: int = 0) -> None:
    """Give a model random weights, norms and biases included, that are large enough for every token to matter."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.dim() > 1:
            weight.copy_(noise * weight[0].numel() ** -0.5)
        elif name.endswith("A_log"):  # how fast a state is forgotten
            weight.copy_(0.1 * noise - 2.0)
        else:
            weight.copy_(0.1 * noise + (0.0 if name.endswith("bias") else 1.0))


def placeholders(kind: str, grid: tuple[int, int, int]) -> int:
    """Count the placeholder tokens of an image of (frames, height, width) patches."""
    patches = grid[0] * grid[1] * grid[2]
    tokens = (VISION | STRANGERS)[kind].tile_tokens if sees_images(kind) else 0
    return tiles(grid) * tokens if tokens else patches // PATCHES["spatial_merge_size"] ** 2


def tiles(grid: tuple[int, int, int]) -> int:
    """Count the tiles of the same image where a model knows tiles only."""
    return 1 + (grid[1] * grid[2] > 12)


def pixels_of(model: nn.Module, grids: list[tuple[int, int, int]]) -> dict[str, torch.Tensor]:
    """Make what a processor makes of images."""
    generator = torch.Generator().manual_seed(7)
    if (VISION | STRANGERS)[model.config.model_type].tile_tokens:
        shape = (sum(map(tiles, grids)), 3, TILE, TILE)
        return {"pixel_values": torch.randn(shape, generator=generator).to(model.dtype)}
    patches = sum(t * h * w for t, h, w in grids)
    size = 3 * PATCHES["temporal_patch_size"] * PATCHES["patch_size"] ** 2
    pixels = torch.randn(patches, size, generator=generator)
    return {"pixel_values": pixels.to(model.dtype), "image_grid_thw": torch.tensor(grids)}
