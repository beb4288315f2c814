"""What the engine is compared with: LlamaFactory's way to log-probs, and the gradients of a loss of them.

LlamaFactory runs 2n padded rows, each with its own copy of the images, through the model's own forward, and its own
`get_batch_logps` makes sums of log-probs of the logits of all positions.
"""

import contextlib
import copy
import functools
import importlib
import inspect
import re
import textwrap
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from engine_cases import media_of
from engine_models import IMAGE, KINDS, STRANGERS, VIDEO
from torch import nn
from transformers import CONFIG_MAPPING

from llamafactory.train.trainer_utils import get_batch_logps
from llamafactory.train.uni_dpo.engine import Choice, PairLayout, attach, lay_out, pair_logps


MEDIA_IDS = (IMAGE, VIDEO)
TOWERS = ("siglip",)
ROUTES = {"packed": "shared_prefix", "masked": "shared_prefix", "rows": "response_only"}


@dataclass
class Outcome:
    """Of one training step: log-probs of policy and reference, shape (2n,), and the policy's gradients by name."""

    logps: torch.Tensor
    reference: torch.Tensor
    gradients: dict[str, torch.Tensor]

    def distance(self, other: "Outcome") -> float:
        """Return the largest of all distances to another outcome, each relative to the largest entry of the other's.

        A gradient is measured against its own parameter's largest entry. Where that is tiny beside the largest
        gradient of the model (a bias that attention ignores), against a thousandth of the latter.
        """
        assert self.gradients.keys() == other.gradients.keys()
        floor = 1e-3 * max(gradient.abs().max().item() for gradient in other.gradients.values())
        distances = [relative(self.logps, other.logps), relative(self.reference, other.reference)]
        for name, gradient in other.gradients.items():
            distances.append(relative(self.gradients[name], gradient, floor))
        return max(distances)


def relative(ours: torch.Tensor, theirs: torch.Tensor, floor: float = 0.0) -> float:
    """Return the largest difference, relative to the largest of their entries (and no less than `floor`)."""
    difference = (ours.double() - theirs.double()).abs().max().item()
    assert difference == difference, "not a number"
    return difference / max(theirs.abs().max().item(), floor)


