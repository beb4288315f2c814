"""Shapes of public vision-language models up to 9B, as their config.json gives them, and a small one of each family.

Every shape has as many weights as the public checkpoint, to the last one (Qwen3.5's has a head for several tokens
besides, which training drops); `tests/test_real_shapes.py` counts them.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """What models of one architecture share.

    Attributes:
        architecture: transformers' class.
        text: values of the language model's config.
        vision: values of the vision tower's config.
        width: the name under which that config has the language model's width, if it has it.
        small_text: what a small model's config has besides `SMALL`.
        small_vision: the same for its tower.
        ids: names of special tokens whose ids the config has, each with the token.
        others: further values of the config.
        flat: whether the values of the language model stand beside `vision_config`, as in older checkpoints.
        tokens: special tokens that a processor asks the tokenizer for by name.
        processor: processor's class.
        files: values of the processors' files.
    """

    architecture: str
    text: dict[str, Any]
    vision: dict[str, Any]
    width: str | None
    small_vision: dict[str, Any]
    ids: dict[str, str]
    processor: str
    small_text: dict[str, Any] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    flat: bool = False
    tokens: dict[str, str] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Shape:
    """The sizes of one model.

    Attributes:
        family: a key of `FAMILIES`.
        text: values of the language model's config.
        tied: whether the output layer is the embeddings.
        vision: values of its tower that others of its family have not.
    """

    family: str
    text: dict[str, Any]
    tied: bool = True
    vision: dict[str, Any] = field(default_factory=dict)


def sizes(hidden: int, layers: int, heads: int, kv_heads: int, mlp: int, vocabulary: int = 0) -> dict[str, int]:
    """Return the sizes of a language model under the names that all families have for them."""
    return {
        **{"hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": mlp, "vocab_size": vocabulary},
        **{"num_attention_heads": heads, "num_key_value_heads": kv_heads},
    }


SMALL = sizes(256, 4, 2, 1, 512)  # heads of 128, or as wide as the family's are
QWEN = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 32768}
QWEN_IDS = {
    **{"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"},
    **{"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"},
}
PATCHES = {"spatial_merge_size": 2, "temporal_patch_size": 2}
MROPE_2 = {"rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}
MROPE_3 = {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [24, 20, 20]}
MROPE_5 = {
    **{"rope_type": "default", "mrope_interleaved": True, "mrope_section": [11, 11, 10]},
    **{"rope_theta": 1e7, "partial_rotary_factor": 0.25},
}
QWEN3_VISION = PATCHES | {"in_channels": 3, "patch_size": 16, "num_position_embeddings": 2304}
HALVES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
QWEN3_FILES = {
    "preprocessor_config": {"patch_size": 16} | HALVES,
    "video_preprocessor_config": {"patch_size": 16, "video_processor_type": "Qwen3VLVideoProcessor"} | HALVES,
}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
SMALL_TOWER = {"hidden_size": 128, "intermediate_size": 256}
SMALL_GRID_TOWER = SMALL_TOWER | {"depth": 2, "num_heads": 2}
SMALL_TILE_TOWER = SMALL_TOWER | {"num_hidden_layers": 2, "num_attention_heads": 2}

FAMILIES = {
    "qwen2_vl": Family(
        architecture="Qwen2VLForConditionalGeneration",
        text=QWEN | MROPE_2,
        vision=PATCHES | {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14},
        width="hidden_size",
        small_vision={"depth": 2, "embed_dim": 128, "num_heads": 2},
        ids=QWEN_IDS,
        flat=True,
        processor="Qwen2VLProcessor",
    ),
    "qwen2_5_vl": Family(
        architecture="Qwen2_5_VLForConditionalGeneration",
        text=QWEN | MROPE_2,
        vision=PATCHES
        | {"depth": 32, "hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420, "patch_size": 14}
        | {"window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31], "tokens_per_second": 2},
        width="out_hidden_size",
        small_vision=SMALL_GRID_TOWER | {"fullatt_block_indexes": [1]},
        ids=QWEN_IDS,
        flat=True,
        processor="Qwen2_5_VLProcessor",
    ),
    "qwen3_vl": Family(
        architecture="Qwen3VLForConditionalGeneration",
        text=QWEN | {"head_dim": 128, "rope_theta": 5e6, "rope_scaling": MROPE_3, "max_position_embeddings": 262144},
        vision=QWEN3_VISION,
        width="out_hidden_size",
        small_vision=SMALL_GRID_TOWER | {"deepstack_visual_indexes": [0, 1]},
        ids=QWEN_IDS,
        processor="Qwen3VLProcessor",
        files=QWEN3_FILES,
    ),
    "qwen3_5": Family(
        architecture="Qwen3_5ForConditionalGeneration",
        text=QWEN
        | {"head_dim": 256, "rope_parameters": MROPE_5, "max_position_embeddings": 262144}
        | {"linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128}
        | {"linear_num_key_heads": 16, "full_attention_interval": 4},
        vision=QWEN3_VISION,
        width="out_hidden_size",
        small_text={"linear_num_key_heads": 2, "linear_num_value_heads": 4},
        small_vision=SMALL_GRID_TOWER,
        ids=QWEN_IDS,
        processor="Qwen3VLProcessor",
        files=QWEN3_FILES,
    ),
    "internvl": Family(
        architecture="InternVLForConditionalGeneration",
        text=QWEN | {"rope_theta": 1e6},
        vision={"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
        | {"image_size": [448, 448], "patch_size": [14, 14], "attention_bias": True, "use_mean_pooling": True},
        width=None,
        small_vision=SMALL_TILE_TOWER,
        ids={"image_token_id": "<IMG_CONTEXT>"},
        others={"downsample_ratio": 0.5, "image_seq_length": 256},
        tokens={
            **{"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"},
            "video_token": "<video>",
        },
        processor="InternVLProcessor",
        files={
            "preprocessor_config": {
                **{"image_processor_type": "GotOcr2ImageProcessor", "size": {"height": 448, "width": 448}},
                **{"crop_to_patches": False, "min_patches": 1, "max_patches": 12},
                **IMAGENET,
            },
            "video_preprocessor_config": {
                **{"video_processor_type": "InternVLVideoProcessor", "size": {"height": 448, "width": 448}},
                **IMAGENET,
            },
            "processor_config": {"image_seq_length": 256},
        },
    ),
    "gemma3": Family(
        architecture="Gemma3ForConditionalGeneration",
        text={"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 1024, "rms_norm_eps": 1e-6}
        | {"hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 131072, "rope_theta": 1e6}
        | {"rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        vision={"hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16, "intermediate_size": 4304}
        | {"image_size": 896, "patch_size": 14, "model_type": "siglip_vision_model", "vision_use_head": False},
        width=None,
        small_text={"num_hidden_layers": 6},  # the sixth sees everything
        small_vision=SMALL_TILE_TOWER,
        ids={
            **{"image_token_index": "<image_soft_token>", "boi_token_index": "<start_of_image>"},
            "eoi_token_index": "<end_of_image>",
        },
        others={"mm_tokens_per_image": 256},
        tokens={
            **{"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
            **{"start_of_turn_token": "<start_of_turn>", "end_of_turn_token": "<end_of_turn>"},  # of the chat template
        },
        processor="Gemma3Processor",
        files={
            "preprocessor_config": {
                **{"image_processor_type": "Gemma3ImageProcessor", "size": {"height": 896, "width": 896}},
                **HALVES,
            },
            "processor_config": {"image_seq_length": 256},
        },
    ),
}

BASE_TOWER = {"depth": 24, "hidden_size": 1024, "num_heads": 16, "intermediate_size": 4096}
LARGE_TOWER = {"depth": 27, "hidden_size": 1152, "num_heads": 16, "intermediate_size": 4304}
TINY_TOWER = {"depth": 12, "hidden_size": 768, "num_heads": 12, "intermediate_size": 3072}
DEEP_BASE = BASE_TOWER | {"deepstack_visual_indexes": [5, 11, 17]}
DEEP_LARGE = LARGE_TOWER | {"deepstack_visual_indexes": [8, 16, 24]}
ON_QWEN2 = {"model_type": "qwen2"}
ON_QWEN3 = {"model_type": "qwen3", "head_dim": 128}


def delta(value_heads: int, *numbers: int) -> dict[str, int]:
    """Return the sizes of a language model of Qwen3.5."""
    return sizes(*numbers, 248320) | {"linear_num_value_heads": value_heads}


SHAPES = {
    "Qwen2-VL-2B": Shape("qwen2_vl", sizes(1536, 28, 12, 2, 8960, 151936)),
    "Qwen2-VL-7B": Shape("qwen2_vl", sizes(3584, 28, 28, 4, 18944, 152064), tied=False),
    "Qwen2.5-VL-3B": Shape("qwen2_5_vl", sizes(2048, 36, 16, 2, 11008, 151936)),
    "Qwen2.5-VL-7B": Shape("qwen2_5_vl", sizes(3584, 28, 28, 4, 18944, 152064), tied=False),
    "Qwen3-VL-2B": Shape("qwen3_vl", sizes(2048, 28, 16, 8, 6144, 151936), vision=DEEP_BASE),
    "Qwen3-VL-4B": Shape("qwen3_vl", sizes(2560, 36, 32, 8, 9728, 151936), vision=DEEP_BASE),
    "Qwen3-VL-8B": Shape("qwen3_vl", sizes(4096, 36, 32, 8, 12288, 151936), tied=False, vision=DEEP_LARGE),
    "Qwen3.5-0.8B": Shape("qwen3_5", delta(16, 1024, 24, 8, 2, 3584), vision=TINY_TOWER),
    "Qwen3.5-2B": Shape("qwen3_5", delta(16, 2048, 24, 8, 2, 6144), vision=BASE_TOWER),
    "Qwen3.5-4B": Shape("qwen3_5", delta(32, 2560, 32, 16, 4, 9216), vision=BASE_TOWER),
    "Qwen3.5-9B": Shape("qwen3_5", delta(32, 4096, 32, 16, 4, 12288), tied=False, vision=LARGE_TOWER),
    "InternVL3-1B": Shape("internvl", sizes(896, 24, 14, 2, 4864, 151674) | ON_QWEN2, tied=False),
    "InternVL3-2B": Shape("internvl", sizes(1536, 28, 12, 2, 8960, 151674) | ON_QWEN2, tied=False),
    "InternVL3-8B": Shape("internvl", sizes(3584, 28, 28, 4, 18944, 151674) | ON_QWEN2, tied=False),
    "InternVL3_5-4B": Shape("internvl", sizes(2560, 36, 32, 8, 9728, 151936) | ON_QWEN3, tied=False),
    "gemma-3-4b": Shape("gemma3", sizes(2560, 34, 8, 4, 10240, 262208)),
}


def config_values(name: str, small: int = 0) -> dict[str, Any]:
    """Return the content of config.json of a shape, without the ids of special tokens.

    Args:
        name: a key of `SHAPES`.
        small: the vocabulary of a small model of the same kind; 0 for the real sizes.
    """
    shape = SHAPES[name]
    family = FAMILIES[shape.family]
    text, vision = family.text | shape.text, family.vision | shape.vision
    if small:
        text |= SMALL | {"vocab_size": small} | family.small_text
        vision |= family.small_vision
    if family.width:
        vision[family.width] = text["hidden_size"]
    text["tie_word_embeddings"] = shape.tied
    values = {"architectures": [family.architecture], "model_type": shape.family, "torch_dtype": "bfloat16"}
    values |= {"tie_word_embeddings": shape.tied, "vision_config": vision} | family.others
    return values | (text if family.flat else {"text_config": text})
