"""The GPUs of this machine: what they are called, how much memory they have, and what they can compute."""

import os
import subprocess
from dataclasses import dataclass


QUERY = ("uuid", "memory.total", "memory.used", "compute_cap", "name")
AMPERE = (8, 0)  # the first with bfloat16, and the first that FlashAttention-2 runs on


@dataclass(frozen=True)
class Gpu:
    """One GPU."""

    name: str  # its maker's
    memory: int  # bytes it has
    used: int = 0  # bytes of them that are taken now, by whomever; 0 where nobody says
    capability: tuple[int, int] | None = None  # NVIDIA's version of what it can do, such as (8, 0)

    @property
    def free(self) -> int:
        """Bytes that nobody has taken."""
        return self.memory - self.used

    @property
    def is_old(self) -> bool:
        """Whether it is from before NVIDIA's Ampere."""
        return self.capability is not None and self.capability < AMPERE


def seen_by_torch() -> list[Gpu]:
    """List the GPUs that PyTorch sees, in its order; the driver says how much of their memory is in use."""
    try:
        import torch
    except ImportError:
        return []
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    used = {uuid: gpu.used for uuid, gpu in _ask_driver().items()} if count else {}
    gpus = []
    for has in map(torch.cuda.get_device_properties, range(count)):
        capability = None if torch.version.hip else (has.major, has.minor)
        gpus.append(Gpu(has.name, has.total_memory, used.get(f"GPU-{getattr(has, 'uuid', '')}", 0), capability))
    return gpus


def seen_by_driver() -> list[Gpu]:
    """List the GPUs that `nvidia-smi` shows and CUDA_VISIBLE_DEVICES does not hide; none where it cannot run."""
    there, visible = _ask_driver(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return list(there.values())
    wanted = [name.strip() for name in visible.split(",")]
    named = tuple(name for name in wanted if len(name) > 4)  # by a part of its uuid
    return [gpu for number, (uuid, gpu) in enumerate(there.items()) if str(number) in wanted or uuid.startswith(named)]


def _ask_driver() -> dict[str, Gpu]:
    """Ask `nvidia-smi`: unlike CUDA, it takes no memory of a GPU for as long as we run."""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    found = {}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        for line in filter(str.strip, done.stdout.splitlines()):
            uuid, memory, used, capability, name = line.split(", ", len(QUERY) - 1)
            major, minor = capability.split(".")
            found[uuid] = Gpu(name, int(memory) << 20, int(used) << 20, (int(major), int(minor)))
    except (OSError, subprocess.SubprocessError, ValueError):  # none, an old one, or one out of order
        return {}
    return found
