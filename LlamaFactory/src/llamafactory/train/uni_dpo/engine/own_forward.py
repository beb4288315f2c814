"""Log-probs of responses through a model's own forward, for models that the engine does not know.

Nothing of the model is repeated here. Its output layer is given only the states that predict a scored token, so that
logits of prompts never exist; whatever follows (a soft cap, a scale) sees logits as ever. Its encoder of images is
asked once a pair: the answer serves both rows, and the reference too where the tower is frozen.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .families import tower_weights
from .families.family import ENCODERS
from .layout import PairLayout
from .logps import logits_logps


METHOD = "get_image_features"


@dataclass
class _Call:
    """What the parts of a model are told while it scores pairs; nothing at any other time.

    Attributes:
        layout: the rows.
        given: features of images that need no encoding.
        frozen: features that came out of a frozen tower.
        heads: how often the output layer was called.
    """

    layout: PairLayout | None = None
    given: Any = None
    frozen: dict[str, Any] = field(default_factory=dict)
    heads: int = 0


def obstacle(model: nn.Module) -> str:
    """Say why a model cannot be run like this; empty if it can."""
    if not type(model).__module__.startswith("transformers."):
        return "its code is not transformers' own"
    try:
        head = model.get_output_embeddings()
    except (AttributeError, NotImplementedError):  # so say models that have none; they train by upstream's forward
        head = None
    return "" if isinstance(head, nn.Module) else "it has no output layer that it names"


def attach(model: nn.Module) -> Callable[..., dict[str, Any]]:
    """Put ourselves before the model's output layer and its encoder of images.

    Returns:
        A function of a layout, `media_features` and the batch's inputs that scores pairs.
    """
    call, forward = _Call(), model.forward
    _select_states(model.get_output_embeddings(), call)
    kinds = dict(ENCODERS)
    if hasattr(model, "model") and hasattr(model.model, METHOD):
        _encode_once(model, call)
        del kinds["image"]
    by_row = [name for _, names in kinds.values() for name in names]

    def score(layout: PairLayout, media_features: dict[str, Any], **inputs: Any) -> dict[str, Any]:
        call.layout, call.given, call.frozen, call.heads = layout, media_features.get("image"), {}, 0
        if call.given is not None and inputs.get("pixel_values") is None:  # or the model would not ask for features
            inputs["pixel_values"] = torch.empty(0, device=layout.input_ids.device)
        if layout.media_once:  # the model's body wants what is not encoded once for both rows
            inputs |= {name: _repeated(inputs[name], 2) for name in by_row if inputs.get(name) is not None}
        positions = {} if layout.position_ids is None else {"position_ids": layout.position_ids}
        tokens = {"input_ids": layout.input_ids, "attention_mask": layout.attention_mask} | positions
        ours = tokens | {"use_cache": False, "return_dict": True}  # PEFT brings the same names, with other values
        try:
            output = forward(**{**inputs, **ours})
        finally:
            call.layout = call.given = None
        if call.heads != 1:
            raise ValueError(
                f"The output layer of {type(model).__name__} ran {call.heads} times in a forward, so that scored "
                "tokens cannot be told. Set `pref_forward: upstream`."
            )
        logps, logits, *squares = logits_logps(output.logits[0], layout.targets, layout.squares)
        return {"logps": logps, "logits": logits, "squares": squares, "features": call.frozen}

    return score


def _select_states(head: nn.Module, call: _Call) -> None:
    original = head.forward

    @functools.wraps(original)
    def forward(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if call.layout is not None:
            call.heads += 1
            hidden = hidden.flatten(0, 1)[call.layout.sources][None]
        return original(hidden, *args, **kwargs)

    head.forward = forward


def _encode_once(model: nn.Module, call: _Call) -> None:
    original = getattr(model.model, METHOD)

    @functools.wraps(original)
    def features_of(*args: Any, **kwargs: Any) -> Any:
        if call.layout is None:
            return original(*args, **kwargs)
        found, wrapped = call.given, _wraps(original)
        if found is None:
            trains = torch.is_grad_enabled() and any(weight.requires_grad for weight in tower_weights(model).values())
            with torch.set_grad_enabled(trains):
                outcome = original(*args, **kwargs)
            wrapped, found = hasattr(outcome, "pooler_output"), getattr(outcome, "pooler_output", outcome)
            if not trains:
                call.frozen["image"] = found
        found = _repeated(found, 2 if call.layout.media_once else 1)
        return BaseModelOutputWithPooling(pooler_output=found) if wrapped else found

    setattr(model.model, METHOD, features_of)


def _wraps(method: Callable) -> bool:
    """Tell whether an encoder returns an object with `pooler_output`, as transformers 5's do."""
    return hasattr(method, "__wrapped__")


def _repeated(found: Any, times: int) -> Any:
    """Give both rows of a pair the same features; rows are in the order of pairs, chosen ones first."""
    if times == 1:
        return found
    return torch.cat([found] * times) if torch.is_tensor(found) else type(found)([*found] * times)


def features(outcome: Any) -> tuple[torch.Tensor, ...]:
    """Read features that are one block, shape (placeholders, size).

    Raises:
        ValueError: they are of another form, which only the model's own body knows to put together.
    """
    found = getattr(outcome, "pooler_output", outcome)
    if not torch.is_tensor(found):
        raise ValueError(f"This model's {METHOD} returns a {type(found).__name__}, which cannot be stored.")
    return (found.flatten(0, -2),)
