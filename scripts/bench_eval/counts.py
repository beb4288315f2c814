"""Where the time of answers from transformers goes, and how much there is to compute.

A turn is run twice: once with clocks around its parts, and once with counters, which slow it down.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode


PARTS = ("pictures", "prefill", "decode")


class Watch:
    """CPU seconds, calls and token positions (padding included) of each part of generating.

    Args:
        backend: A loaded `TransformersBackend`, which is watched from then on.
    """

    def __init__(self, backend: Any):
        """Wrap what makes inputs and what runs the model."""
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.calls, self.positions = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0)
        self.backend, self.began, self.part = backend, 0.0, ""
        before, after = self._before, self._after
        self.hooks = [
            backend.model.register_forward_pre_hook(before, with_kwargs=True),
            backend.model.register_forward_hook(after),
        ]
        backend.inputs = self._inputs

    def _inputs(self, questions: Any) -> Any:
        began = time.process_time()
        found = type(self.backend).inputs(self.backend, questions)
        self._add("pictures", time.process_time() - began, len(questions))
        return found

    def _before(self, model: Any, words: Any, named: dict[str, Any]) -> None:
        tokens = named["input_ids"]
        self.part = "prefill" if tokens.shape[1] > 1 else "decode"
        self.positions[self.part] += tokens.numel()
        self.began = time.process_time()

    def _after(self, *_: Any) -> None:
        self._add(self.part, time.process_time() - self.began, 0)

    def _add(self, part: str, seconds: float, positions: int) -> None:
        self.seconds[part] += seconds
        self.calls[part] += 1
        self.positions[part] += positions

    def end(self) -> None:
        """Leave the backend as it was."""
        for hook in self.hooks:
            hook.remove()
        del self.backend.inputs


class Operators(TorchDispatchMode):
    """Counts the operators that torch is asked to run."""

    def __init__(self):
        """Begin at none."""
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, words: Any = (), named: Any = None) -> Any:
        """Count and run one."""
        self.count += 1
        return function(*words, **(named or {}))


@contextmanager
def watching(backend: Any) -> Iterator[Watch]:
    """Watch a backend for a while."""
    watch = Watch(backend)
    try:
        yield watch
    finally:
        watch.end()


def parts_of(model: Any, turn: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """Run a turn with clocks, and count its matrix products and operators.

    Args:
        model: A `UniDPOVLM` that answers with transformers.
        turn: Answers rows, the first or the second time; what it returns is returned with the rest.

    Returns:
        What the turn returns, and "parts": CPU seconds, calls and positions of each part, and CPU seconds of all;
        "operations" of matrix products, "operators" that ran, and "weights", the bytes that one call reads of them.
    """
    with watching(model.backend) as watch:
        began = time.process_time()
        found = turn(0)
        total = time.process_time() - began
    with FlopCounterMode(display=False) as products, Operators() as operators:
        turn(1)
    network = model.backend.model
    pictures = network.get_submodule("model.visual") if hasattr(network.model, "visual") else None
    seen = sum(it.numel() * it.element_size() for it in pictures.parameters()) if pictures else 0
    weights = sum(it.numel() * it.element_size() for it in network.parameters()) - seen
    parts = {"seconds": watch.seconds | {"all": total}, "calls": watch.calls, "positions": watch.positions}
    counted = {"operations": products.get_total_flops(), "operators": operators.count, "weights": weights}
    return found | {"parts": parts | counted}


def rates() -> dict[str, float]:
    """Measure this machine: operations of a float32 matrix product and bytes read, each in a second of the CPU."""
    one = torch.rand(1024, 1024)
    large = torch.rand(64 * 2**20)
    return {"operations": 2 * 1024**3 / _best(lambda: one @ one), "bytes": 4 * large.numel() / _best(large.sum)}


def _best(work: Callable[[], Any], times: int = 5) -> float:
    found = []
    for _ in range(times):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)
