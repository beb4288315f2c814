"""Variants of a tiny Qwen2-VL: a Qwen2.5-VL, a model of text alone, and a LoRA adapter."""

import json
import shutil
from pathlib import Path
from typing import Any


def qwen2_5(model: Path, folder: Path) -> Path:
    """Make a random Qwen2.5-VL with a Qwen2-VL's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((model / "config.json").read_text())
    vision = config["vision_config"]
    config["vision_config"] = {
        **{name: vision[name] for name in ("depth", "num_heads", "patch_size", "spatial_merge_size")},
        **{"hidden_size": vision["embed_dim"], "intermediate_size": 32, "out_hidden_size": config["hidden_size"]},
        **{"fullatt_block_indexes": [0], "window_size": 56, "model_type": "qwen2_5_vl", "in_chans": 3},
    }
    config |= {"architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl"}
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    for name, weights in model.named_parameters():
        if weights.ndim > 1 and "embed_tokens" not in name:  # large enough for answers to depend on the question
            torch.nn.init.normal_(weights, std=weights[0].numel() ** -0.5)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def text_model(model: Path, folder: Path, kind: str = "qwen2", **changes: Any) -> Path:
    """Make a random text model of type `kind` with a Qwen2-VL's tokenizer; `changes` go into its config."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors", "*preprocessor*", "config.json"))
    known = json.loads((model / "config.json").read_text())
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names += ("num_key_value_heads", "bos_token_id", "eos_token_id", "pad_token_id")
    sizes = {name: known.get(name) for name in names} | {"head_dim": 16, "max_position_embeddings": 4096}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes | changes)).save_pretrained(folder)
    return folder


def adapter(model: Path, folder: Path, apart: bool = False) -> Path:
    """Make a LoRA adapter on the language model and the vision tower, of a rank that vLLM does not take itself.

    With `apart` it also brings embeddings and an output layer that are no longer one matrix.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    layers, whole = ["q_proj", "v_proj", "up_proj", "qkv"], ["embed_tokens", "lm_head"] if apart else None
    torch.manual_seed(0)
    config = LoraConfig(
        r=4, target_modules=layers, init_lora_weights=False, task_type="CAUSAL_LM", modules_to_save=whole
    )
    adapted = get_peft_model(AutoModelForImageTextToText.from_pretrained(model), config)
    with torch.no_grad():
        for name, weights in adapted.named_parameters():
            if "modules_to_save" in name:
                weights += weights.std() * torch.randn_like(weights)
    adapted.save_pretrained(folder)
    return folder


def dropped_head(model: Path, folder: Path) -> Path:
    """Copy a model with tied embeddings, with an output layer of its own that its config does not know of."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    head = next(value for name, value in weights.items() if name.endswith("embed_tokens.weight")).clone()
    torch.manual_seed(0)
    weights["lm_head.weight"] = head + head.std() * torch.randn_like(head)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder
