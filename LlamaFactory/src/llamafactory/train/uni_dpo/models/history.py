"""What a run writes about itself into files that are saved anyway, and reads in the adapters that it starts from.

The key `uni_dpo` of `config.json` (whole models) or of `tokenizer_config.json` (adapters, beside which there is no
`config.json`). transformers keeps both through loading and saving, so it travels through exports, copies and hubs.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers.integrations import is_deepspeed_zero3_enabled

from ....extras import logging
from ..errors import UniDPOError
from .markup import keep_markup


RECORD = "uni_dpo"
RECORD_FILES = ("config.json", "tokenizer_config.json")
ADAPTER_WEIGHTS = "adapter_model.safetensors"

logger = logging.get_logger(__name__)


def record_training(
    model: Any, tokenizer: Any, processor: Any, template: Any, model_args: Any, data_args: Any, finetuning_args: Any
) -> None:
    """Have all that is saved of a run carry its prompt, its loss and the adapters it was trained on top of."""
    record: dict[str, Any] = {
        "template": data_args.template,
        "prompt": keep_markup(tokenizer, processor, template),
        "pref_loss": finetuning_args.pref_loss,
    }
    if images := _image_options(processor, model_args):
        record["images"] = images
    if not isinstance(model, PeftModel):
        setattr(model.config, RECORD, record)
        return
    if merged := adapters_before(model_args, finetuning_args, model)[0]:
        record["adapters"] = [{"path": path, "digest": _digest(path)} for path in merged]
    tokenizer.init_kwargs[RECORD] = record
    _tell_of_untied_embeddings(model)


def _image_options(processor: Any, model_args: Any) -> dict[str, bool]:
    """Return what the image processor does here, where LlamaFactory may do otherwise than whoever asks later."""
    images = getattr(processor, "image_processor", None)
    return {
        name: bool(getattr(model_args, option, False) or getattr(images, name))
        for name, option in {"crop_to_patches": "crop_to_patches", "do_pan_and_scan": "image_do_pan_and_scan"}.items()
        if hasattr(images, name)
    }


def _tell_of_untied_embeddings(model: PeftModel) -> None:
    """Say how an adapter is merged that trains the embeddings apart from the output layer, which the base ties."""
    touched = [name for name, weight in model.named_parameters() if weight.requires_grad]
    touched = [name for name in touched if "lm_head" in name or "embed_tokens" in name]
    if touched and getattr(model.config.get_text_config(), "tie_word_embeddings", False):
        logger.warning_rank0(
            "The start model ties its output layer to its embeddings, and this adapter changes them apart. Evaluation "
            "and `llamafactory-cli export` with this overlay heed that; whoever merges it otherwise has to set "
            "`tie_word_embeddings: false` in the merged model's config.json, or it loses what was trained."
        )


def training_record(folder: str | os.PathLike) -> dict[str, Any] | None:
    """Return what an earlier run of ours wrote into a folder; None if there is nothing."""
    for path in (Path(folder) / name for name in RECORD_FILES):
        try:
            content = json.loads(path.read_text(encoding="utf-8")).get(RECORD)
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(content, dict):
            return content
    return None


def adapters_before(model_args: Any, finetuning_args: Any, model: Any = None) -> tuple[list[str], str | None]:
    """Tell what LlamaFactory makes of `adapter_name_or_path`.

    Args:
        model_args: LlamaFactory's.
        finetuning_args: LlamaFactory's.
        model: the loaded model, which knows best whether it is quantised; None before it is loaded.

    Returns:
        The adapters that it merges into the base, in order, and the one that it trains on, if it makes no new one.
    """
    paths = [_with_folder(path, model_args.adapter_folder) for path in model_args.adapter_name_or_path or []]
    quantised = model_args.quantization_bit is not None or getattr(model, "quantization_method", None) is not None
    # Into these nothing is merged, whatever the options say.
    fixed = quantised or is_deepspeed_zero3_enabled() or model_args.use_unsloth
    if paths and (fixed or not finetuning_args.create_new_adapter):
        return paths[:-1], paths[-1]
    return paths, None


def _with_folder(path: str, subfolder: str | None) -> str:
    if not os.path.isdir(path):
        return path
    return os.path.abspath(os.path.join(path, subfolder or ""))


def _digest(path: str) -> str | None:
    weights = Path(path) / ADAPTER_WEIGHTS
    if not weights.is_file():
        return None
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_chain(option: str, adapters: Sequence[str]) -> None:
    """Refuse adapters that lack those they were trained on top of, which would make another model of them.

    Args:
        option: the option that lists them, for messages.
        adapters: what it lists.

    Raises:
        UniDPOError: one was trained on top of others than come before it.
    """
    for i, adapter in enumerate(adapters):
        earlier = [str(it.get("path")) for it in (training_record(adapter) or {}).get("adapters", [])]
        given = list(adapters[:i])
        if earlier and list(map(_name, earlier)) != list(map(_name, given)):
            raise UniDPOError(
                f"The adapter {adapter} was trained on top of {', '.join(earlier)}, but `{option}: "
                f"{','.join(adapters)}` puts it on {', '.join(given) or 'the base'}, which makes another model of it. "
                f"Say `{option}: {','.join([*earlier, adapter])}`."
            )


def _name(path: str) -> str:
    return Path(path).name
