"""The table as a picture: scores on the left, differences to the baseline on the right."""

from pathlib import Path

import matplotlib


matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

from .table import Table  # noqa: E402


def draw(table: Table, path: Path) -> None:
    """Write the picture as PNG. All scores are in per cent of their full scale, so that one axis serves all."""
    columns = 2 if table.compared() else 1
    height = 1.6 + 0.42 * len(table.data)
    figure, axes = pyplot.subplots(1, columns, figsize=(6.5 * columns, height), sharey=True, squeeze=False)
    _draw_scores(axes[0, 0], table)
    if table.compared():
        _draw_differences(axes[0, 1], table)
    axes[0, 0].set_yticks(range(len(table.data)), table.data)
    axes[0, 0].set_ylim(len(table.data) - 0.5, -0.5)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(labels)), frameon=False)
    figure.set_layout_engine("constrained")
    figure.savefig(path, dpi=150, format="png")
    pyplot.close(figure)


def _draw_scores(axes: Axes, table: Table) -> None:
    for number, name in enumerate(table.checkpoints):
        places, shares = [], []
        for row, data in enumerate(table.data):
            result = table.results[name, data]
            if result.score:
                places.append(row + _offset(number, len(table.checkpoints)))
                shares.append(100 * result.score.value / result.rule.full)
        axes.plot(shares, places, "o", color=f"C{number}", label=name)
    axes.set(xlim=(-2, 102), xlabel="score, % of full scale")
    axes.grid(axis="x", alpha=0.3)


def _draw_differences(axes: Axes, table: Table) -> None:
    """Differences of which the interval excludes zero are filled."""
    axes.axvline(0, color="0.6", linewidth=1)
    for number, name in enumerate(table.checkpoints):
        for row, data in enumerate(table.data):
            change = table.results[name, data].difference
            if change is None:
                continue
            scale, place = 100 / table.results[name, data].rule.full, row + _offset(number, len(table.checkpoints))
            axes.hlines(place, scale * change.low, scale * change.high, color=f"C{number}", linewidth=2)
            fill = f"C{number}" if change.clear else "white"
            axes.plot(scale * change.value, place, "o", color=f"C{number}", markerfacecolor=fill)
    axes.set(xlabel=f"difference to {table.baseline}, points of 100, 95 % interval")
    axes.grid(axis="x", alpha=0.3)


def _offset(number: int, of: int) -> float:
    return 0.0 if of == 1 else 0.5 * (number / (of - 1) - 0.5)
