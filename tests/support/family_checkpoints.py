"""Whole checkpoints of tiny models of today's families: a Qwen2-VL's tokenizer, and processors of their own."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import transformers
from engine_models import MROPE_5, PINPOINTS, TILE, config_of, fill
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer


SQUARE = {"height": TILE, "width": TILE}
QWEN3 = ("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
PICTURES = {
    **dict.fromkeys(QWEN3, "<|vision_start|><|image_pad|><|vision_end|>"),
    **dict.fromkeys(("glm4v", "glm4v_moe"), "<|begin_of_image|><|image|><|end_of_image|>"),
    "internvl": "<IMG_CONTEXT>\n",  # as InternVL's own has it, and LlamaFactory has not
    "gemma3": "<start_of_image>",
    **dict.fromkeys(("llava", "llava_next"), "<image>"),
    "gemma4": "<|image|>",
}
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for item in message['content'] %}{% if item['type'] == 'image' %}<IMAGE>"
    "{% elif item['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% else %}"
    "{{ item['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _qwen3(tokenizer: Any, model: Path) -> Any:
    """Pictures as the Qwen2-VL has them; its tokenizer knows all tokens."""
    images = transformers.AutoImageProcessor.from_pretrained(model)
    limits = {"size": {"shortest_edge": 4 * 28 * 28, "longest_edge": 16 * 28 * 28}, "patch_size": images.patch_size}
    videos = transformers.Qwen3VLVideoProcessor(**limits)
    return transformers.Qwen3VLProcessor(images, tokenizer, videos)


def _glm4v(tokenizer: Any, model: Path) -> Any:
    limits = {"size": {"shortest_edge": 2 * 28 * 28, "longest_edge": 32 * 28 * 28}, "patch_size": 14}
    images, videos = transformers.Glm4vImageProcessor(**limits), transformers.Glm4vVideoProcessor(**limits)
    return transformers.Glm4vProcessor(images, tokenizer, videos)


def _internvl(tokenizer: Any, model: Path) -> Any:
    images = transformers.GotOcr2ImageProcessor(size=SQUARE)
    return transformers.InternVLProcessor(images, tokenizer, transformers.InternVLVideoProcessor(size=SQUARE), 4)


def _gemma3(tokenizer: Any, model: Path) -> Any:
    tokenizer.add_tokens(["\n" * count for count in range(1, 5)])  # as Gemma's; vLLM merges those around a picture
    images = transformers.Gemma3ImageProcessor(size=SQUARE)
    return transformers.Gemma3Processor(images, tokenizer, image_seq_length=4)


def _llava(tokenizer: Any, model: Path) -> Any:
    images = transformers.SiglipImageProcessor(size=SQUARE)
    return transformers.LlavaProcessor(images, tokenizer, 2, "full")


def _llava_next(tokenizer: Any, model: Path) -> Any:
    sizes = {"size": {"shortest_edge": TILE}, "crop_size": SQUARE, "image_grid_pinpoints": PINPOINTS}
    return transformers.LlavaNextProcessor(transformers.LlavaNextImageProcessor(**sizes), tokenizer, 2, "full")


def _gemma4(tokenizer: Any, model: Path) -> Any:
    images = transformers.Gemma4ImageProcessor(max_soft_tokens=70)  # the fewest that it knows
    sounds, videos = transformers.Gemma4AudioFeatureExtractor(), transformers.Gemma4VideoProcessor()
    return transformers.Gemma4Processor(sounds, images, tokenizer, videos)


GLM_TOKENS = ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|image|>", "<|video|>") + tuple(
    f"<|{end}_of_{kind}|>" for kind in ("image", "video") for end in ("begin", "end")
)
# The processor, the names of special tokens that a tokenizer has to have for it, and others that it has to know.
PROCESSORS: dict[str, tuple[Callable, Mapping[str, str], tuple[str, ...]]] = {
    **dict.fromkeys(QWEN3, (_qwen3, {}, ())),
    "glm4v": (_glm4v, {}, GLM_TOKENS),
    "glm4v_moe": (_glm4v, {}, GLM_TOKENS),
    "internvl": (
        _internvl,
        {
            **{"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"},
            "video_token": "<video>",
        },
        (),
    ),
    "gemma3": (
        _gemma3,
        {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
        ("<start_of_turn>", "<end_of_turn>"),
    ),
    "llava": (_llava, {"image_token": "<image>"}, ()),
    "llava_next": (_llava_next, {"image_token": "<image>"}, ()),
    "gemma4": (
        _gemma4,
        {
            **{"boi_token": "<|image>", "eoi_token": "<image|>", "image_token": "<|image|>"},
            **{"boa_token": "<|audio>", "eoa_token": "<audio|>", "audio_token": "<|audio|>"},
            "video_token": "<|video|>",
        },
        ("<|turn>", "<turn|>", "<|channel>", "<channel|>"),
    ),
}

ONE_HEAD = {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 32}
# The text part of models whose attention has heads of 32, and what turns with their positions.
WIDE: dict[str, dict[str, Any]] = {
    "qwen3_vl": ONE_HEAD
    | {"rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [6, 5, 5]}},
    "qwen3_5": ONE_HEAD
    | {"linear_key_head_dim": 32, "linear_value_head_dim": 32, "mamba_ssm_dtype": "float32"}
    | {"rope_parameters": MROPE_5["rope_parameters"] | {"partial_rotary_factor": 0.25, "mrope_section": [2, 1, 1]}},
    "glm4v": ONE_HEAD
    | {"attention_bias": True}  # as published; transformers does not ask, and vLLM drops biases without it
    | {"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5, "mrope_section": [2, 3, 3]}},
    "internvl": ONE_HEAD,
    "gemma3": ONE_HEAD,
    "llava": ONE_HEAD,
}


def checkpoint_of(kind: str, model: Path, folder: Path, wide: bool = False, vocabulary: Path | None = None) -> Path:
    """Make a checkpoint of a random model.

    Args:
        kind: A model type of transformers, a key of `PROCESSORS`.
        model: A tiny Qwen2-VL, of which the tokenizer is taken.
        folder: Where it goes.
        wide: Whether heads of attention have the least size that vLLM takes on a CPU.
        vocabulary: The folder of another tokenizer.
    """
    make, named, others = PROCESSORS[kind]
    tokenizer = AutoTokenizer.from_pretrained(vocabulary or model, extra_special_tokens=dict(named))
    tokenizer.add_special_tokens({"additional_special_tokens": [*named.values(), *others]}, False)
    processor = make(tokenizer, model)
    processor.chat_template = tokenizer.chat_template = CHATML.replace("<IMAGE>", PICTURES[kind])
    processor.save_pretrained(folder)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    sizes = {"vocab_size": len(tokenizer) + 8, "max_position_embeddings": 4096} | (WIDE[kind] if wide else {})
    config = config_of(kind, **sizes, **ids)
    _tell_tokens(config, tokenizer, kind)
    made = AutoModelForImageTextToText.from_config(config)
    fill(made)
    made.save_pretrained(folder)
    return folder


def text_checkpoint_of(kind: str, model: Path, folder: Path) -> Path:
    """Make a checkpoint of a random model that reads only, with the tokenizer of a tiny Qwen2-VL, `model`."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.save_pretrained(folder)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    made = AutoModelForCausalLM.from_config(config_of(kind, vocab_size=len(tokenizer) + 8, **ids))
    fill(made)
    made.save_pretrained(folder)
    return folder


