"""How far rounding alone moves log-probs: a forward with every rounding made a second time, in a random direction.

In half precision the output of every layer is rounded. Two ways of computing the same thing round differently, so they
differ by about as much as one of them moves when each output is moved by up to one more rounding (Monte Carlo
arithmetic). That is measured on the very pairs in hand, with no copy of the weights and no second set of logits.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn


# Of an output, in bytes of float32 at a time, so that logits need no second copy.
PART = 2**26

# The float32 of a matrix product in TF32 has eleven significant bits.
TF32_EPS = 2.0**-10


@contextmanager
def rounded_again(*models: nn.Module | None) -> Iterator[None]:
    """Move every layer's output by up to one rounding of its precision, in a random direction, while this is entered.

    Only without gradients, as outputs change in place. The random numbers are its own: training's stay as they were.

    Args:
        *models: in whatever wrappers; None is passed over.
    """
    generators: dict[torch.device, torch.Generator] = {}

    def move(module: nn.Module, inputs: tuple, output: Any) -> None:
        moved = output[0] if isinstance(output, (tuple, list)) and output else output
        if not torch.is_tensor(moved) or not moved.is_floating_point() or any(moved is given for given in inputs):
            return
        if moved.device not in generators:
            generators[moved.device] = torch.Generator(moved.device).manual_seed(0)
        half = rounding_of(moved) / 2
        flat = moved.view(-1)
        for part in flat.split(PART // 4):
            noise = torch.rand(part.shape, generator=generators[moved.device], device=moved.device)
            part.copy_(part.float() * (1 + half * (2 * noise - 1)))

    with ExitStack() as hooks:
        for module in {id(part): part for model in models if model is not None for part in model.modules()}.values():
            hooks.callback(module.register_forward_hook(move).remove)
        yield


def rounding_of(tensor: torch.Tensor) -> float:
    """Return the distance from 1 to the next number, in the precision in which a layer computed its output."""
    if tensor.dtype == torch.float32 and tensor.device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32:
        return TF32_EPS
    return torch.finfo(tensor.dtype).eps


def rounds(model: nn.Module, args: Any) -> bool:
    """Tell whether a run computes in less than float32.

    Args:
        model: whose weights' precision counts.
        args: the run's `TrainingArguments`.
    """
    tf32 = args.device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
    return args.bf16 or args.fp16 or tf32 or model.dtype in (torch.bfloat16, torch.float16)
