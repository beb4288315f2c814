"""The tables of the report, as Markdown, from raw results alone."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from . import plan
from .conditions import CONDITIONS
from .methods import BETAS, LEARNING_RATES, Options, grid
from .plan import Cell
from .raw import Result, Results
from .statistics import Estimate, difference, holm, over_seeds
from .tuning import accuracy, tuning_seeds
from .words import Words


BENCHMARKS = ("MCQ", "YesNo", "Short", "ChartQA")


def benchmarks(result: Result) -> float:
    """VLMEvalKit's mean in per cent; a run that diverged has learned nothing."""
    return result["vlmeval"]["mean"] if "vlmeval" in result else 0.0


def quality(result: Result) -> float:
    """The rule's mean score of answers."""
    return result["test"]["quality"] if "test" in result else 0.0


@dataclass(frozen=True)
class Study:
    """Raw results with what was tuned from them.

    Attributes:
        results: all cells.
        tuned: each method's options.
        seeds: those of the main experiment.
    """

    results: Results
    tuned: Mapping[str, Options]
    seeds: Sequence[int]

    def by_seed(self, cells: Iterable[Cell], outcome: Callable[[Result], float] = benchmarks) -> dict[int, float]:
        """One value for each cell that is done."""
        return {result["seed"]: outcome(result) for result in self.results.of(cells)}


def main_table(study: Study, words: Words) -> str:
    """The start and every method; differences to DPO over all seeds, and over those that tuned nothing."""
    cells = plan.main(study.tuned, study.seeds)
    values = {name: study.by_seed(of_method) for name, of_method in cells.items()}
    values = {name: by_seed for name, by_seed in values.items() if by_seed}
    others = [name for name in values if name not in ("start", "dpo") and "dpo" in values]
    differences = [difference(values[name], values["dpo"]) for name in others]
    adjusted = holm([it.p for it in differences])
    shown = {name: (signed(it, p), f"{p:.3f}") for name, it, p in zip(others, differences, adjusted, strict=True)}
    untuned = {name: _untuned(study, values[name], values["dpo"]) for name in others}
    head = [words.method, words.rate, words.benchmarks, words.against.format(name="DPO"), "p", words.untuned]
    rows = [
        [
            name,
            point(study.tuned[name]) if name in study.tuned else "",
            interval(over_seeds([*values[name].values()])),
            *shown.get(name, ("", "")),
            untuned.get(name, ""),
            interval(over_seeds([*study.by_seed(cells[name], quality).values()]), 2),
            *(_benchmark_mean(study, cells[name], benchmark) for benchmark in BENCHMARKS),
        ]
        for name in values
    ]
    return markdown([*head, words.quality, *BENCHMARKS], rows)


def _untuned(study: Study, ours: dict[int, float], theirs: dict[int, float]) -> str:
    """The difference over seeds on which nothing was tuned: their training runs were not chosen among others."""
    seeds = set(ours) & set(theirs) - set(tuning_seeds(study.results))
    return signed(difference({seed: ours[seed] for seed in seeds}, theirs)) if seeds else ""


def _benchmark_mean(study: Study, cells: list[Cell], benchmark: str) -> str:
    values = study.by_seed(cells, lambda result: result.get("vlmeval", {}).get(benchmark, 0.0))
    return f"{over_seeds([*values.values()]).mean:.1f}"


def tuning_tables(study: Study, words: Words) -> str:
    """Accuracies over the grid, methods below one another."""
    table = plan.tuning(study.tuned, tuning_seeds(study.results))
    rows = []
    for method, tuned in study.tuned.items():
        shares = {point(options): accuracy(study.results, table[method, n]) for n, options in enumerate(grid(method))}
        best = point(tuned)
        for beta in BETAS:
            places = [point({"learning_rate": rate, "pref_beta": beta}) for rate in LEARNING_RATES]
            texts = [f"**{100 * shares[it]:.1f}**" if it == best else f"{100 * shares[it]:.1f}" for it in places]
            rows.append([method if beta == BETAS[0] else "", f"{beta:g}", *texts])
    return markdown([words.method, "beta", *(f"{rate:g}" for rate in LEARNING_RATES)], rows)


def ablation_table(study: Study, words: Words) -> str:
    """Tuned Uni-DPO, and without each of its parts."""
    full = plan.main(study.tuned, study.seeds)["uni_dpo"]
    variants = plan.ablation(study.tuned, study.seeds)
    return _compared(study, words, {words.full: full, **variants}, "Uni-DPO")


def published_table(study: Study, words: Words) -> str:
    """The same with the published beta."""
    return _compared(study, words, plan.published(study.tuned, study.seeds), "full")


def _compared(study: Study, words: Words, variants: dict[str, list[Cell]], name: str) -> str:
    """Variants, of which the first is what the others are compared with; nothing if there is nothing to compare."""
    values = {variant: study.by_seed(cells) for variant, cells in variants.items()}
    full, *others = values
    others = [variant for variant in others if values[variant]]
    if not (values[full] and others):
        return ""
    differences = [difference(values[variant], values[full]) for variant in others]
    shown = dict(zip(others, starred(differences), strict=True))
    rows = [
        [
            variant,
            interval(over_seeds([*values[variant].values()])),
            shown.get(variant, ""),
            interval(over_seeds([*study.by_seed(variants[variant], quality).values()]), 2),
        ]
        for variant in (full, *others)
    ]
    return markdown([words.variant, words.benchmarks, words.against.format(name=name), words.quality], rows)


