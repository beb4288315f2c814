"""The pictures of the report; labels are names of options and methods, so one set serves both languages."""

from collections.abc import Callable
from pathlib import Path

import matplotlib


matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

from . import plan  # noqa: E402
from .statistics import difference, over_seeds  # noqa: E402
from .tables import Study, sorted_exams, swept, when_names  # noqa: E402


def draw_all(study: Study, folder: Path) -> list[Path]:
    """Draw what there are results for."""
    drawn = {
        "main": draw_main,
        "ablation": draw_ablation,
        "when": draw_when,
        "sweep": draw_sweep,
        "course": draw_course,
    }
    return [path for name, draw in drawn.items() if (path := _saved(draw, study, folder / f"{name}.png"))]


def _saved(draw: Callable[[Study], pyplot.Figure | None], study: Study, path: Path) -> Path | None:
    with pyplot.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = draw(study)
        if figure is None:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.png")
        # Without the program's version in it, the same numbers give the same bytes.
        figure.savefig(part, dpi=120, bbox_inches="tight", metadata={"Software": None})
        pyplot.close(figure)
    part.replace(path)
    return path


def draw_main(study: Study) -> pyplot.Figure | None:
    """Benchmarks' mean of every method: each seed a dot, the mean with its interval."""
    values = {name: study.by_seed(cells) for name, cells in plan.main(study.tuned, study.seeds).items()}
    return _dots(values, "VLMEvalKit, mean of four benchmarks (%)")


def draw_ablation(study: Study) -> pyplot.Figure | None:
    """Differences to tuned Uni-DPO, paired by seed."""
    full = study.by_seed(plan.main(study.tuned, study.seeds)["uni_dpo"])
    without = {name: study.by_seed(cells) for name, cells in plan.ablation(study.tuned, study.seeds).items()}
    changes = {
        name: {seed: value - full[seed] for seed, value in values.items() if seed in full}
        for name, values in without.items()
    }
    return _dots(changes, "difference to tuned Uni-DPO (points)", zero=True)


def _dots(values: dict[str, dict[int, float]], label: str, zero: bool = False) -> pyplot.Figure | None:
    values = {name: by_seed for name, by_seed in values.items() if by_seed}
    if not values:
        return None
    figure, axes = pyplot.subplots(figsize=(7, 0.6 + 0.4 * len(values)))
    for row, by_seed in enumerate(values.values()):
        estimate = over_seeds([*by_seed.values()])
        axes.plot(list(by_seed.values()), [row] * len(by_seed), ".", color="0.65")
        half = estimate.half if estimate.n > 1 else 0
        axes.errorbar(estimate.mean, row, xerr=half, fmt="o", color="tab:blue", capsize=3)
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    axes.set_xlabel(label)
    if zero:
        axes.axvline(0, color="0.5", linewidth=0.8)
    return figure


def draw_when(study: Study) -> pyplot.Figure | None:
    """Uni-DPO's gain over DPO and over length-normalised DPO, for each condition."""
    names = when_names(study)
    if not names:
        return None
    figure, axes = pyplot.subplots(figsize=(7, 4.2), constrained_layout=True)
    values = {place: study.by_seed(cells) for place, cells in plan.when(study.tuned, study.seeds).items()}
    for shift, other in ((-0.12, "dpo"), (0.12, "ln_dpo")):
        gains = [difference(values[name, "uni_dpo"], values[name, other]) for name in names]
        halves = [gain.half if gain.n > 1 else 0 for gain in gains]
        rows = [row + shift for row in range(len(names))]
        axes.errorbar([it.mean for it in gains], rows, xerr=halves, fmt="o", capsize=3, label=f"uni_dpo - {other}")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.axvline(0, color="0.5", linewidth=0.8)
    axes.set_xlabel("difference, mean of four benchmarks (points)")
    _name_above(figure, axes)
    return figure


def draw_sweep(study: Study) -> pyplot.Figure | None:
    """One panel an option."""
    table = swept(study)
    if not table:
        return None
    figure, panels = pyplot.subplots(1, len(table), figsize=(2.3 * len(table), 2.4), sharey=True, squeeze=False)
    for axes, (option, cells) in zip(panels[0], table.items(), strict=True):
        points = {value: over_seeds([*study.by_seed(them).values()]) for value, them in cells.items()}
        halves = [it.half if it.n > 1 else 0 for it in points.values()]
        axes.errorbar(range(len(points)), [it.mean for it in points.values()], yerr=halves, fmt="o-", capsize=3)
        axes.set_xticks(range(len(points)), [f"{value:g}" for value in points])
        axes.set_title(option.removeprefix("uni_dpo_"))
    panels[0][0].set_ylabel("benchmarks (%)")
    return figure


def draw_course(study: Study) -> pyplot.Figure | None:
    """Longer runs: exams, metrics of validation pairs, and w_perf, over steps."""
    variants = {}
    for name, cells in plan.course(study.tuned, study.seeds).items():
        courses = [result["course"] for result in study.results.of(cells) if "course" in result]
        if courses:
            variants[name] = courses
    if not variants:
        return None
    figure, panels = pyplot.subplots(2, 3, figsize=(11, 5.2), constrained_layout=True)
    metrics = ("eval_loss", "eval_rewards/accuracies", "eval_logps/chosen", "eval_logps/rejected", "uni_dpo/w_perf")
    for number, (name, courses) in enumerate(variants.items()):
        exams = [sorted_exams(course) for course in courses]
        means = [sum(100 * exam["accuracy"] for _, exam in step) / len(step) for step in zip(*exams, strict=True)]
        panels[0][0].plot([step for step, _ in exams[0]], means, "o-", color=f"C{number}", label=name)
        for axes, metric in zip(panels.flat[1:], metrics, strict=True):
            _line(axes, courses, metric, f"C{number}")
    titles = ("exam, validation scenes (%)", "eval_loss / its first value", *metrics[1:])
    for axes, title in zip(panels.flat, titles, strict=True):
        axes.set_title(title)
        axes.set_xlabel("step")
    _name_above(figure, panels[0][0])
    return figure


def _name_above(figure: pyplot.Figure, axes: Axes) -> None:
    """Name what is drawn where nothing is."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)


def _line(axes: Axes, courses: list[dict], metric: str, colour: str) -> None:
    """The mean over seeds of a metric; of the first value each run has, where losses are on scales of their own."""
    lines = [{entry["step"]: entry[metric] for entry in course["log"] if metric in entry} for course in courses]
    steps = sorted(set.intersection(*(set(line) for line in lines)))
    if steps:
        values = [sum(line[step] for line in lines) / len(lines) for step in steps]
        if metric == "eval_loss":
            values = [value / values[0] for value in values]
        axes.plot(steps, values, color=colour)
