"""Policy and reference of a measurement: stock Qwen2-VL with random weights, set up as LlamaFactory trains it."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen2VLConfig
from transformers.utils import logging

from common import ROOT
from demo.model import Preset, model_config
from llamafactory.hparams import ModelArguments
from llamafactory.model.model_utils.checkpointing import prepare_model_for_training
from llamafactory.train.uni_dpo.engine import attach, choose

from .variants import Sizes


# Only its tokenizer's special tokens and its image processing are used, which are Qwen2-VL's.
PROCESSOR = ROOT / "data" / "demo" / "checkpoint"


@dataclass
class Models:
    """A policy and a reference that share the vision tower's weights, bit for bit, and differ in the text model's."""

    sizes: Sizes
    policy: nn.Module
    reference: nn.Module
    processor: Any

    @property
    def device(self) -> torch.device:
        """Where both are."""
        return self.policy.device


def build(sizes: Sizes, device: str, seed: int = 0) -> Models:
    """Build both models.

    On a GPU they are as LlamaFactory trains with `bf16: true`: bfloat16, with the policy's trained weights in float32
    and autocast over everything. On a CPU all is float32. The vision tower is frozen, LlamaFactory's default.
    """
    torch.manual_seed(seed)
    logging.set_verbosity_error()  # hints about loading real checkpoints
    with torch.device(device):
        config = Qwen2VLConfig(**config_values(Tokenizer.from_file(str(PROCESSOR / "tokenizer.json")), sizes))
        model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa")
    _randomise(model)
    if device == "cuda":
        for weight in model.parameters():  # buffers, as the frequencies of positions, stay float32
            weight.data = weight.data.to(torch.bfloat16)
    reference = copy.deepcopy(model).requires_grad_(False).eval()
    model.model.visual.requires_grad_(False)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
            if weight.ndim > 1 and "lm_head" not in name:
                weight.data.add_(torch.randn_like(weight), alpha=0.05 * float(weight.data.std()))
    if not sizes.tied:
        model.lm_head.weight.data.mul_(1.05)
    arguments = ModelArguments(model_name_or_path="random", disable_gradient_checkpointing=not sizes.checkpointing)
    prepare_model_for_training(model, arguments)
    model.train()
    choice = choose(model, reference)
    for part in (model, reference):
        attach(part, choice)
    processor = AutoProcessor.from_pretrained(PROCESSOR, trust_remote_code=False)
    processor.image_max_pixels = 2**24  # LlamaFactory scales larger images down
    return Models(sizes, model, reference, processor)


def parameters(models: Models) -> dict[str, int]:
    """Count weights of the three parts; a tied output layer is counted as the output layer's."""
    model = models.policy
    head = model.lm_head.weight.numel()
    text = sum(w.numel() for n, w in model.model.language_model.named_parameters() if "embed_tokens" not in n)
    return {"text": text, "head": head, "vision": sum(w.numel() for w in model.model.visual.parameters())}


def config_values(tokenizer: Tokenizer, sizes: Sizes) -> dict[str, Any]:
    """Return the content of config.json for these sizes, with the ids of a tokenizer's special tokens."""
    vision = (sizes.vision_hidden, sizes.vision_layers, sizes.vision_heads)
    preset = Preset(sizes.hidden, sizes.layers, sizes.heads, sizes.kv_heads, sizes.mlp, *vision, 0, 1e6)
    values = model_config(tokenizer, preset)
    return values | {"vocab_size": sizes.vocabulary, "tie_word_embeddings": sizes.tied}


def _randomise(model: nn.Module) -> None:
    """Draw weights large enough for log-probs to depend on the image, on positions and on what a token may see."""
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "embed_tokens" not in name and "lm_head" not in name:
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