def when_table(study: Study, words: Words) -> str:
    """Conditions by method."""
    table = plan.when(study.tuned, study.seeds)
    values = {place: study.by_seed(cells) for place, cells in table.items()}
    names = when_names(study)
    gains = [
        difference(values[name, "uni_dpo"], values[name, other]) for name in names for other in plan.COMPARED[:-1]
    ]
    shown = iter(starred(gains))
    rows = [
        [
            name,
            *(interval(over_seeds([*values[name, method].values()])) for method in plan.COMPARED),
            *(next(shown) for _ in plan.COMPARED[:-1]),
        ]
        for name in names
    ]
    head = [words.condition, *plan.COMPARED, *(f"uni_dpo - {other}" for other in plan.COMPARED[:-1])]
    return markdown(head, rows)


def labels_table(study: Study, words: Words) -> str:
    """What w_qual does where scores know better than labels; without it first."""
    cells = {f"eta {eta:g}": them for eta, them in plan.labels(study.tuned, study.seeds).items()}
    return _compared(study, words, cells, "eta 0")


def when_names(study: Study) -> list[str]:
    """The conditions under which every compared method has been run; none unless one beside "base" has been."""
    table = plan.when(study.tuned, study.seeds)
    names = [name for name in CONDITIONS if all(study.by_seed(table.get((name, it), [])) for it in plan.COMPARED)]
    return names if names != ["base"] else []


def sweep_table(study: Study, words: Words) -> str:
    """One option at a time, each against its value in tuned Uni-DPO."""
    rows = []
    for option, points in swept(study).items():
        values = {value: study.by_seed(cells) for value, cells in points.items()}
        tuned = study.tuned["uni_dpo"][option]
        others = [value for value in values if value != tuned]
        shown = dict(zip(others, starred([difference(values[it], values[tuned]) for it in others]), strict=True))
        for value, by_seed in values.items():
            first = f"`{option}`" if value == min(values) else ""
            rows.append([first, f"{value:g}", f"{over_seeds([*by_seed.values()]).mean:.1f}", shown.get(value, "")])
    return markdown([words.option, words.value, words.benchmarks, words.against.format(name=words.full)], rows)


def swept(study: Study) -> dict[str, dict[float, list[Cell]]]:
    """For each option that has been run at its tuned value and at another one, the cells of its values."""
    options: dict[str, dict[float, list[Cell]]] = {}
    for (option, value), cells in plan.sweep(study.tuned, study.seeds).items():
        if study.by_seed(cells):
            options.setdefault(option, {})[value] = cells
    tuned = study.tuned["uni_dpo"]
    return {option: values for option, values in options.items() if tuned[option] in values and len(values) > 1}


def course_table(study: Study, words: Words) -> str:
    """Exams after each epoch, and what the weights did."""
    rows = []
    for name, cells in plan.course(study.tuned, study.seeds).items():
        courses = [result["course"] for result in study.results.of(cells) if "course" in result]
        if not courses:
            continue
        exams = [[100 * exam["accuracy"] for _, exam in sorted_exams(course)] for course in courses]
        last = [course["pairs"][-1] for course in courses if course["pairs"]]
        weights = [_mean(last, key) for key in ("spearman", "w_perf_fitted", "w_perf_unfitted")]
        rows.append([name, *(f"{sum(step) / len(step):.1f}" for step in zip(*exams, strict=True)), *weights])
    epochs = [words.epoch.format(number=number) for number in range(plan.COURSE_EPOCHS + 1)]
    return markdown([words.variant, *epochs, words.correlation, words.fitted, words.unfitted], rows)


def sorted_exams(course: dict) -> list[tuple[int, dict]]:
    """Exams by step; JSON has made texts of the steps."""
    return sorted((int(step), exam) for step, exam in course["exams"].items())


def _mean(rows: list[dict], key: str) -> str:
    values = [row[key] for row in rows if key in row]
    return f"{sum(values) / len(values):.2f}" if values else ""


def point(options: Options) -> str:
    """Learning rate and beta."""
    return f"{options['learning_rate']:g}, {options['pref_beta']:g}"


def interval(it: Estimate, digits: int = 1) -> str:
    """A mean with the half-width of its interval, which a single seed has not."""
    if it.n == 1:
        return f"{it.mean:.{digits}f}"
    return f"{it.mean:.{digits}f} ± {it.half:.{digits}f}"


def starred(differences: Sequence[Estimate]) -> list[str]:
    """Differences that are made together, with a star where Holm's p value for all of them is below 0.05."""
    return [signed(it, p) for it, p in zip(differences, holm([it.p for it in differences]), strict=True)]


def signed(it: Estimate, p: float = 1.0) -> str:
    """A difference with its interval, and a star if p is below 0.05."""
    if it.n == 1:
        return f"{it.mean:+.1f}"
    return f"{it.mean:+.1f} [{it.low:+.1f}, {it.high:+.1f}]" + (" *" if p < 0.05 else "")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; nothing if it would have no rows."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
