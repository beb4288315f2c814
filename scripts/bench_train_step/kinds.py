"""Configs of transformers and image processors for each kind of models; weights and images are random."""

from types import SimpleNamespace
from typing import Any

import transformers
from transformers import AutoConfig, AutoProcessor, AutoTokenizer

from common import ROOT
from demo.model import Preset, model_config

from .sizes import KINDS, Sizes


# Only its tokenizer's special tokens and its image processing are used, which are Qwen2-VL's.
PROCESSOR = ROOT / "data" / "demo" / "checkpoint"
LARGEST = 2**24  # pixels; LlamaFactory scales larger images down


def config_of(sizes: Sizes, tokenizer: Any) -> Any:
    """Return the config of a model of these sizes, with the ids of a tokenizer's special tokens."""
    if sizes.kind == "qwen2_vl":
        vision = (sizes.vision_hidden, sizes.vision_layers, sizes.vision_heads)
        preset = Preset(sizes.hidden, sizes.layers, sizes.heads, sizes.kv_heads, sizes.mlp, *vision, 0, 1e6)
        values = model_config(tokenizer.backend_tokenizer, preset)
        return transformers.Qwen2VLConfig(**values | _output_layer(sizes))
    text, vision, others = _PARTS[sizes.kind](sizes)
    text = _text(sizes, tokenizer) | text
    ids = _placeholders(tokenizer)
    tied = {"tie_word_embeddings": sizes.tied}
    return AutoConfig.for_model(sizes.kind, text_config=text, vision_config=vision, **ids, **others, **tied)


def processor_of(sizes: Sizes) -> Any:
    """Return what LlamaFactory's collator asks of a model's processor."""
    if sizes.kind == "qwen2_vl":
        found = AutoProcessor.from_pretrained(PROCESSOR, trust_remote_code=False)
        found.image_max_pixels = LARGEST
        return found
    tokenizer = AutoTokenizer.from_pretrained(PROCESSOR, trust_remote_code=False)
    kind, token = KINDS[sizes.kind], _placeholders(tokenizer)["image_token_id"]
    grid = {"patch_size": kind.patch, "size": {"shortest_edge": 1, "longest_edge": LARGEST}}
    if not kind.tokens:
        made = transformers.Glm4vImageProcessor if sizes.kind == "glm4v" else transformers.Qwen2VLImageProcessor
        images = made(**grid)
    else:
        side = kind.tokens * side_of(sizes.kind)
        made = getattr(transformers, _SQUARES[sizes.kind])
        images = made(size={"height": side, "width": side})
    parts = {"image_processor": images, "video_processor": images, "tokenizer": tokenizer}
    return SimpleNamespace(**parts, image_max_pixels=LARGEST, image_token_id=token)


def side_of(kind: str) -> int:
    """Count pixels along the side of an image token."""
    return KINDS[kind].patch * round(KINDS[kind].patches ** 0.5)


_SQUARES = {
    "internvl": "GotOcr2ImageProcessor",
    "gemma3": "Gemma3ImageProcessor",
    "llava": "SiglipImageProcessor",
}


def _output_layer(sizes: Sizes) -> dict[str, Any]:
    return {"vocab_size": sizes.vocabulary, "tie_word_embeddings": sizes.tied}


def _placeholders(tokenizer: Any) -> dict[str, int]:
    tokens = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    return {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in tokens.items()}


def _text(sizes: Sizes, tokenizer: Any) -> dict[str, Any]:
    return _output_layer(sizes) | {
        **{"hidden_size": sizes.hidden, "intermediate_size": sizes.mlp, "num_hidden_layers": sizes.layers},
        **{"num_attention_heads": sizes.heads, "num_key_value_heads": sizes.kv_heads, "head_dim": sizes.head_size},
        **{"max_position_embeddings": 32768, "bos_token_id": None, "eos_token_id": None},
        "pad_token_id": tokenizer.pad_token_id,
    }


