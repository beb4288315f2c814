"""Tiny reward models for the tests: classifiers of text, and of text and images."""

import json
import shutil
from pathlib import Path
from typing import Any


CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}{{ '<boi>' if part.type == 'image' else part.text }}{% endfor %}"
    "<|im_end|>\n{% endfor %}"
)


def text_classifier(model: Path, folder: Path, labels: int = 1, **changes: Any) -> Path:
    """Make a random Qwen2 classifier with the tokenizer and the chat template of a Qwen2-VL."""
    import torch
    from transformers import AutoModelForSequenceClassification, Qwen2Config

    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors", "*preprocessor*", "config.json"))
    template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    (folder / "chat_template.jinja").write_text(template)
    known = json.loads((model / "config.json").read_text())
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
    sizes |= {"vocab_size": known["vocab_size"], "num_hidden_layers": 2, "num_labels": labels}
    config = Qwen2Config(**sizes | {"pad_token_id": known["pad_token_id"]} | changes)
    torch.manual_seed(0)
    _save(AutoModelForSequenceClassification.from_config(config), folder)
    return folder


def image_classifier(model: Path, folder: Path, pad: bool = True) -> Path:
    """Make a random Gemma 3 classifier, the one vision-language model of which transformers has such a class.

    Without `pad` its config has another padding than its tokenizer.
    """
    import torch
    from transformers import (
        AutoTokenizer,
        Gemma3Config,
        Gemma3ForSequenceClassification,
        Gemma3ImageProcessor,
        Gemma3Processor,
    )

    special = {"image_token": "<img>", "boi_token": "<boi>", "eoi_token": "<eoi>"}
    tokenizer = AutoTokenizer.from_pretrained(model, extra_special_tokens=special)
    images = Gemma3ImageProcessor(size={"height": 28, "width": 28})
    processor = Gemma3Processor(images, tokenizer, chat_template=CHAT_TEMPLATE, image_seq_length=4)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = Gemma3Config(
        text_config=sizes
        | {"vocab_size": len(tokenizer), "num_key_value_heads": 1, "head_dim": 16}
        | ({"pad_token_id": tokenizer.pad_token_id} if pad else {}),
        vision_config=sizes | {"image_size": 28, "patch_size": 7},
        mm_tokens_per_image=4,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    _save(Gemma3ForSequenceClassification(config), folder)
    processor.save_pretrained(folder)
    return folder


def _save(model: Any, folder: Path) -> None:
    """Save a model whose weights are large enough for its logits to differ from text to text."""
    import torch

    for name, weights in model.named_parameters():
        if weights.ndim > 1 and "embed" not in name:
            torch.nn.init.normal_(weights, std=weights[0].numel() ** -0.5)
    model.save_pretrained(folder)
