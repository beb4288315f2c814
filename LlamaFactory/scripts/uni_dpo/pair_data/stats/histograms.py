"""Histograms with bins at round numbers, which a wild value cannot flatten."""

from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator


WIDE = 12  # wide bins at most, as a page shows them
FINE = 4  # narrow bins in a wide one, as a picture shows them
EDGE = 0.005  # share of values at either end that may be left to the overflow bins
ROOM = 0.2  # how far outside the others these may lie, in widths of the others, and still be within


def bins_for(values: np.ndarray) -> dict[str, Any]:
    """Return edges that hold all values, or all but `EDGE` at either end where those lie far out.

    Edges are round numbers, 0 among them if it is within. Values on a scale of a few steps, such as 1 to 5, have a
    bin around each instead, so that none falls on an edge.

    Returns:
        "edges", shape (bins + 1,), and how many bins "together" are a wide one.
    """
    different = np.unique(values)
    if not len(different):
        return {"edges": [0.0, 1.0], "together": 1}
    low, high = np.quantile(values, [EDGE, 1 - EDGE])
    if room := ROOM * (high - low):
        different = different[(different >= low - room) & (different <= high + room)]
    low, high = different[[0, -1]]
    step = np.diff(different).min() if len(different) > 1 else max(abs(low) * 0.1, 1)
    if high - low < FINE * WIDE * step:
        steps = (different - low) / step
        if np.abs(steps - np.round(steps)).max() <= 1e-6:
            edges = low + step * (np.arange(round(steps[-1]) + 2) - 0.5)
            return {"edges": edges.tolist(), "together": -(-(len(edges) - 1) // WIDE)}
    ticks = MaxNLocator(WIDE - 2, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    edges = np.interp(np.arange(FINE * (len(ticks) - 1) + 1) / FINE, np.arange(len(ticks)), ticks)
    edges[[0, -1]] = min(edges[0], low), max(edges[-1], high)  # ticks may be off by the last digit
    return {"edges": edges.tolist(), "together": FINE}


def histogram(values: np.ndarray, bins: dict[str, Any]) -> dict[str, Any]:
    """Return counts, shape (bins,), and how many values lie below the first edge and above the last."""
    edges = bins["edges"]
    counts, _ = np.histogram(values, bins=edges)
    below, above = int((values < edges[0]).sum()), int((values > edges[-1]).sum())
    return bins | {"counts": counts.tolist(), "below": below, "above": above}


def wide(found: dict[str, Any]) -> dict[str, Any]:
    """Return the same histogram with its wide bins."""
    step = found["together"]
    counts = [sum(found["counts"][at : at + step]) for at in range(0, len(found["counts"]), step)]
    return found | {"edges": found["edges"][:-1:step] + found["edges"][-1:], "counts": counts}
