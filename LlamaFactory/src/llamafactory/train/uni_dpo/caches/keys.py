"""What the content of a cache depends on, in words that a refused user can act on."""

import os
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoImageProcessor
from transformers.integrations import is_deepspeed_zero3_enabled

from ....extras.misc import use_modelscope, use_openmind
from ..errors import UniDPOError
from ..models.portable import readable
from .fingerprints import FileHashes, hash_text, weights_fingerprint


# A new number makes every older cache stale: raise it when log-probs or features come out differently than before.
VERSION = 1

PIXEL_OPTIONS = ("image_max_pixels", "image_min_pixels", "image_do_pan_and_scan", "crop_to_patches")
VIDEO_OPTIONS = ("video_max_pixels", "video_min_pixels", "video_fps", "video_maxlen", "use_audio_in_video")
MODEL_OPTIONS = ("rope_scaling", "flash_attn", "upcast_layernorm", "enable_liger_kernel")
QUANTIZATION_OPTIONS = ("quantization_method", "quantization_type", "double_quantization")

# Where a checkpoint says how images are processed, saved by transformers 4 and by 5.
IMAGE_PROCESSORS = ("preprocessor_config.json", "processor_config.json")

# What a config says of seeing beside its `vision_config`.
OF_VISION = ("vision_feature_layer", "vision_feature_select_strategy", "downsample_ratio")
OF_VISION += ("projector_hidden_act", "multimodal_projector_bias", "mm_tokens_per_image", "image_seq_length")

# What a config says of its own file and not of the model.
ABOUT_THE_FILE = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache")


def reference_key(
    model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any, hashes: FileHashes
) -> dict[str, Any]:
    """Describe what reference log-probs depend on besides the pairs themselves.

    Raises:
        UniDPOError: the reference is not defined by files.
    """
    model = _Model(model_args, "uni_dpo_reference_cache", hashes, finetuning_args.ref_model)
    policy = _Model(model_args, "uni_dpo_reference_cache", hashes)
    given = finetuning_args.ref_model
    adapters = finetuning_args.ref_model_adapters if given else model_args.adapter_name_or_path
    bits = finetuning_args.ref_model_quantization_bit if given else model_args.quantization_bit
    return {
        "version": VERSION,
        "reference model": model.weights(),
        "its config": model.config(),
        "adapters": model.adapters(adapters, None if given else training_args, finetuning_args),
        "template": data_args.template,
        "precision": _precision(model_args, training_args, finetuning_args),
        # `auto` is the best route that the model allows, and so is `shared_prefix` where it is possible.
        "pref_forward": finetuning_args.forward_route.replace("shared_prefix", "auto")
        + " varlen" * finetuning_args.pref_varlen_attention,
        "quantization": {"bits": bits, **_options(model_args, QUANTIZATION_OPTIONS)} if bits else None,
        **_options(model_args, MODEL_OPTIONS + PIXEL_OPTIONS + VIDEO_OPTIONS),
        # `rope_scaling` stretches positions to `cutoff_len`.
        **({"reaches": data_args.cutoff_len} if model_args.rope_scaling else {}),
        "image processor": policy.image_processor(),  # the reference sees what the policy sees
    }


def image_key(model_args: Any, training_args: Any, finetuning_args: Any, hashes: FileHashes) -> dict[str, Any]:
    """Describe what image features depend on besides the images themselves.

    Raises:
        UniDPOError: the vision tower is not defined by files.
    """
    model = _Model(model_args, "uni_dpo_image_cache", hashes)
    return {
        "version": VERSION,
        "vision tower": model.weights(tower=True),
        "its config": model.config(tower=True),
        "adapters": model.adapters(model_args.adapter_name_or_path, training_args, finetuning_args),
        "precision": _precision(model_args, training_args, finetuning_args),
        "quantization": _options(model_args, ("quantization_bit", *QUANTIZATION_OPTIONS)),
        **_options(model_args, ("flash_attn", "enable_liger_kernel", *PIXEL_OPTIONS)),
        "image processor": model.image_processor(),
    }


