"""A tiny Qwen2-VL, built from nothing.

`build` writes a complete checkpoint folder: a byte-level BPE tokenizer with every special token of Qwen2-VL, the
processors, the chat template, and weights. It is the stock architecture at a small size, so LlamaFactory, the Auto
classes of transformers and vLLM treat it like the real model.
"""

import json
import math
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


# Files of a Qwen2-VL checkpoint: some as they are, and some whose sizes and ids are filled in.
FILES = Path(__file__).with_name("qwen2_vl")
VERBATIM = ("preprocessor_config.json", "video_preprocessor_config.json", "chat_template.json")
SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
# How Qwen2 splits text before BPE; transformers 5 rebuilds the tokenizer with this pattern, so ours must be the same.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
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


PRESETS = {
    "test": Preset(64, 2, 4, 2, 128, 32, 2, 2, 400, 1e4),
    "demo": Preset(128, 4, 4, 4, 384, 128, 2, 4, 768, 1e4),
}
DEFAULT_TEXTS = (
    "system user assistant\nYou are a helpful assistant.",
    "Is there a red circle in the picture? Yes, there is a red circle. No, there is no red circle.",
    "How many squares are there? There are three squares. Answer with the letter. A. one B. two C. three D. four",
    "Describe the picture. The picture shows a blue square on the left and a green triangle on the right.",
)
# The matrices that write back into the residual stream, in the language model and in the vision tower.
RESIDUAL_WEIGHTS = ("o_proj.weight", "down_proj.weight", "attn.proj.weight", "fc2.weight")


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
    tokenizer.save(str(out / "tokenizer.json"))
    tokenizer.model.save(str(out))
    for name in VERBATIM:
        shutil.copyfile(FILES / name, out / name)
    contents = {
        "tokenizer_config": _tokenizer_config(tokenizer),
        "config": model_config(tokenizer, sizes),
        "generation_config": _generation_config(tokenizer),
    }
    for name, content in contents.items():
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (out / f"{name}.json").write_text(text, encoding="utf-8")
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


def model_config(tokenizer: Tokenizer, sizes: Preset) -> dict[str, Any]:
    """The content of config.json.

    It is flat, as in the Qwen2-VL hub repositories: transformers 4 and 5 both read that form with the tied embeddings
    intact, while neither reads what the other one saves.
    """
    # The rotated pairs of a head, shared out: Qwen2-VL's 64 are 16 for time, 24 for height and 24 for width.
    pairs = sizes.hidden // sizes.heads // 2
    time = pairs // 4
    height = (pairs - time) // 2
    config = json.loads((FILES / "config.json").read_text(encoding="utf-8"))
    config["rope_scaling"]["mrope_section"] = [time, height, pairs - time - height]
    config["vision_config"] |= {
        "depth": sizes.vision_layers,
        "embed_dim": sizes.vision_hidden,
        "hidden_size": sizes.hidden,
        "num_heads": sizes.vision_heads,
    }
    marks = {"image": "image_pad", "video": "video_pad", "vision": "vision_pad"}
    marks |= {"vision_start": "vision_start", "vision_end": "vision_end"}
    return config | {
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.mlp,
        "max_window_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_hidden_layers": sizes.layers,
        "num_key_value_heads": sizes.kv_heads,
        "rope_theta": sizes.rope_theta,
        "vocab_size": tokenizer.get_vocab_size(),
        **{f"{name}_token_id": tokenizer.token_to_id(f"<|{mark}|>") for name, mark in marks.items()},
        **_text_ids(tokenizer),
    }


def _tokenizer_config(tokenizer: Tokenizer) -> dict[str, Any]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return json.loads((FILES / "tokenizer_config.json").read_text(encoding="utf-8")) | {
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(token)): {"content": token, **flags} for token in SPECIAL_TOKENS
        },
        **json.loads((FILES / "chat_template.json").read_text(encoding="utf-8")),
    }


def _generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """Greedy, until the turn or the text ends.

    A barely trained model would otherwise emit image placeholders, which belong to prompts only.
    """
    stops = [tokenizer.token_to_id(token) for token in ("<|im_end|>", "<|endoftext|>")]
    others = {tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}.difference(stops)
    return {**_text_ids(tokenizer), "do_sample": False, "eos_token_id": stops, "suppress_tokens": sorted(others)}


def _text_ids(tokenizer: Tokenizer) -> dict[str, int]:
    names = {"bos": "<|endoftext|>", "eos": "<|im_end|>", "pad": "<|endoftext|>"}
    return {f"{name}_token_id": tokenizer.token_to_id(token) for name, token in names.items()}


def write_weights(out: Path, seed: int, dtype: torch.dtype = torch.float32) -> int:
    """Save weights for the config in `out` and return how many parameters there are.

    transformers' own initialisation changes between versions, so every tensor is filled here, in sorted order of
    its name, from one generator.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_config(
        AutoConfig.from_pretrained(out, trust_remote_code=False), dtype=dtype
    )
    model.tie_weights()
    vision, language = model.config.vision_config, model.config.get_text_config()
    depths = {True: getattr(vision, "depth", None) or vision.num_hidden_layers, False: language.num_hidden_layers}
    generator = torch.Generator().manual_seed(seed)
    configs = {path: path.read_bytes() for path in (out / "config.json", out / "generation_config.json")}
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            _fill(name, parameter, generator, depths["visual" in name or "vision_tower" in name])
    model.save_pretrained(out)
    for path, content in configs.items():
        path.write_bytes(content)
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
        parameter.copy_(torch.randn(parameter.shape, generator=generator).mul_(std))
