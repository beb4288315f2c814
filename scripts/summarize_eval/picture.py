"""The table as a picture: scores on the left, differences to the baseline on the right."""

from pathlib import Path

import matplotlib


matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

from .table import Table  # noqa: E402


def draw(table: Table, path: Path) -> None:
    """Write the picture as PNG. All scores are in per cent of their full scale, so that one axis serves all.

    Differences of which the interval excludes zero are filled.
    """
    columns, rows = (2 if table.compared() else 1), len(table.data)
    figure, axes = pyplot.subplots(1, columns, figsize=(6.5 * columns, 1.6 + 0.42 * rows), sharey=True, squeeze=False)
    scores, differences = axes[0, 0], axes[0, -1]
    for number, name in enumerate(table.checkpoints):
        _draw_checkpoint(scores, differences, table, number, name)
    scores.set(xlim=(-2, 102), xlabel="score, % of full scale", ylim=(rows - 0.5, -0.5))
    scores.set_yticks(range(rows), table.data)
    scores.grid(axis="x", alpha=0.3)
    if table.compared():
        differences.set(xlabel=f"difference to {table.baseline}, points of 100, 95 % interval")
        differences.axvline(0, color="0.6", linewidth=1)
        differences.grid(axis="x", alpha=0.3)
    handles, labels = scores.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(labels)), frameon=False)
    figure.set_layout_engine("constrained")
    figure.savefig(path, dpi=150, format="png")
    pyplot.close(figure)


def _draw_checkpoint(scores: Axes, differences: Axes, table: Table, number: int, name: str) -> None:
    colour, of = f"C{number}", len(table.checkpoints)
    shift = 0.0 if of == 1 else 0.5 * (number / (of - 1) - 0.5)
    scores.plot([], [], "o", color=colour, label=name)  # named even if nothing was scored
    for row, data in enumerate(table.data):
        result = table.results[name, data]
        if result.score:
            scores.plot(100 * result.score.value / result.rule.full, row + shift, "o", color=colour)
        if change := result.difference:
            scale, fill = 100 / result.rule.full, colour if change.clear else "white"
            differences.hlines(row + shift, scale * change.low, scale * change.high, color=colour, linewidth=2)
            differences.plot(scale * change.value, row + shift, "o", color=colour, markerfacecolor=fill)
