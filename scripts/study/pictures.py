"""The pictures of the report; labels are names of options and methods, so one set serves both languages."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import matplotlib


matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from common import replacing  # noqa: E402

from . import plan  # noqa: E402
from .conditions import SCORE_ERRORS, SURFACE, WRONG_LABELS, surface_name  # noqa: E402
from .outcomes import BySeed, Study, exam_means, side_by_side  # noqa: E402
from .statistics import Estimate, difference, over_seeds  # noqa: E402


def draw_all(study: Study, folder: Path) -> list[Path]:
    """Draw what there are results for."""
    paths = []
    for name, draw in PICTURES.items():
        with pyplot.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
            figure = draw(study)
            if figure is None:
                continue
            paths.append(folder / f"{name}.png")
            with replacing(paths[-1]) as scratch:  # without the program's version, the same input gives the same bytes
                figure.savefig(scratch, dpi=120, bbox_inches="tight", format="png", metadata={"Software": None})
            pyplot.close(figure)
    return paths


def main(study: Study) -> Figure | None:
    """Benchmarks' mean of every method: each seed a dot, the mean with its interval."""
    return _dots(study.methods(), "VLMEvalKit, mean of four benchmarks (%)")


def ablation(study: Study) -> Figure | None:
    """Differences to tuned Uni-DPO, paired by seed."""
    full = study.values("main")["uni_dpo"]
    changes = {
        name: {seed: value - full[seed] for seed, value in values.items() if seed in full}
        for name, values in study.values("ablation").items()
    }
    return _dots(changes, "difference to tuned Uni-DPO (points)", zero=True)


def _dots(values: dict[str, BySeed], label: str, zero: bool = False) -> Figure | None:
    values = {name: list(by_seed.values()) for name, by_seed in values.items() if by_seed}
    if not values:
        return None
    figure, axes = pyplot.subplots(figsize=(7, 0.6 + 0.4 * len(values)))
    for row, each in enumerate(values.values()):
        it = over_seeds(each)
        axes.plot(each, [row] * len(each), ".", color="0.65")
        axes.errorbar(it.mean, row, xerr=it.bar, fmt="o", color="tab:blue", capsize=3)
    _rows(axes, list(values), label, zero)
    return figure


def _rows(axes: Axes, names: Sequence[str], label: str, zero: bool) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    if zero:
        axes.axvline(0, color="0.5", linewidth=0.8)


def when(study: Study) -> Figure | None:
    """Uni-DPO's gain over DPO and over length-normalised DPO, for each condition."""
    names, values = study.conditions(), study.values("when")
    if not names:
        return None
    figure, axes = pyplot.subplots(figsize=(7, 4.2), constrained_layout=True)
    for shift, other in ((-0.12, "dpo"), (0.12, "ln_dpo")):
        gains = [difference(values[name, "uni_dpo"], values[name, other]) for name in names]
        rows = [row + shift for row in range(len(names))]
        label = f"uni_dpo - {other}"
        axes.errorbar(_means(gains), rows, xerr=_bars(gains), fmt="o", capsize=3, label=label)
    _rows(axes, names, "difference, mean of four benchmarks (points)", zero=True)
    _legend(figure, axes)
    return figure


def sweep(study: Study) -> Figure | None:
    """One panel an option."""
    table = study.swept()
    if not table:
        return None
    figure, panels = pyplot.subplots(1, len(table), figsize=(2.3 * len(table), 2.4), sharey=True, squeeze=False)
    for axes, (option, values) in zip(panels[0], table.items(), strict=True):
        points = [over_seeds([*by_seed.values()]) for by_seed in values.values()]
        axes.errorbar(range(len(points)), _means(points), yerr=_bars(points), fmt="o-", capsize=3)
        axes.set_xticks(range(len(points)), [f"{value:g}" for value in values])
        axes.set_title(option.removeprefix("uni_dpo_"))
    panels[0][0].set_ylabel("benchmarks (%)")
    return figure