class _Model:
    """A checkpoint in a folder, or on the hub."""

    def __init__(self, model_args: Any, option: str, hashes: FileHashes, name: str | None = None):
        for unstable in ("train_from_scratch", "resize_vocab"):
            if getattr(model_args, unstable, False):
                raise UniDPOError(f"`{option}` cannot be used with `{unstable}`, which starts from random weights.")
        self._args, self._option, self._hashes = model_args, option, hashes
        self._path = self._folder(name or model_args.model_name_or_path)
        self._readable = readable(self._path)

    def weights(self, tower: bool = False) -> str:
        return self._fingerprint(self._path, tower)

    def config(self, tower: bool = False) -> str:
        values = AutoConfig.from_pretrained(self._readable, trust_remote_code=self._args.trust_remote_code).to_dict()
        if tower:
            values = {
                **values.get("vision_config", {}),
                **{name: values[name] for name in OF_VISION if name in values},
            }
        return hash_text({name: value for name, value in values.items() if name not in ABOUT_THE_FILE})

    def adapters(self, names: list[str] | str | None, training_args: Any, finetuning_args: Any) -> dict[str, Any]:
        """Describe adapters, and what decides which of them LlamaFactory merges into the weights."""
        names = names.split(",") if isinstance(names, str) else names or []
        if not names:
            return {}
        inside = getattr(self._args, "adapter_folder", None) or ""
        folders = [Path(self._folder(name.strip()), inside) for name in names]
        merging = {"new": finetuning_args.create_new_adapter, "zero3": bool(is_deepspeed_zero3_enabled())}
        if training_args is not None:
            merging |= {"trains": training_args.do_train, "method": finetuning_args.finetuning_type}
        settings = [self._hashes.of(folder / "adapter_config.json") for folder in folders]
        return {"weights": [self._fingerprint(folder) for folder in folders], "settings": settings, **merging}

    def image_processor(self) -> str | None:
        """Hash what the image processor does, as its file also changes when it is only saved again."""
        if not any(Path(self._path, name).is_file() for name in IMAGE_PROCESSORS):
            return None
        options = {"use_fast": self._args.use_fast_tokenizer, "trust_remote_code": self._args.trust_remote_code}
        return hash_text(AutoImageProcessor.from_pretrained(self._readable, **options).to_dict())

    def _fingerprint(self, folder: str | Path, tower: bool = False) -> str:
        try:
            return weights_fingerprint(folder, self._hashes, tower)
        except FileNotFoundError as error:
            raise UniDPOError(f"`{self._option}`: {error} Name a folder with the whole checkpoint.") from error

    def _folder(self, name: str) -> str:
        if os.path.isdir(name):
            return name
        if use_modelscope() or use_openmind():
            raise UniDPOError(f"`{self._option}` needs the folder of {name}: download it and name the folder instead.")
        where = {"revision": self._args.model_revision, "cache_dir": self._args.cache_dir}
        wanted = ["*.json", "*.safetensors", "*.bin", "*.txt", "*.model", "*.jinja"]
        try:
            return snapshot_download(name, token=self._args.hf_hub_token, allow_patterns=wanted, **where)
        except (OSError, ValueError) as error:
            raise UniDPOError(
                f"`{self._option}`: {name} is neither a folder nor a checkpoint that the hub gives ({error}). "
                "Download it and name its folder."
            ) from error


def _options(args: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: None if (value := getattr(args, name, None)) is None else str(value) for name in names}


def _precision(model_args: Any, training_args: Any, finetuning_args: Any) -> str:
    mixed = "bf16" if training_args.bf16 else "fp16" if training_args.fp16 else "no"
    engine = "DeepSpeed" if training_args.deepspeed else "plain"
    pure = ", pure" if finetuning_args.pure_bf16 else ""
    weights = "as stored" if model_args.compute_dtype is None else str(model_args.compute_dtype).removeprefix("torch.")
    return f"weights {weights}, mixed {mixed}{pure}, {engine}"
