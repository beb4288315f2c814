"""One training step, from tokens and pixels to gradients, in every precision that people train in.

Truth is the same step by LlamaFactory's forward in float64. The bounds are those of the precision, not of our code:
LlamaFactory's forward has the same errors, and ours may have at most half as much again. TF32, which only GPUs have,
is computed by rounding what enters a matrix product to its 10 bits of mantissa: what the hardware does.
"""

import contextlib

import pytest
import torch
from engine_cases import CASES, build_two, collate
from engine_oracle import Outcome, by_engine, by_upstream, truth
from torch.utils._python_dispatch import TorchDispatchMode

from llamafactory.train.uni_dpo.objective.loss import uni_dpo_loss


PUBLISHED = {"beta": 2.0, "qual_eta": 0.7, "tau_ref": 2.0, "perf_gamma": 3.0, "nll_lambda": 0.001, "tau_good": 2.5}
BATCHES = ("batch", "common start", "prefix", "one token each", "one image")
# Of log-probs and gradients, relative to the largest of each, over these batches: about twice what was measured.
BOUNDS = {"float32": 2e-5, "tf32": 4e-2, "bf16 autocast": 0.2, "bf16 weights": 0.2, "fp16 with scaler": 4e-2}


class TF32(TorchDispatchMode):
    """Rounds the inputs of matrix products to TF32: to nearest, 10 bits of mantissa; sums stay float32."""

    PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Round, then compute."""
        if func.__name__.split(".")[0] in self.PRODUCTS:
            args = [_to_tf32(each) if isinstance(each, torch.Tensor) else each for each in args]
        return func(*args, **(kwargs or {}))


def _to_tf32(values: torch.Tensor) -> torch.Tensor:
    if values.dtype != torch.float32:
        return values
    return ((values.contiguous().view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)


def loss_of_pairs(logps: torch.Tensor, lengths: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The objective of the published runs, for scores on both sides of tau_good."""
    pairs = len(logps) // 2
    scores = torch.arange(pairs, dtype=torch.float32) + 2
    sides = [*(logps / lengths).chunk(2), *(reference / lengths).chunk(2)]
    return uni_dpo_loss(*sides, scores + 0.495, scores[:pairs] - 1, **PUBLISHED).losses.mean()


def setting(name: str) -> tuple[torch.dtype, contextlib.AbstractContextManager]:
    """Return the dtype of the weights and the context of the step."""
    if name == "tf32":
        return torch.float32, TF32()
    if name == "bf16 weights":
        return torch.bfloat16, contextlib.nullcontext()
    if name == "bf16 autocast":
        return torch.float32, torch.autocast("cpu", torch.bfloat16)
    if name == "fp16 with scaler":
        return torch.float32, torch.autocast("cpu", torch.float16)
    return torch.float32, contextlib.nullcontext()


def step(route, models: tuple, batch: dict, name: str, *layout: str) -> Outcome:
    """Take a step as the trainer does, in fp16 with a scaled loss."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, enabled=name.startswith("fp16"))
    with setting(name)[1]:
        outcome = route(*models, batch, *layout, loss=lambda *each: scaler.scale(loss_of_pairs(*each)))
    scaler.unscale_(torch.optim.SGD([weight for weight in models[0].parameters() if weight.grad is not None]))
    return outcome


@pytest.mark.parametrize("name", BOUNDS)
def test_error_of_a_step(name, figure):
    ours_off, theirs_off = [], []
    # Attention of matrix products, where TF32 has to get into it.
    layout, attention = ("masked", "eager") if name == "tf32" else ("packed", "sdpa")
    options = {"dtype": setting(name)[0], "attention": attention, "frozen_tower": False}
    for case in BATCHES:
        stock, ours = (build_two("qwen2_vl", **options) for _ in range(2))
        batch = collate(stock[0], CASES[case])
        exact = truth(stock, batch, loss_of_pairs)
        ours_off.append(step(by_engine, ours, batch, name, layout).distance(exact))
        theirs_off.append(step(by_upstream, stock, batch, name).distance(exact))
    seen = f"ours at most {max(ours_off):.2g}, LlamaFactory's forward {max(theirs_off):.2g}"
    figure("3 numbers", f"error of a step, {name}, against float64", len(BATCHES), seen)
    assert max(ours_off) < BOUNDS[name]
    assert sum(ours_off) < 1.5 * sum(theirs_off)


def test_tf32_rounds():
    """1 + 2**-11 is between two numbers of TF32; 1 + 2**-10 is one of them."""
    values = torch.tensor([1 + 2**-12, 1 + 2**-10, -1 - 2**-10])
    assert _to_tf32(values).tolist() == [1.0, 1 + 2**-10, -1 - 2**-10]
    with TF32():
        assert (values[:, None] @ torch.ones(1, 1))[0].item() == 1.0
