"""What suits the machine: device, number format and attention, where nothing is asked for."""

import importlib

import torch
from transformers.utils import is_flash_attn_2_available


AMPERE = (8, 0)  # NVIDIA's first kind with bfloat16, and the first that FlashAttention-2 runs on


def default_device() -> str:
    """Return the device that is there."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def default_dtype(device: str) -> str:
    """Return the number format that suits a device: float32 on a CPU, half the size on a GPU."""
    if device == "cpu":
        return "float32"
    return "float16" if _is_old() else "bfloat16"


def default_attention(device: str, dtype: str) -> str:
    """Return the fastest attention that takes the number format and runs here: being installed is not enough."""
    fast = device != "cpu" and dtype != "float32" and is_flash_attn_2_available() and not _is_old()
    return "flash_attention_2" if fast and _loads("flash_attn") else "sdpa"


def _is_old() -> bool:
    # Devices of other makers say nothing of the kind; torch may compute bfloat16 on old ones, slowly.
    nvidia = torch.cuda.is_available() and torch.version.hip is None
    return nvidia and torch.cuda.get_device_capability() < AMPERE


def _loads(package: str) -> bool:
    try:
        importlib.import_module(package)
    except Exception:  # most often it was built for another PyTorch, and raises whatever its libraries do
        return False
    return True
