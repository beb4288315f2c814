"""What the content of a cache depends on, in words that a refused user can act on."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor
from transformers.utils import cached_file

from ..errors import UniDPOError
from .fingerprints import FileHashes, weights_fingerprint


# A new number makes every older cache stale: raise it when log-probs or features come out differently than before.
VERSION = 1

PIXEL_OPTIONS = ("image_max_pixels", "image_min_pixels", "image_do_pan_and_scan", "crop_to_patches")
VIDEO_OPTIONS = ("video_max_pixels", "video_min_pixels", "video_fps", "video_maxlen", "use_audio_in_video")
MODEL_OPTIONS = ("rope_scaling", "flash_attn", "upcast_layernorm", "enable_liger_kernel")
QUANTIZATION_OPTIONS = ("quantization_method", "quantization_type", "double_quantization")


def reference_key(model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any) -> dict[str, Any]:
    """Describe what reference log-probs depend on besides the pairs themselves.

    Raises:
        UniDPOError: the reference is not defined by files.
    """
    given = finetuning_args.ref_model
    adapters = finetuning_args.ref_model_adapters if given else model_args.adapter_name_or_path
    bits = finetuning_args.ref_model_quantization_bit if given else model_args.quantization_bit
    return {
        "version": VERSION,
        "reference model": _weights(given or model_args.model_name_or_path, model_args, "uni_dpo_reference_cache"),
        "adapters": _adapters(adapters, model_args, "uni_dpo_reference_cache"),
        # With adapters in training the last of those given may be left out of the reference.
        "adapters in training": finetuning_args.finetuning_type == "lora" and bool(adapters),
        "template": data_args.template,
        "precision": _precision(model_args, training_args, finetuning_args),
        "pref_forward": finetuning_args.forward_route,
        "quantization": {"bits": bits, **_options(model_args, QUANTIZATION_OPTIONS)} if bits else None,
        **_options(model_args, MODEL_OPTIONS + PIXEL_OPTIONS + VIDEO_OPTIONS),
        "image processor": _image_processor(model_args),
    }


def image_key(model_args: Any, training_args: Any, finetuning_args: Any) -> dict[str, Any]:
    """Describe what image features depend on besides the images themselves.

    Raises:
        UniDPOError: the vision tower is not defined by files.
    """
    option = "uni_dpo_image_cache"
    return {
        "version": VERSION,
        "vision tower": _weights(model_args.model_name_or_path, model_args, option, part="visual."),
        "adapters": _adapters(model_args.adapter_name_or_path, model_args, option),
        "precision": _precision(model_args, training_args, finetuning_args),
        "quantization": _options(model_args, ("quantization_bit", *QUANTIZATION_OPTIONS)),
        **_options(model_args, ("flash_attn", "enable_liger_kernel", *PIXEL_OPTIONS)),
        "image processor": _image_processor(model_args),
    }


def _options(args: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: None if (value := getattr(args, name, None)) is None else str(value) for name in names}


def _precision(model_args: Any, training_args: Any, finetuning_args: Any) -> str:
    mixed = "bf16" if training_args.bf16 else "fp16" if training_args.fp16 else "no"
    engine = "DeepSpeed" if training_args.deepspeed else "plain"
    pure = ", pure" if finetuning_args.pure_bf16 else ""
    weights = "as stored" if model_args.compute_dtype is None else str(model_args.compute_dtype).removeprefix("torch.")
    return f"weights {weights}, mixed {mixed}{pure}, {engine}"


def _weights(name: str, model_args: Any, option: str, part: str = "") -> str:
    for unstable in ("train_from_scratch", "resize_vocab"):
        if getattr(model_args, unstable, False):
            raise UniDPOError(f"`{option}` cannot be used with `{unstable}`, which starts from random weights.")
    try:
        return weights_fingerprint(_folder(name, "config.json", model_args), part)
    except FileNotFoundError as error:
        raise UniDPOError(f"`{option}`: the weights of {name} cannot be identified. {error}") from error


def _adapters(adapters: list[str] | str | None, model_args: Any, option: str) -> list[str]:
    names = adapters.split(",") if isinstance(adapters, str) else adapters or []
    folders = [_folder(name.strip(), "adapter_config.json", model_args) for name in names]
    configs = FileHashes(Path(os.devnull))
    return [weights_fingerprint(folder) + configs.of(Path(folder, "adapter_config.json")) for folder in folders]


def _image_processor(model_args: Any) -> str | None:
    """Hash what the image processor does, as its file also changes when it is only saved again."""
    folder = _folder(model_args.model_name_or_path, "config.json", model_args)
    if not Path(folder, "preprocessor_config.json").is_file():
        return None
    options = {"use_fast": model_args.use_fast_tokenizer, "trust_remote_code": model_args.trust_remote_code}
    settings = AutoImageProcessor.from_pretrained(folder, **options).to_dict()
    return hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def _folder(name: str, file: str, model_args: Any) -> str:
    if os.path.isdir(name):
        return name
    where = {
        "cache_dir": model_args.cache_dir,
        "revision": model_args.model_revision,
        "token": model_args.hf_hub_token,
    }
    return os.path.dirname(cached_file(name, file, **where))
