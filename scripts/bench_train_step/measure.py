"""Agreement, time and peak memory of the variants on one batch."""

import gc
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from .models import build
from .sizes import Sizes
from .steps import Steps
from .variants import UPSTREAM, Pair


# Bytes that upstream's forward holds for every logit, about: three to four tensors in float32.
BYTES_PER_LOGIT = 16


class Disagreement(Exception):
    """A variant computes something else than upstream's forward."""


def check(steps: Steps, names: list[str]) -> dict[str, float]:
    """Run every variant once and compare log-probs with upstream's; this also warms up.

    Returns the greatest difference of each variant, in nats, of sums over an answer.
    """
    half = steps.models.device.type == "cuda"
    expected, off = _clean_run(steps, UPSTREAM), {}
    for name in names:
        found = _clean_run(steps, name)
        distance = (found - expected).abs()
        # In bfloat16 upstream's sums are some hundredths of a nat off themselves.
        bound = 0.5 + 0.01 * expected.abs() if half else 2e-3 + 2e-6 * expected.abs()
        off[name] = float(distance.max())
        if not bool((distance <= bound).all()):  # also where one of them is NaN
            raise Disagreement(
                f"{name} differs from upstream's forward by up to {off[name]:.3g} nats, where {float(bound.min()):.3g}"
                " would be rounding. Nothing was timed: please report this message and the command."
            )
    return off


def timings(
    steps: Steps, names: list[str], repeats: int, tick: Callable[[], object]
) -> dict[str, list[tuple[float, float]]]:
    """Time all variants in turns, each turn beginning with another one.

    Returns for every variant, one entry a turn, seconds, and seconds on the wall. The first are CPU time of the
    process on a CPU, which other processes disturb least; on a GPU both are the same, from idle to idle.
    """
    found = {name: [] for name in names}
    for turn in range(repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(_timed(steps, name))
            _clean(steps)
            tick()
    return found


def _timed(steps: Steps, name: str) -> tuple[float, float]:
    on_gpu = steps.models.device.type == "cuda"
    idle = torch.cuda.synchronize if on_gpu else lambda: None
    idle()
    wall, cpu = time.perf_counter(), time.process_time()
    steps.run(name)
    idle()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return wall if on_gpu else cpu, wall


def peak_on_gpu(steps: Steps, name: str) -> int:
    """Return the bytes that one step allocates above the loaded models and the batch, gradients included."""
    _clean(steps)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    steps.run(name)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    _clean(steps)
    return peak


def peak_on_cpu(sizes: Sizes, pairs: tuple[Pair, ...], name: str) -> int | None:
    """Return the same for resident memory, from the first step of a process of its own; None if it did not fit."""
    # Freed memory goes back to the system at once, so that resident means in use.
    allocator = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    kept = dict(os.environ)
    os.environ.update(allocator)
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_peak_of_process, sizes, pairs, name, torch.get_num_threads()).result()
    except BrokenProcessPool:
        return None
    finally:
        os.environ.clear()
        os.environ.update(kept)


def can_measure_memory() -> bool:
    """Tell whether peaks can be measured here: on a GPU, or on Linux, where a process can reset its peak."""
    return torch.cuda.is_available() or os.access("/proc/self/clear_refs", os.W_OK)


def upstream_bytes(sizes: Sizes, pairs: tuple[Pair, ...]) -> int:
    """Estimate what upstream's logits take."""
    longest = max(pair.prompt + max(pair.chosen, pair.rejected) for pair in pairs)
    return BYTES_PER_LOGIT * 2 * len(pairs) * longest * sizes.vocabulary


def _peak_of_process(sizes: Sizes, pairs: tuple[Pair, ...], name: str, threads: int) -> int:
    torch.set_num_threads(threads)
    steps = Steps(build(sizes, "cpu"), pairs)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
    before = _resident("VmRSS")
    steps.run(name)
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"no {field} in /proc/self/status")


def _clean(steps: Steps) -> None:
    steps.models.policy.zero_grad(set_to_none=True)
    gc.collect()


def _clean_run(steps: Steps, name: str) -> torch.Tensor:
    found = steps.run(name)
    _clean(steps)
    return found.float()
