"""The results as a table, a file and a picture."""

import json
import os
import platform
import statistics
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import matplotlib
import torch


matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402

from .shapes import Pair  # noqa: E402
from .variants import UPSTREAM  # noqa: E402


PACKAGES = ("llamafactory", "transformers", "torch", "liger-kernel")
ROOT = Path(__file__).resolve().parents[2]


def summary(
    seconds: dict[str, list[tuple[float, float]]], pairs: tuple[Pair, ...], operations: dict[str, float]
) -> dict[str, dict[str, Any]]:
    """Return, for each variant, its times, its ratios to upstream's forward turn by turn, speed and ceiling."""
    tokens = sum(pair.tokens for pair in pairs)
    base = [counted for counted, _ in seconds[UPSTREAM]]
    found = {}
    for name, turns in seconds.items():
        counted, wall = (list(times) for times in zip(*turns, strict=True))
        ratios = [slow / fast for slow, fast in zip(base, counted, strict=True)]
        found[name] = {
            "seconds": counted,
            "wall_seconds": wall,
            "ratio": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)},
            "tokens_per_second": tokens / statistics.median(counted),
            "operations": operations[name],
            "ceiling": operations[UPSTREAM] / operations[name],
        }
    return found


def surroundings() -> dict[str, Any]:
    """Return what the numbers depend on, besides the options."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "device": gpu or _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "clock": "CUDA events" if gpu else "CPU time of the process",
        "precision": "bfloat16 autocast over float32 weights" if gpu else "float32",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def table(shape: dict[str, Any]) -> str:
    """Return the results of one shape as text."""
    variants = shape["variants"]
    base = variants[UPSTREAM].get("peak_bytes")
    titles = ("time ratio", "least", "most", "ceiling", "tokens/s", "peak MB", "of upstream")
    lines = [f"{shape['shape']}: {shape['about']}", f"{'':20}" + "".join(f"{title:>12}" for title in titles)]
    for name, found in variants.items():
        ratio, peak = found["ratio"], found.get("peak_bytes")
        cells = [f"{ratio[key]:.2f}x" for key in ("median", "least", "most")]
        cells += [f"{found['ceiling']:.2f}x", f"{found['tokens_per_second']:.0f}"]
        cells += [f"{peak / 1e6:.0f}"] if peak else []
        cells += [f"{peak / base:.1%}"] if peak and base else []
        lines.append(f"{name:20}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def write(result: dict[str, Any], folder: Path) -> tuple[Path, Path]:
    """Write `results.json` and `ratios.png`, each whole or not at all, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers, picture = folder / "results.json", folder / "ratios.png"
    unfinished = [path.with_name(f".{path.name}.tmp") for path in (numbers, picture)]
    unfinished[0].write_text(json.dumps(result, indent=1) + "\n")
    draw(result, unfinished[1])
    for temporary, path in zip(unfinished, (numbers, picture), strict=True):
        os.replace(temporary, path)
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
        spread = [[r["median"] - r["least"] for r in ratios], [r["most"] - r["median"] for r in ratios]]
        axes.barh(names, medians, xerr=spread, color="C0", ecolor="0.4", label="measured, range over turns")
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


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of this repository, with a plus where files differ from it."""
    git = ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed.strip() else "")
