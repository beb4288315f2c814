"""Kinds of runs that have passed the self-check on this machine.

A kind is everything that decides how log-probs are computed and nothing that a user changes from run to run: the
sources of our package, of upstream's trainer, collator and media plugin and of the model, versions, shape of the
model, the kinds of media in the pair that is looked at, precision, device and ranks. The second run of a kind has
nothing to find out.
"""

import hashlib
import inspect
import json
import os
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.constants import HF_HOME

from ...dpo.trainer import CustomDPOTrainer
from ..engine import plain_model
from ..files.disk import replacing
from .view import PairTrainer


# A file for each kind, which says what it is.
FOLDER = Path(HF_HOME, "uni_dpo_self_checks")

# `UNI_DPO_SELF_CHECK=always` looks at every run anew.
VARIABLE = "UNI_DPO_SELF_CHECK"

PACKAGES = ("torch", "transformers", "llamafactory", "accelerate", "peft", "trl", "deepspeed", "flash-attn")
PACKAGES += ("flash-linear-attention",)


def kind_of_run(trainer: PairTrainer, policy: bool, row: dict[str, Any]) -> dict[str, Any]:
    """Describe what decides how log-probs are computed.

    Args:
        trainer: with the models.
        policy: whether the policy is called, or only the reference.
        row: the pair that is looked at.
    """
    model, args = plain_model(trainer.model), trainer.args
    config, choice = model.config.to_dict(), trainer.pair_forward.choice
    collator = trainer.data_collator
    plugin = collator.template.mm_plugin
    plugin = getattr(plugin, "_original", plugin)
    return {
        "sources": _sources(type(trainer), CustomDPOTrainer, type(model), *_bases(collator), *_bases(plugin)),
        "media": {name: min(2, len(row[name])) for name in ("images", "videos", "audios") if row.get(name)},
        "template": [type(plugin).__name__, plugin.image_token, plugin.video_token],
        "versions": {name: _version(name) for name in PACKAGES},
        "model": {name: value for name, value in config.items() if name != "_name_or_path"},
        "attention": model.config._attn_implementation,
        "weights": sorted({f"{weight.dtype} {weight.requires_grad}" for weight in model.parameters()}),
        "adapters": sorted({type(part).__name__ for part in model.modules()}),
        "route": [choice.route, choice.layout, choice.varlen],
        "shares": trainer.pair_forward.shares_features,
        "called": [policy, trainer.ref_model is not None, trainer.reference_is_stored],
        "stored images": collator.read_image is not None,
        "precision": [args.bf16, args.fp16, torch.backends.cuda.matmul.allow_tf32],
        "device": torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type,
        "ranks": [str(trainer.accelerator.distributed_type), trainer.accelerator.num_processes],
        "sharding": [
            getattr(getattr(trainer.accelerator.state, "deepspeed_plugin", None), "zero_stage", None),
            getattr(getattr(trainer.accelerator.state, "fsdp_plugin", None), "fsdp_version", None),
        ],
    }


def is_known(kind: dict[str, Any]) -> bool:
    """Tell whether a run of this kind has passed here; never of stored images, whose folder is another each time."""
    return os.environ.get(VARIABLE) != "always" and not kind["stored images"] and _file(kind).is_file()


def remember(kind: dict[str, Any]) -> None:
    """Note that a run of this kind has passed; where nothing can be written, the next one is looked at again."""
    with suppress(OSError):
        FOLDER.mkdir(parents=True, exist_ok=True)
        with replacing(_file(kind)) as file:
            file.write_text(json.dumps(kind, indent=1, default=str) + "\n", encoding="utf-8")


def _file(kind: dict[str, Any]) -> Path:
    text = json.dumps(kind, sort_keys=True, default=str)
    return FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _sources(*classes: type) -> str:
    """Hash our package and the files in which these classes are defined."""
    ours = sorted(Path(__file__).parents[1].rglob("*.py"))
    files = dict.fromkeys([*ours, *(Path(inspect.getfile(each)) for each in classes)])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _bases(thing: Any) -> tuple[type, ...]:
    return type(thing).__mro__[:-1]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