def _tell_tokens(config: Any, tokenizer: Any, kind: str) -> None:
    """Set the ids of the tokens that stand for pictures, and the size of patches where the processor has Qwen's."""
    glm = ("glm4v", "glm4v_moe")
    names = {
        "image_token_id": {
            **dict.fromkeys((*glm, "gemma4"), "<|image|>"),
            **dict.fromkeys(("llava", "llava_next"), "<image>"),
            **{"internvl": "<IMG_CONTEXT>", "gemma3": "<image_soft_token>"},
        },
        "video_token_id": dict.fromkeys((*glm, "gemma4"), "<|video|>"),
        "audio_token_id": {"gemma4": "<|audio|>"},
        "image_start_token_id": dict.fromkeys(glm, "<|begin_of_image|>"),
        "image_end_token_id": dict.fromkeys(glm, "<|end_of_image|>"),
        "video_start_token_id": dict.fromkeys(glm, "<|begin_of_video|>"),
        "video_end_token_id": dict.fromkeys(glm, "<|end_of_video|>"),
        "boi_token_index": {"gemma3": "<start_of_image>"},
        "eoi_token_index": {"gemma3": "<end_of_image>"},
        "boi_token_id": {"gemma4": "<|image>"},
        "eoi_token_id": {"gemma4": "<image|>"},
    }
    if kind.startswith("qwen"):
        qwen = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
        qwen |= {f"vision_{end}": f"<|vision_{end}|>" for end in ("start", "end")}
        names = {f"{name}_token_id": {kind: token} for name, token in qwen.items()}
    for name, tokens in names.items():
        if kind in tokens:
            setattr(config, name, tokenizer.convert_tokens_to_ids(tokens[kind]))
    if hasattr(config, "image_token_index"):
        config.image_token_index = config.image_token_id
    if kind.startswith(("qwen", "glm")):
        config.vision_config.patch_size = 14
