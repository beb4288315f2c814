"""The configuration files of the tiny Qwen2-VL: sizes of the model, how it generates, how images are processed."""

from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from .tokenizer import SPECIAL_TOKENS


@dataclass(frozen=True)
class Preset:
    """Sizes of one model. The vision tower's output width is always the language model's width."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vision_hidden: int
    vision_layers: int
    vision_heads: int
    max_bpe_tokens: int
    # Qwen2-VL's 1e6 is made for 32k tokens. With a few hundred, 1e4 leaves enough fast rotations to tell positions
    # apart and enough slow ones to match words and image tokens at any distance.
    rope_theta: float


PRESETS = {
    "test": Preset(64, 2, 4, 2, 128, 32, 2, 2, 400, 1e4),
    "demo": Preset(128, 4, 4, 4, 384, 128, 2, 4, 768, 1e4),
}


def model_config(tokenizer: Tokenizer, sizes: Preset) -> dict[str, Any]:
    """The content of config.json.

    It is flat, as in the Qwen2-VL hub repositories: transformers 4 and 5 both read that form with the tied embeddings
    intact, while neither reads what the other one saves.
    """
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": sizes.hidden,
        "image_token_id": tokenizer.token_to_id("<|image_pad|>"),
        "initializer_range": 0.02,
        "intermediate_size": sizes.mlp,
        "max_position_embeddings": 4096,
        "max_window_layers": sizes.layers,
        "model_type": "qwen2_vl",
        "num_attention_heads": sizes.heads,
        "num_hidden_layers": sizes.layers,
        "num_key_value_heads": sizes.kv_heads,
        "rms_norm_eps": 1e-6,
        "rope_scaling": {"mrope_section": _rotary_sections(sizes), "type": "mrope"},
        "rope_theta": sizes.rope_theta,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_sliding_window": False,
        "video_token_id": tokenizer.token_to_id("<|video_pad|>"),
        "vision_config": _vision_config(sizes),
        "vision_end_token_id": tokenizer.token_to_id("<|vision_end|>"),
        "vision_start_token_id": tokenizer.token_to_id("<|vision_start|>"),
        "vision_token_id": tokenizer.token_to_id("<|vision_pad|>"),
        "vocab_size": tokenizer.get_vocab_size(),
        **_text_ids(tokenizer),
    }


def generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of generation_config.json: greedy, until the turn or the text ends."""
    stops = [tokenizer.token_to_id(token) for token in ("<|im_end|>", "<|endoftext|>")]
    specials = {tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    return {
        **_text_ids(tokenizer),
        "do_sample": False,
        "eos_token_id": stops,
        # A barely trained model would otherwise emit image placeholders, which belong to prompts only.
        "suppress_tokens": sorted(specials - set(stops)),
    }


def processor_configs() -> tuple[dict[str, Any], dict[str, Any]]:
    """Qwen2-VL's own image and video processing: 14-pixel patches, one token per 28 x 28 pixels."""
    common = {
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "max_pixels": 12845056,
        "merge_size": 2,
        "min_pixels": 3136,
        "patch_size": 14,
        "processor_class": "Qwen2VLProcessor",
        "temporal_patch_size": 2,
    }
    image = {"image_processor_type": "Qwen2VLImageProcessor", **common}
    return image, {"video_processor_type": "Qwen2VLVideoProcessor", **common}


def _vision_config(sizes: Preset) -> dict[str, Any]:
    return {
        "depth": sizes.vision_layers,
        "embed_dim": sizes.vision_hidden,
        "hidden_size": sizes.hidden,
        "in_channels": 3,
        "in_chans": 3,
        "mlp_ratio": 4,
        "model_type": "qwen2_vl",
        "num_heads": sizes.vision_heads,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "temporal_patch_size": 2,
    }


def _rotary_sections(sizes: Preset) -> list[int]:
    """Share the rotated pairs of a head out; Qwen2-VL's 64 are 16 for time, 24 for height and 24 for width."""
    pairs = sizes.hidden // sizes.heads // 2
    time = pairs // 4
    height = (pairs - time) // 2
    return [time, height, pairs - time - height]


def _text_ids(tokenizer: Tokenizer) -> dict[str, int]:
    return {
        "bos_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
        "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
    }
