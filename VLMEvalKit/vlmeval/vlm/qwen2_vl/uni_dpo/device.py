"""What suits the machine: device, number format and attention, where nothing is asked for."""

import torch
from transformers.utils import is_flash_attn_2_available


def default_device() -> str:
    """Return the device that is there."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def default_dtype(device: str) -> str:
    """Return the number format that suits a device: float32 on a CPU, half the size on a GPU."""
    if device == "cpu":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


def default_attention(device: str, dtype: str) -> str:
    """Return the fastest attention that is installed and takes the number format."""
    fast = device != "cpu" and dtype != "float32" and is_flash_attn_2_available()
    return "flash_attention_2" if fast else "sdpa"