def course(study: Study) -> Figure | None:
    """Longer runs: exams, metrics of validation pairs, and w_perf, over steps."""
    variants = study.courses()
    if not variants:
        return None
    figure, panels = pyplot.subplots(2, 3, figsize=(11, 5.2), constrained_layout=True)
    metrics = ("eval_loss", "eval_rewards/accuracies", "eval_logps/chosen", "eval_logps/rejected", "uni_dpo/w_perf")
    for number, (name, courses) in enumerate(variants.items()):
        means = exam_means(courses)
        panels[0][0].plot(list(means), list(means.values()), "o-", color=f"C{number}", label=name)
        for axes, metric in zip(panels.flat[1:], metrics, strict=True):
            _line(axes, courses, metric, f"C{number}")
    titles = ("exam, validation scenes (%)", "eval_loss / its first value", *metrics[1:])
    for axes, title in zip(panels.flat, titles, strict=True):
        axes.set_title(title)
        axes.set_xlabel("step")
    _legend(figure, panels[0][0])
    return figure


def _line(axes: Axes, courses: list[dict], metric: str, colour: str) -> None:
    """The mean over seeds of a metric; of the first value each run has, where losses are on scales of their own."""
    lines = [{entry["step"]: entry[metric] for entry in course["log"] if metric in entry} for course in courses]
    steps = sorted(set.intersection(*(set(line) for line in lines)))
    values = [sum(line[step] for line in lines) / len(lines) for step in steps]
    if metric == "eval_loss":
        values = [value / values[0] for value in values]
    if steps:
        axes.plot(steps, values, color=colour)


def _legend(figure: Figure, axes: Axes) -> None:
    """Put the legend above, where nothing is drawn."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)


def _means(estimates: Sequence[Estimate]) -> list[float]:
    return [it.mean for it in estimates]


def _bars(estimates: Sequence[Estimate]) -> list[float]:
    return [it.bar for it in estimates]


def surface(study: Study) -> Figure | None:
    """What a method adds to DPO over how often its scores are right, a line for each share of wrong labels."""
    names = [name for name in SURFACE if study.quality(name)]
    found = side_by_side(study, "surface", names, plan.ON_SURFACE[1:])
    methods = [method for method in plan.ON_SURFACE if method in plan.SEE_SCORES and method in study.tuned]
    if not methods or not found:
        return None
    figure, every = pyplot.subplots(1, len(methods), figsize=(2.6 * len(methods), 3), sharey=True, squeeze=False)
    for axes, method in zip(every.flat, methods, strict=True):
        for number, wrong in enumerate(WRONG_LABELS):
            _surface_line(axes, study, found, method, wrong, f"C{number}")
        axes.axhline(0, color="0.5", linewidth=0.8)
        axes.set(title=method, xlabel="scores right (%)")
    every[0, 0].set_ylabel("difference to dpo (points)")
    every[0, -1].legend(title="labels wrong", fontsize=7)
    figure.tight_layout()
    return figure


def _surface_line(
    axes: Axes, study: Study, found: dict[str, dict[str, BySeed]], method: str, wrong: float, color: str
) -> None:
    names = [name for error in SCORE_ERRORS if (name := surface_name(wrong, error)) in found]
    if names:
        right = [100 * fmean(it["scores"] for it in study.quality(name)) for name in names]
        gains = [difference(found[name][method], found[name]["dpo"]) for name in names]
        style = {"label": f"{100 * wrong:g} %", "color": color, "marker": "o", "markersize": 3, "capsize": 2}
        axes.errorbar(right, [it.mean for it in gains], [it.bar for it in gains], **style)
        labels = 100 * fmean(it["labels"] for it in study.quality(names[0]))
        axes.axvline(labels, color=color, linewidth=0.8, linestyle=":")  # labels are right as often as these scores


PICTURES = {draw.__name__: draw for draw in (main, ablation, when, surface, sweep, course)}
