"""A tiny Qwen2-VL, built from nothing.

`build` writes a complete checkpoint folder: a byte-level BPE tokenizer with every special token of Qwen2-VL, the
processors, the chat template, and weights. It is the stock architecture at a small size, so LlamaFactory, the Auto
classes of transformers and vLLM treat it like the real model.
"""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)


SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# How Qwen2 splits text before BPE; transformers 5 rebuilds the tokenizer with this pattern, so ours must be the same.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if loop.first and message.role != 'system' -%}
{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for item in message.content -%}
{%- if item.type == 'image' -%}
{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif item.type == 'video' -%}
{{ '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- elif item.text is defined -%}
{{ item.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
"""

DEFAULT_TEXTS = (
    "system user assistant\nYou are a helpful assistant.",
    "Is there a red circle in the picture? Yes, there is a red circle. No, there is no red circle.",
    "How many squares are there? There are three squares. Answer with the letter. A. one B. two C. three D. four",
    "Describe the picture. The picture shows a blue square on the left and a green triangle on the right.",
)


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


# The matrices that write back into the residual stream, in the language model and in the vision tower.
RESIDUAL_WEIGHTS = ("o_proj.weight", "down_proj.weight", "attn.proj.weight", "fc2.weight")

PRESETS = {
    "test": Preset(64, 2, 4, 2, 128, 32, 2, 2, 400, 1e4),
    "demo": Preset(128, 4, 4, 4, 384, 128, 2, 4, 768, 1e4),
}


def build(
    out_dir: str | os.PathLike, preset: str = "test", seed: int = 0, texts: Iterable[str] = DEFAULT_TEXTS
) -> dict:
    """Write a randomly initialised tiny Qwen2-VL checkpoint.

    Args:
        out_dir: folder to fill; made if missing.
        preset: a key of `PRESETS`: "test" is as small as possible, "demo" can learn the demo world.
        seed: seed of the weights. The tokenizer depends on `texts` only.
        texts: what the BPE merges are learned from; any other text still encodes, in shorter pieces.

    Returns:
        `{"preset", "seed", "tokens", "parameters"}`; `tokens` is both the tokenizer's length and the model's
        vocabulary, so there is no id that the model can emit and the tokenizer cannot decode.

    Raises:
        ValueError: unknown preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"There is no preset {preset!r}; choose one of {sorted(PRESETS)}.")
    out, sizes = Path(out_dir), PRESETS[preset]
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(texts, sizes.max_bpe_tokens)
    write_tokenizer(tokenizer, out)
    write_processors(out)
    write_config(tokenizer, sizes, out)
    parameters = write_weights(out, seed)
    return {"preset": preset, "seed": seed, "tokens": tokenizer.get_vocab_size(), "parameters": parameters}


def train_tokenizer(texts: Iterable[str], max_bpe_tokens: int) -> Tokenizer:
    """Learn a byte-level BPE tokenizer; the special tokens follow the BPE vocabulary, as in Qwen."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=max_bpe_tokens,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, out: Path) -> None:
    """Write the tokenizer files in the form of the Qwen2-VL hub repositories."""
    tokenizer.save(str(out / "tokenizer.json"))
    tokenizer.model.save(str(out))
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    _write_json(
        out / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "added_tokens_decoder": {
                str(tokenizer.token_to_id(token)): {"content": token, **flags} for token in SPECIAL_TOKENS
            },
            "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
            "bos_token": None,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 32768,
            "pad_token": "<|endoftext|>",
            "padding_side": "left",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )
    _write_json(out / "chat_template.json", {"chat_template": CHAT_TEMPLATE})


def write_processors(out: Path) -> None:
    """Write Qwen2-VL's own image and video processing: 14-pixel patches, one token per 28 x 28 pixels."""
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
    _write_json(out / "preprocessor_config.json", {"image_processor_type": "Qwen2VLImageProcessor", **common})
    _write_json(out / "video_preprocessor_config.json", {"video_processor_type": "Qwen2VLVideoProcessor", **common})


def write_config(tokenizer: Tokenizer, sizes: Preset, out: Path) -> None:
    """Write config.json and generation_config.json.

    The config is flat, as in the Qwen2-VL hub repositories: transformers 4 and 5 both read that form with the tied
    embeddings intact, while neither reads what the other one saves.
    """
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    rotated_pairs = sizes.hidden // sizes.heads // 2
    time_pairs = rotated_pairs // 4  # Qwen2-VL splits 64 pairs into 16 for time, 24 for height, 24 for width
    height_pairs = (rotated_pairs - time_pairs) // 2
    width_pairs = rotated_pairs - time_pairs - height_pairs
    special_ids = {
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    _write_json(
        out / "config.json",
        {
            "architectures": ["Qwen2VLForConditionalGeneration"],
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "hidden_size": sizes.hidden,
            "image_token_id": ids["<|image_pad|>"],
            "initializer_range": 0.02,
            "intermediate_size": sizes.mlp,
            "max_position_embeddings": 4096,
            "max_window_layers": sizes.layers,
            "model_type": "qwen2_vl",
            "num_attention_heads": sizes.heads,
            "num_hidden_layers": sizes.layers,
            "num_key_value_heads": sizes.kv_heads,
            "rms_norm_eps": 1e-6,
            "rope_scaling": {"mrope_section": [time_pairs, height_pairs, width_pairs], "type": "mrope"},
            "rope_theta": sizes.rope_theta,
            "sliding_window": 4096,
            "tie_word_embeddings": True,
            "torch_dtype": "float32",
            "use_cache": True,
            "use_sliding_window": False,
            "video_token_id": ids["<|video_pad|>"],
            "vision_config": {
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
            },
            "vision_end_token_id": ids["<|vision_end|>"],
            "vision_start_token_id": ids["<|vision_start|>"],
            "vision_token_id": ids["<|vision_pad|>"],
            "vocab_size": tokenizer.get_vocab_size(),
            **special_ids,
        },
    )
    stops = (ids["<|im_end|>"], ids["<|endoftext|>"])
    _write_json(
        out / "generation_config.json",
        {
            **special_ids,
            "do_sample": False,
            "eos_token_id": list(stops),
            # A barely trained model would otherwise emit image placeholders, which belong to prompts only.
            "suppress_tokens": sorted(set(ids.values()) - set(stops)),
        },
    )


def write_weights(out: Path, seed: int) -> int:
    """Save weights for the config in `out` and return how many parameters there are.

    transformers' own initialisation changes between versions, so every tensor is filled here, in sorted order of
    its name, from one generator.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(out), dtype=torch.float32)
    model.tie_weights()
    vision, language = model.config.vision_config, model.config.get_text_config()
    generator = torch.Generator().manual_seed(seed)
    config, generation = (out / "config.json").read_bytes(), (out / "generation_config.json").read_bytes()
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            layers = vision.depth if "visual" in name else language.num_hidden_layers
            _fill(name, parameter, generator, layers)
    model.save_pretrained(out)
    (out / "config.json").write_bytes(config)
    (out / "generation_config.json").write_bytes(generation)
    return sum(parameter.numel() for parameter in model.parameters())


def _fill(name: str, parameter: torch.Tensor, generator: torch.Generator, layers: int) -> None:
    """Unit variance through every matrix, and a residual stream that does not grow with depth.

    Without the second, or with the usual small embeddings, the words drown in what the first layers add to them, and
    the model takes many times as long before it begins to look at the picture.
    """
    if name.endswith("bias"):
        parameter.zero_()
    elif parameter.ndim == 1:  # the norms' scales are the only other vectors
        parameter.fill_(1.0)
    else:
        std = 1 / math.sqrt(parameter[0].numel())
        if name.endswith(RESIDUAL_WEIGHTS):
            std /= math.sqrt(2 * layers)
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