def _grid_vision(sizes: Sizes) -> dict[str, Any]:
    """Return the tower of Qwen's later models, and of GLM-4V."""
    kind = KINDS[sizes.kind]
    return {
        **{"hidden_size": sizes.vision_hidden, "depth": sizes.vision_layers, "num_heads": sizes.vision_heads},
        **{"out_hidden_size": sizes.hidden, "intermediate_size": sizes.vision_mlp or 4 * sizes.vision_hidden},
        **{"patch_size": kind.patch, "temporal_patch_size": kind.frames, "spatial_merge_size": 2, "in_channels": 3},
    }


def _plain_vision(sizes: Sizes) -> dict[str, Any]:
    """Return a tower for square images."""
    kind = KINDS[sizes.kind]
    return {
        **{"hidden_size": sizes.vision_hidden, "num_hidden_layers": sizes.vision_layers},
        **{"num_attention_heads": sizes.vision_heads, "patch_size": kind.patch},
        "intermediate_size": sizes.vision_mlp or 4 * sizes.vision_hidden,
        "image_size": kind.tokens * side_of(sizes.kind),
    }


def _sections(sizes: Sizes, rotated: int) -> list[int]:
    """Split the pairs of numbers that a multimodal rotary embedding turns among time, height and width."""
    third = rotated // 2 // 3
    return [rotated // 2 - 2 * third, third, third]


Parts = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]


def _qwen3_vl(sizes: Sizes) -> Parts:
    sections = {"mrope_interleaved": True, "mrope_section": _sections(sizes, sizes.head_size)}
    first = {"deepstack_visual_indexes": list(range(sizes.deep)), "num_position_embeddings": 2304}
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 5e6} | sections}, _grid_vision(sizes) | first, {}


def _qwen3_5(sizes: Sizes) -> Parts:
    keys, values, size = sizes.delta
    rotated = sizes.head_size // 4
    sections = {"mrope_interleaved": True, "mrope_section": _sections(sizes, rotated), "partial_rotary_factor": 0.25}
    state = {
        **{"linear_num_key_heads": keys, "linear_num_value_heads": values},
        **{"linear_key_head_dim": size, "linear_value_head_dim": size},
    }
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e7} | sections}
    return rope | state, _grid_vision(sizes) | {"num_position_embeddings": 2304}, {}


def _glm4v(sizes: Sizes) -> Parts:
    """Return GLM-4V's, whose tower's MLP is as wide as the text model, and whose merger has the width it names."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": _sections(sizes, sizes.head_size // 2)}
    vision = _grid_vision(sizes) | {"intermediate_size": sizes.mlp, "image_size": 336}
    return {"rope_parameters": rope | {"partial_rotary_factor": 0.5}}, vision, {}


def _internvl(sizes: Sizes) -> Parts:
    vision = _plain_vision(sizes)
    vision |= {name: [vision[name]] * 2 for name in ("image_size", "patch_size")}
    return (
        {"model_type": "qwen2"},
        vision,
        {"downsample_ratio": 0.5, "image_seq_length": KINDS["internvl"].tokens ** 2},
    )


def _gemma3(sizes: Sizes) -> Parts:
    layers = ["full_attention" if (n + 1) % 6 == 0 else "sliding_attention" for n in range(sizes.layers)]
    text = {"layer_types": layers, "sliding_window": 1024, "query_pre_attn_scalar": sizes.head_size}
    return text, _plain_vision(sizes), {"mm_tokens_per_image": KINDS["gemma3"].tokens ** 2}


def _llava(sizes: Sizes) -> Parts:
    vision = _plain_vision(sizes) | {"model_type": "siglip_vision_model", "vision_use_head": False}
    others = {"vision_feature_select_strategy": "full", "vision_feature_layer": -1}
    return {"model_type": "llama"}, vision, others | {"image_seq_length": KINDS["llava"].tokens ** 2}


_PARTS = {
    "qwen3_vl": _qwen3_vl,
    "qwen3_5": _qwen3_5,
    "glm4v": _glm4v,
    "internvl": _internvl,
    "gemma3": _gemma3,
    "llava": _llava,
}
