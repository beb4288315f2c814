"""Whether a run fits into the memory of its GPUs, before anything starts."""

import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pair_data.errors import DataError

from .checks import GB
from .settings import Run


# Weights of language model and vision tower, for models that are still to be downloaded; of others they are counted.
KNOWN_SIZES = {
    **{"Qwen2-VL-2B": (1.544e9, 0.665e9), "Qwen2-VL-7B": (7.616e9, 0.676e9)},
    **{"Qwen2.5-VL-3B": (3.086e9, 0.669e9), "Qwen2.5-VL-7B": (7.616e9, 0.677e9)},
    **{"Qwen3-VL-2B": (1.721e9, 0.407e9), "Qwen3-VL-4B": (4.022e9, 0.415e9), "Qwen3-VL-8B": (8.191e9, 0.576e9)},
    **{"Qwen3.5-0.8B": (0.752e9, 0.101e9), "Qwen3.5-2B": (1.882e9, 0.331e9)},
    **{"Qwen3.5-4B": (4.206e9, 0.334e9), "Qwen3.5-9B": (8.954e9, 0.456e9)},
    **{"InternVL3-1B": (0.630e9, 0.308e9), "InternVL3-2B": (1.776e9, 0.313e9), "InternVL3-8B": (7.613e9, 0.332e9)},
    **{"InternVL3_5-4B": (4.411e9, 0.321e9), "gemma-3-4b": (3.880e9, 0.420e9)},
}
WITHOUT_REFERENCE = ("orpo", "simpo")
ACTIVATIONS = 3.5 * GB  # with gradient checkpointing: pixels, one layer, logits; about, and more for long rows
# Bytes that a token of `pref_token_budget` takes, per unit of the root of the language model's weights: counted on
# layers of the sizes of Qwen2-VL-2B and 7B and Qwen3-VL-4B in half precision, within 5 %, checkpointed and not.
TOKEN_BYTES, TOKEN_BYTES_WHOLE = 5.1, 76.0
BUDGETS = (32768, 16384, 8192)
# Options under which weights, gradients or moments take other room than what is counted here.
UNCOUNTED = (
    *("quantization_bit", "use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon"),
    *("fsdp", "pure_bf16"),
)
TOWER = ("visual", "vision", "multi_modal_projector")  # one of these is in the names of its weights
MEMORY_SWITCH = "SKIP_MEMORY_CHECK"


@dataclass(frozen=True)
class Need:
    """Bytes on each GPU: without activations, so that less cannot do, and with the usual ones."""

    least: float
    usual: float


def check_memory(run: Run) -> list[str]:
    """Say how much memory the run needs and what there is."""
    sizes = model_sizes(run.settings["model_name_or_path"], run.settings.get("cache_dir"))
    need = needed(run.settings, sizes, run.world_size) if sizes and run.cards else None
    if need is None:
        return []
    smallest = min(run.cards, key=lambda gpu: gpu.memory)
    there = f"the {smallest.name} has {smallest.memory / GB:.0f} GB"
    if need.least > smallest.memory:
        problem = f"this run needs about {need.usual / GB:.0f} GB on each GPU, and {there}"
        if run.variables.get(MEMORY_SWITCH, "0") != "0":
            return [f"memory: {problem}; going on, as {MEMORY_SWITCH} is set"]
        changes = "".join(f"\n  {change}" for change in _what_fits(run, sizes, smallest.memory))
        raise DataError(f"{problem}{changes}\n  try it all the same: {MEMORY_SWITCH}=1")
    note = f"memory: about {need.usual / GB:.0f} GB on each GPU; {there}"
    fullest = min(run.cards, key=lambda gpu: gpu.free)
    if need.usual <= fullest.free:
        return [note, *_larger_budget(run, sizes, 0.9 * fullest.free)]
    taken = f", of which {fullest.used / GB:.0f} GB are in use" if fullest.used > GB else ""
    changes = [f"if it does: {change}" for change in _what_fits(run, sizes, fullest.free)]
    return [f"{note}{taken}: it may run out", *changes]


def _larger_budget(run: Run, sizes: tuple[float, float], room: float) -> list[str]:
    budget = run.settings.get("pref_token_budget") or BUDGETS[0]
    for larger in (size for size in BUDGETS if size > budget):
        need = needed(run.settings | {"pref_token_budget": larger}, sizes, run.world_size)
        if need and need.usual <= room:
            return [f"memory: there is room for pref_token_budget={larger}, with which the GPU waits less"]
    return []