def upstream_logps(
    model: nn.Module, batch: dict[str, Any], ld_alpha: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute sums of log-probs and lengths, both of shape (2n,), as LlamaFactory's `concatenated_forward` does."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    if (batch["input_ids"][batch["attention_mask"].bool()] == IMAGE).any():  # not for the stand-in picture
        inputs |= {name: torch.cat([batch[name]] * 2) for name in ("pixel_values", "image_grid_thw") if name in batch}
    logits = model(**inputs, return_dict=True, use_cache=False).logits
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return get_batch_logps(logits, batch["labels"], ld_alpha=ld_alpha)


def loss_of_sums(logps: torch.Tensor, lengths: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """DPO's loss, with a weight for each pair so that pairs cannot stand in for each other."""
    chosen, rejected = (logps - reference).chunk(2)
    weights = torch.arange(1, len(chosen) + 1)
    return -(F.logsigmoid(0.1 * (chosen - 1.1 * rejected)) * weights).sum()


def loss_of_means(logps: torch.Tensor, lengths: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """SimPO's loss with the likelihood of the chosen answer, as in ORPO: all of means over tokens."""
    chosen, rejected = (logps / lengths).chunk(2)
    return (-F.logsigmoid(2.0 * (chosen - rejected) - 0.5) - chosen).mean()


def loss_of_both(logps: torch.Tensor, lengths: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Add up the two."""
    return loss_of_sums(logps, lengths, reference) + loss_of_means(logps, lengths, reference)


def by_upstream(
    policy: nn.Module, reference: nn.Module | None, batch: dict[str, Any], loss: Callable = loss_of_both
) -> Outcome:
    """Take a step as LlamaFactory does; without a reference model it is the policy without its adapter."""
    logps, lengths = upstream_logps(policy, batch)
    with torch.no_grad(), _reference(policy, reference) as model:
        others, _ = upstream_logps(model, batch)
    return _backward(policy, logps, lengths, others, loss)


def by_engine(
    policy: nn.Module,
    reference: nn.Module | None,
    batch: dict[str, Any],
    kind: str,
    loss: Callable = loss_of_both,
    tamper: Callable[[PairLayout], None] | None = None,
) -> Outcome:
    """Take the same step with the engine; the policy's image features serve the reference if the tower is frozen.

    Args:
        policy: changes for good: it then takes layouts.
        reference: the same; None is the policy without its adapter.
        batch: as `collate` makes it.
        kind: of layout.
        loss: of log-probs, lengths and the reference's log-probs.
        tamper: what to break in the layout.
    """
    for model in (policy, reference):
        if model is not None:
            attach(model, Choice(ROUTES[kind], kind))
    layout = lay_out(batch, kind, MEDIA_IDS)
    layout.media_once = (batch["input_ids"][batch["attention_mask"].bool()] == IMAGE).any().item()
    if tamper is not None:
        tamper(layout)
    ours = pair_logps(policy, layout, media_of(batch))
    with torch.no_grad(), _reference(policy, reference) as model:
        others = pair_logps(model, layout, media_of(batch), ours.features)
    return _backward(policy, ours.logps, ours.lengths, others.logps, loss)


@contextlib.contextmanager
def exactly() -> Iterator[None]:
    """Keep transformers from rounding to float32 within a float64 model: norms, rotary angles, softmax, recurrences.

    Models have to be built within, as some keep a function of their module.
    """
    with contextlib.ExitStack() as changes:
        for kind in (*KINDS, *STRANGERS, *TOWERS):
            module = importlib.import_module(CONFIG_MAPPING[kind].__module__.replace("configuration_", "modeling_"))
            for owner in (
                module,
                *(part for part in vars(module).values() if _is_from(module, part, inspect.isclass)),
            ):
                for name, part in list(vars(owner).items()):
                    if _is_from(module, part, inspect.isfunction) and (exact := _in_float64(module, part)):
                        changes.enter_context(mock.patch.object(owner, name, exact))
        yield


def _is_from(module: types.ModuleType, part: Any, kind: Callable) -> bool:
    return kind(part) and part.__module__ == module.__name__


@functools.cache
def _in_float64(module: types.ModuleType, function: Callable) -> Callable | None:
    """Compile a function of a module again with float64 for float32; None where it has none of it."""
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except OSError:  # made by a decorator, or by us
        return None
    exact = re.sub(r"torch\.float(32)?\b", "torch.float64", source).replace(".float()", ".double()")
    if exact == source or "super()" in source or "@auto_docstring" in source:  # which need their class
        return None
    compiled: dict[str, Any] = {}
    exec(f"from __future__ import annotations\n{exact}", vars(module), compiled)
    return compiled[function.__name__]


@pytest.fixture
def exact_float64() -> Iterator[None]:
    """Compute `exactly` for a test."""
    with exactly():
        yield


def truth(models: tuple, batch: dict[str, Any], loss: Callable = loss_of_both) -> Outcome:
    """Take LlamaFactory's step with copies of the models in float64."""
    exact = [copy.deepcopy(model).double() for model in models]
    if "pixel_values" in batch:
        batch = batch | {"pixel_values": batch["pixel_values"].double()}
    with exactly():
        return by_upstream(*exact, batch, loss=loss)


@contextlib.contextmanager
def _reference(policy: nn.Module, reference: nn.Module | None) -> Iterator[nn.Module]:
    if reference is not None:
        yield reference
    else:
        with policy.disable_adapter():
            yield policy


def _backward(
    policy: nn.Module, logps: torch.Tensor, lengths: torch.Tensor, others: torch.Tensor, loss: Callable
) -> Outcome:
    policy.zero_grad()
    loss(logps, lengths, others).backward()
    gradients = {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad
        for name, weight in policy.named_parameters()
        if weight.requires_grad
    }
    return Outcome(logps.detach(), others, gradients)
