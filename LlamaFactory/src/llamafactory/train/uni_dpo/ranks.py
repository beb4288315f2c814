"""What the ranks of a run tell each other."""

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list


def any_rank(accelerator: Accelerator, flag: bool) -> bool:
    """Tell all ranks whether one of them says so."""
    return bool(accelerator.reduce(torch.tensor(int(flag), device=accelerator.device), "sum") > 0)


def most_of_ranks(accelerator: Accelerator, number: int) -> int:
    """Return the greatest number that a rank has."""
    return int(accelerator.gather(torch.tensor([number], device=accelerator.device)).max())


def from_main_process(value: Any) -> Any:
    """Take the main process's word, where ranks have looked at a folder at different moments and must go on alike."""
    return broadcast_object_list([value])[0]
