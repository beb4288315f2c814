"""The results as numbers, as a table and as a picture."""

import statistics
from pathlib import Path
from typing import Any

import matplotlib
from tabulate import tabulate

from bench_common import spread
from common import replacing, write_json


matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402

from .variants import UPSTREAM, Pair  # noqa: E402


def summary(
    seconds: dict[str, list[tuple[float, float]]], pairs: tuple[Pair, ...], operations: dict[str, float]
) -> dict[str, dict[str, Any]]:
    """Return, for each variant, its times, its ratios to upstream's forward turn by turn, speed and ceiling."""
    tokens = sum(pair.tokens for pair in pairs)
    base = [counted for counted, _ in seconds[UPSTREAM]]
    found = {}
    for name, turns in seconds.items():
        counted, wall = (list(times) for times in zip(*turns, strict=True))
        found[name] = {
            "seconds": counted,
            "wall_seconds": wall,
            "ratio": spread([slow / fast for slow, fast in zip(base, counted, strict=True)]),
            "tokens_per_second": tokens / statistics.median(counted),
            "operations": operations[name],
            "ceiling": operations[UPSTREAM] / operations[name],
        }
    return found


def table(shape: dict[str, Any]) -> str:
    """Return the results of one shape as text."""
    base = shape["variants"][UPSTREAM].get("peak_bytes")
    lines = []
    for name, found in shape["variants"].items():
        peak = found.get("peak_bytes")
        line = [name, *(f"{value:.2f}x" for value in found["ratio"].values()), f"{found['ceiling']:.2f}x"]
        line += [f"{found['tokens_per_second']:.0f}", f"{peak / 1e6:.0f}" if peak else ""]
        lines.append([*line, f"{peak / base:.1%}" if peak and base else ""])
    head = ["", "time ratio", "least", "most", "ceiling", "tokens/s", "peak MB", "of upstream"]
    text = tabulate(lines, head, "plain", disable_numparse=True, colalign=["left", *["right"] * 7])
    return f"{shape['shape']}: {shape['about']}\n{text}"


def write(result: dict[str, Any], folder: Path) -> tuple[Path, Path]:
    """Write `results.json` and `ratios.png`, each whole or not at all, and return their paths."""
    numbers, picture = folder / "results.json", folder / "ratios.png"
    write_json(numbers, result)
    with replacing(picture) as scratch:
        draw(result, scratch)
    return numbers, picture


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw a bar for each ratio, with its range over the turns and a mark at its ceiling."""
    shapes = result["shapes"]
    names = [name for name in shapes[0]["variants"] if name != UPSTREAM]
    columns = min(4, len(shapes))
    rows = -(-len(shapes) // columns)
    size = (2.2 + 2.6 * columns, rows * (1.2 + 0.3 * len(names)))
    figure, grid = pyplot.subplots(rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False)
    for axes, shape in zip(grid.flat, shapes, strict=False):
        found = [shape["variants"][name] for name in names]
        ratios = [variant["ratio"] for variant in found]
        medians = [ratio["median"] for ratio in ratios]
        scatter = [[r["median"] - r["least"] for r in ratios], [r["most"] - r["median"] for r in ratios]]
        axes.barh(names, medians, xerr=scatter, color="C0", ecolor="0.4", label="measured, range over turns")
        ceilings = [variant["ceiling"] for variant in found]
        axes.plot(ceilings, names, "|", color="C3", markersize=14, markeredgewidth=2, label="by operations")
        axes.axvline(1, color="0.6", linewidth=1)
        axes.set_title(shape["shape"])
    for axes in grid.flat[len(shapes) :]:
        axes.set_axis_off()
    grid[0, 0].invert_yaxis()
    figure.supxlabel("times as fast as LlamaFactory's forward")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    figure.set_layout_engine("constrained")
    figure.savefig(path, dpi=150, format="png")
    pyplot.close(figure)
