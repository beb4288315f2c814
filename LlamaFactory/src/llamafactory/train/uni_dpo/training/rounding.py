"""How far rounding alone moves log-probs: a forward with every rounding made a second time, in a random direction.

In half precision the output of every layer is rounded. Two ways of computing the same thing round differently, so they
differ by about as much as one of them moves when each output is moved by up to one more rounding (Monte Carlo
arithmetic). That is measured on the very pairs in hand, without a copy of the weights.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn


# Of an output, in bytes of float32 at a time, so that logits are never in float32 for this.
PART = 2**26

# The float32 of a matrix product in TF32 has eleven significant bits.
TF32_EPS = 2.0**-10


@contextmanager
def rounded_again(*models: nn.Module | None) -> Iterator[None]:
    """Move every layer's output by up to one rounding of its precision, in a random direction, while this is entered.

    The random numbers are its own: training's stay as they were. Outputs are copied, as a layer may hand out its
    weight.

    Args:
        *models: in whatever wrappers; None is passed over.
    """
    generators: dict[torch.device, torch.Generator] = {}

    def move(module: nn.Module, inputs: tuple, output: Any) -> Any:
        first = output[0] if type(output) in (tuple, list) and output else output
        if not torch.is_tensor(first) or not first.is_floating_point() or any(first is given for given in inputs):
            return None  # leaves the output as it is
        if first.device not in generators:
            generators[first.device] = torch.Generator(first.device).manual_seed(0)
        half, moved = rounding_of(first) / 2, first.clone(memory_format=torch.contiguous_format)
        for part in moved.view(-1).split(PART // 4):
            noise = torch.rand(part.shape, generator=generators[first.device], device=first.device)
            part.copy_(part.float() * (1 + half * (2 * noise - 1)))
        return moved if first is output else type(output)([moved, *output[1:]])

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
