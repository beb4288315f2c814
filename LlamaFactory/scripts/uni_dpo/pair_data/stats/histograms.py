"""Histograms that one wild value cannot flatten."""

from typing import Any

import numpy as np


BINS = 40
EDGE = 0.005  # share of values at either end that may be left to the overflow bins


def edges_of(values: np.ndarray, bins: int = BINS) -> list[float]:
    """Return `bins` + 1 edges that hold all values, or all but `EDGE` at either end where those lie far out.

    Few different values get bins around each, so that none shares a bin with its neighbour or falls on an edge.
    """
    different = np.unique(values)
    if not len(different):
        return [0.0, 1.0]
    low, high = np.quantile(values, [EDGE, 1 - EDGE])
    room = (high - low) / 2  # what lies further out than half the width again would squeeze the rest
    low, high = (max(different[0], low - room), min(different[-1], high + room)) if room else (low, high)
    inside = different[(different >= low) & (different <= high)]
    if len(inside) == 1:
        half = max(abs(inside[0]) * 0.05, 0.5)
        return [float(inside[0] - half), float(inside[0] + half)]
    step = float(np.diff(inside).min())
    steps = (inside - inside[0]) / step
    if steps[-1] < bins and np.abs(steps - np.round(steps)).max() < 1e-6:  # a scale of steps, such as 1 to 5
        return [float(inside[0] + step * (number - 0.5)) for number in range(round(steps[-1]) + 2)]
    return np.linspace(inside[0], inside[-1], bins + 1).tolist()


def histogram(values: np.ndarray, edges: list[float]) -> dict[str, Any]:
    """Return counts, shape (bins,), and how many values lie below the first edge and above the last."""
    counts, _ = np.histogram(values, bins=edges)
    below, above = int((values < edges[0]).sum()), int((values > edges[-1]).sum())
    return {"edges": edges, "counts": counts.tolist(), "below": below, "above": above}


def coarser(found: dict[str, Any], bins: int) -> dict[str, Any]:
    """Return the same histogram with neighbouring bins put together, at most `bins` of them."""
    step = -(-len(found["counts"]) // bins)
    counts = [sum(found["counts"][at : at + step]) for at in range(0, len(found["counts"]), step)]
    edges = found["edges"][:-1:step] + found["edges"][-1:]
    return found | {"edges": edges, "counts": counts}
