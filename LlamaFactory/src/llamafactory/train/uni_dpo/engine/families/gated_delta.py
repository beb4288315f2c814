"""Qwen3.5 and Qwen3-Next: most layers carry a state along the row instead of attending (gated delta rule).

No mask can hide the chosen answer from a state. So the state after the shared part is kept, and both answers start
from it. Only two operations of such a layer mix positions, a short causal convolution and the recurrence, and both are
attributes of it: they are replaced by the same operations, called part by part. Everything else stays the model's.
"""

import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .family import Family, decoder_of


Spans = list[tuple[int, int, int]]


class GatedDelta(Family):
    """Opens layers with a state for pairs."""

    layer_types = frozenset({"full_attention", "linear_attention"})

    def obstacle(self, model: nn.Module) -> str:
        """A mask, which is all that eager attention takes, says nothing to a state."""
        if decoder_of(model).config._attn_implementation == "eager":
            return "no shared prompt with eager attention beside layers that carry a state"
        return ""

    def unverified(self, model: nn.Module) -> str:
        """Kernels of flash-linear-attention and causal-conv1d run on a GPU only, and none has tried them here."""
        for layer in _layers_with_state(model):
            mixer, rule = layer.linear_attn, layer.linear_attn.chunk_gated_delta_rule
            if hasattr(layer, "pair_state"):
                continue
            if mixer.causal_conv1d_fn is not None or not getattr(rule, "__module__", "").startswith("transformers."):
                return "a shared prompt with the kernels of flash-linear-attention is not verified yet"
        return ""

    def prepare(self, model: nn.Module) -> None:
        """Open every layer that has a state; a second time changes nothing."""
        for layer in _layers_with_state(model):
            if not hasattr(layer, "pair_state"):
                _open(layer)


def _layers_with_state(model: nn.Module) -> Iterator[nn.Module]:
    return (layer for layer in decoder_of(model).layers if hasattr(layer, "linear_attn"))


def _open(layer: nn.Module) -> None:
    """Let a decoder layer take `pair_spans`, and its mixer see them.

    They are an argument of the layer, as arguments come back when a checkpoint computes it again in the backward pass.
    """
    mixer, original = layer.linear_attn, layer.forward
    convolution, rule = mixer.causal_conv1d_fn, mixer.chunk_gated_delta_rule
    layer.pair_state = types.SimpleNamespace(spans=None)

    def convolve(x: torch.Tensor, **options: Any) -> torch.Tensor:
        def whole(part: torch.Tensor) -> torch.Tensor:
            if convolution is not None:
                return convolution(x=part, **options)
            return F.silu(mixer.conv1d(part)[:, :, : part.shape[-1]])

        spans = layer.pair_state.spans
        return whole(x) if spans is None else _convolve_pairs(whole, x, spans, mixer.conv_kernel_size - 1)

    def recur(query, key, value, **options: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        spans = layer.pair_state.spans
        if spans is None:
            return rule(query, key, value, **options)
        return _recur_pairs(rule, (query, key, value), options, spans), None

    mixer.causal_conv1d_fn, mixer.chunk_gated_delta_rule = convolve, recur

    def forward(self: nn.Module, *args: Any, pair_spans: Spans | None = None, **kwargs: Any) -> Any:
        self.pair_state.spans = pair_spans
        try:
            return original(*args, **kwargs)
        finally:
            self.pair_state.spans = None

    layer.forward = types.MethodType(forward, layer)


def _convolve_pairs(whole: Callable, x: torch.Tensor, spans: Spans, reach: int) -> torch.Tensor:
    """Convolve each pair of a row, shape (1, channels, length); the rejected rest sees the end of the shared part."""
    # Pieces of one `split`, as in `attention.py`: the backward pass of slices is not linear in pairs.
    pieces = x.split([length for shared, chosen, rejected in spans for length in (shared + chosen, rejected)], dim=2)
    parts = []
    for (shared, chosen, rejected), first, last in zip(spans, pieces[::2], pieces[1::2], strict=True):
        if shared + chosen:
            parts.append(whole(first))
        if rejected:
            left = first[:, :, max(0, shared - reach) : shared]
            parts.append(whole(torch.cat([left, last], dim=-1))[:, :, left.shape[-1] :])
    return torch.cat(parts, dim=-1)


def _recur_pairs(rule: Callable, row: tuple[torch.Tensor, ...], options: dict[str, Any], spans: Spans) -> torch.Tensor:
    """Run the recurrence over each pair of a row, both rests from the state after the shared part."""
    gates = {name: options.pop(name) for name in ("g", "beta")}
    options = {name: value for name, value in options.items() if name not in ("initial_state", "output_final_state")}

    lengths = [length for span in spans for length in span]
    pieces = [tensor.split(lengths, dim=1) for tensor in row]
    cut = {name: gate.split(lengths, dim=1) for name, gate in gates.items()}

    def run(part: int, state: torch.Tensor | None, keeps: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        inputs = (tensor[part] for tensor in pieces)
        given = {name: gate[part] for name, gate in cut.items()}
        return rule(*inputs, **given, **options, initial_state=state, output_final_state=keeps)

    done = []
    for number, span in enumerate(spans):
        state = None
        if span[0]:
            before, state = run(3 * number, None, True)
            done.append(before)
        done += [run(3 * number + rest, state, False)[0] for rest in (1, 2) if span[rest]]
    return torch.cat(done, dim=1)