def _what_fits(run: Run, sizes: tuple[float, float], room: float) -> list[str]:
    """Propose changes with which the run fits into `room` bytes on each GPU."""
    settings, changes = run.settings, []
    for change, options, remark in (
        ("pref_token_budget=1024", {"pref_token_budget": 1024}, "smaller calls of the model"),
        ("uni_dpo_reference_cache=caches/reference", {"uni_dpo_reference_cache": "x"}, "no reference in training"),
        ("finetuning_type=lora", {"finetuning_type": "lora"}, "usually with a learning rate ten times as high"),
    ):
        need = needed(settings | options, sizes, run.world_size)
        if settings | options != settings and need and need.usual <= room:
            changes.append(f"{change}   ({remark}: about {need.usual / GB:.0f} GB)")
    for count in (2, 4, 8) if settings.get("finetuning_type") == "full" else ():
        need = needed(settings | {"deepspeed": {"zero_optimization": {"stage": 2}}}, sizes, count)
        if count > run.world_size and need and need.usual <= room:
            return [*changes, f"{count} such GPUs, with ZeRO-2: about {need.usual / GB:.0f} GB on each"]
    return changes


def needed(settings: dict[str, Any], sizes: tuple[float, float], processes: int) -> Need | None:
    """Count what a run with so many processes, one on each GPU, holds: weights, gradients, moments, the reference.

    `sizes` are the weights of language model and vision tower. None for a run that is not counted here.
    """
    kind = settings.get("finetuning_type", "lora")
    stage, offloads = zero_stage(settings.get("deepspeed"))
    adam = str(settings.get("optim", "adamw_torch")).startswith("adamw_torch")
    if kind not in ("full", "lora") or offloads or not adam or any(settings.get(name) for name in UNCOUNTED):
        return None
    text, tower = sizes
    stored = 2 if settings.get("bf16") or settings.get("fp16") else 4
    share = processes if stage == 3 else 1
    if kind == "lora":  # the policy without its adapter is the reference
        least = stored * (text + tower) / share
        return Need(least, least + _activations(settings, text))
    trained = 0 if settings.get("freeze_language_model") else text
    trained += 0 if settings.get("freeze_vision_tower", True) else tower
    without = settings.get("pref_loss") in WITHOUT_REFERENCE or settings.get("uni_dpo_reference_cache")
    kept = stored * (text + tower - trained) + (0 if without else stored * (text + tower))
    if stage:  # half precision whole, float32 weights and moments (and gradients) in parts
        least = kept / share + trained * (2 / share + (2 if stage == 1 else 0) + 14 / processes)
    else:  # float32 weights, gradients, two moments; DDP's buckets
        least = kept + trained * (16 if processes == 1 else 20)
    copies = trained * {0: 2, 1: 4}.get(stage, 0) if stored == 2 else 0  # autocast's; ZeRO-1's sums in float32
    return Need(least, least + copies + _activations(settings, text))


def _activations(settings: dict[str, Any], text: float) -> float:
    each = TOKEN_BYTES_WHOLE if settings.get("disable_gradient_checkpointing") else TOKEN_BYTES
    return ACTIVATIONS + each * math.sqrt(text) * (settings.get("pref_token_budget") or 0)


def zero_stage(config: str | dict[str, Any] | None) -> tuple[int, bool]:
    """Return ZeRO's stage in a DeepSpeed configuration, 0 without one, and whether it moves anything off the GPU."""
    try:
        read = json.loads(Path(config).read_text(encoding="utf-8")) if isinstance(config, str) else config
        zero = (read or {}).get("zero_optimization") or {}
        return int(zero.get("stage", 0)), any(name.startswith("offload") or name == "cpu_offload" for name in zero)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return 0, True  # not ours to judge


def model_sizes(name: str, cache_dir: str | None = None) -> tuple[float, float] | None:
    """Count the weights of a model's language model and of its vision tower; None if they are not known."""
    folder = Path(name) if os.path.isdir(name) else _cached(name, cache_dir)
    if folder is None:
        return next((sizes for known, sizes in KNOWN_SIZES.items() if known in name), None)
    text, tower = 0.0, 0.0
    try:
        for file in folder.glob("*.safetensors"):
            with open(file, "rb") as opened:  # names and shapes stand in the file's head
                (length,) = struct.unpack("<Q", opened.read(8))
                head = json.loads(opened.read(min(length, 100 << 20)))
            for weight, about in head.items():
                count = math.prod(about["shape"]) if weight != "__metadata__" else 0
                if any(part in weight for part in TOWER):
                    tower += count
                else:
                    text += count
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error):
        return None  # the model will not load either, and whoever loads it says why
    return (text, tower) if text else None


def _cached(name: str, cache_dir: str | None) -> Path | None:
    import huggingface_hub

    try:
        config = huggingface_hub.try_to_load_from_cache(name, "config.json", cache_dir=cache_dir)
    except Exception:  # a name that the hub does not take
        return None
    return Path(config).parent if isinstance(config, str) else None
