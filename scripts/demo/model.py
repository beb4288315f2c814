"""A tiny Qwen2-VL, built from nothing.

`build` writes a complete checkpoint folder: a byte-level BPE tokenizer with every special token of Qwen2-VL, the
processors, the chat template, and weights. It is the stock architecture at a small size, so LlamaFactory, the Auto
classes of transformers and vLLM treat it like the real model.
"""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer

from .config import PRESETS, Preset, generation_config, model_config, processor_configs
from .tokenizer import CHAT_TEMPLATE, tokenizer_config, train_tokenizer


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
    write_configs(tokenizer, sizes, out)
    parameters = write_weights(out, seed)
    return {"preset": preset, "seed": seed, "tokens": tokenizer.get_vocab_size(), "parameters": parameters}


def write_configs(tokenizer: Tokenizer, sizes: Preset, out: Path) -> None:
    """Write everything of a checkpoint folder that is neither weights nor vocabulary."""
    image, video = processor_configs()
    contents = {
        "tokenizer_config": tokenizer_config(tokenizer),
        "chat_template": {"chat_template": CHAT_TEMPLATE},
        "preprocessor_config": image,
        "video_preprocessor_config": video,
        "config": model_config(tokenizer, sizes),
        "generation_config": generation_config(tokenizer),
    }
    for name, content in contents.items():
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (out / f"{name}.json").write_text(text, encoding="utf-8")


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
