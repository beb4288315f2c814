"""Policy and reference of a measurement: stock models with random weights, set up as LlamaFactory trains them."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText
from transformers.utils import logging

from llamafactory.hparams import FinetuningArguments, ModelArguments
from llamafactory.model.model_utils.checkpointing import prepare_model_for_training
from llamafactory.model.model_utils.visual import get_forbidden_modules
from llamafactory.train.uni_dpo.engine import attach, choose, tower_of

from .kinds import config_of, processor_of
from .sizes import KINDS, Sizes


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
    and autocast over everything. On a CPU all is float32. The vision tower is frozen as LlamaFactory does by default.
    """
    torch.manual_seed(seed)
    logging.set_verbosity_error()  # hints about loading real checkpoints
    with torch.device(device):
        processor = processor_of(sizes)
        config = config_of(sizes, processor.tokenizer)
        model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa")
    _randomise(model)
    if device == "cuda":
        for weight in model.parameters():  # buffers, as the frequencies of positions, stay float32
            weight.data = weight.data.to(torch.bfloat16)
    reference = copy.deepcopy(model).requires_grad_(False).eval()
    frozen = get_forbidden_modules(config, FinetuningArguments())
    for name, weight in model.named_parameters():
        weight.requires_grad_(not any(part in name for part in frozen))
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
            if weight.ndim > 1 and "lm_head" not in name and "visual" not in name:
                weight.data.add_(torch.randn_like(weight), alpha=0.05 * float(weight.data.std()))
    if not sizes.tied:
        model.lm_head.weight.data.mul_(1.05)
    arguments = ModelArguments(model_name_or_path="random", disable_gradient_checkpointing=not sizes.checkpointing)
    prepare_model_for_training(model, arguments)
    model.train()
    choice = choose(model, reference)
    if choice.route != ("shared_prefix" if KINDS[sizes.kind].shares else "response_only"):
        raise RuntimeError(f"The engine trains {sizes.kind} by {choice.route}: {choice.obstacle}")
    for part in (model, reference):
        attach(part, choice)
    return Models(sizes, model, reference, processor)


def parameters(models: Models) -> dict[str, int]:
    """Count weights of the three parts; a tied output layer is counted as the output layer's."""
    model = models.policy
    head = model.lm_head.weight.numel()
    text = sum(w.numel() for n, w in model.model.language_model.named_parameters() if "embed_tokens" not in n)
    vision = sum(w.numel() for part in tower_of(model).values() for w in part.parameters())
    return {"text": text, "head": head, "vision": vision}


def _randomise(model: nn.Module) -> None:
    """Draw weights large enough for log-probs to depend on the image, on positions and on what a token may see."""
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "embed_tokens" not in name and "lm_head" not in name:
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
