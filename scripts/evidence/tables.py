"""The tables of the report, as Markdown, from raw results alone."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from . import plan
from .conditions import CONDITIONS
from .methods import BETAS, LEARNING_RATES, Options
from .plan import Cell
from .raw import Result, Results
from .statistics import Estimate, difference, holm, over_seeds
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
    """The start and every method."""
    cells = plan.main(study.tuned, study.seeds)
    values = {name: study.by_seed(of_method) for name, of_method in cells.items()}
    others = [name for name in study.tuned if name != "dpo" and values[name]]
    differences = {name: difference(values[name], values["dpo"]) for name in others}
    adjusted = dict(zip(others, holm([it.p for it in differences.values()]), strict=True))
    head = [words.method, words.rate, words.benchmarks, words.against.format(name="DPO"), "p", words.quality]
    rows = []
    for name, of_method in cells.items():
        if not values[name]:
            continue
        rows.append(
            [
                name,
                point(study.tuned[name]) if name in study.tuned else "",
                interval(over_seeds([*values[name].values()])),
                signed(differences[name]) if name in differences else "",
                f"{adjusted[name]:.3f}" if name in adjusted else "",
                interval(over_seeds([*study.by_seed(of_method, quality).values()]), 2),
                *(_benchmark_mean(study, of_method, benchmark) for benchmark in BENCHMARKS),
            ]
        )
    return markdown([*head, *BENCHMARKS], rows)


def _benchmark_mean(study: Study, cells: list[Cell], benchmark: str) -> str:
    values = study.by_seed(cells, lambda result: result.get("vlmeval", {}).get(benchmark, 0.0))
    return f"{over_seeds([*values.values()]).mean:.1f}"


def tuning_tables(study: Study, words: Words) -> str:
    """Accuracies over the grid, methods below one another."""
    head = [words.method, "beta", *(f"{rate:g}" for rate in LEARNING_RATES)]
    rows = []
    table = plan.tuning(study.tuned, range(plan.TUNING_SEEDS))
    for method, tuned in study.tuned.items():
        for beta in BETAS:
            row = [method if beta == BETAS[0] else "", f"{beta:g}"]
            for rate in LEARNING_RATES:
                number = LEARNING_RATES.index(rate) * len(BETAS) + BETAS.index(beta)
                shown = tuning_accuracy(study, table[method, number])
                chosen = (tuned["learning_rate"], tuned["pref_beta"]) == (rate, beta)
                row.append("" if shown is None else f"**{shown:.1f}**" if chosen else f"{shown:.1f}")
            rows.append(row)
    return markdown(head, rows)


def tuning_accuracy(study: Study, cells: list[Cell]) -> float | None:
    """Mean accuracy on validation scenes in per cent, or None if no cell is done."""
    values = study.by_seed(cells, lambda result: 100 * result["val"]["accuracy"] if "val" in result else 0.0)
    return sum(values.values()) / len(values) if values else None


def ablation_table(study: Study, words: Words) -> str:
    """Uni-DPO without each of its parts."""
    full = plan.main(study.tuned, study.seeds)["uni_dpo"]
    rows = [_compared(study, words.published, full, full)]
    for name, cells in plan.ablation(study.tuned, study.seeds).items():
        if study.by_seed(cells):
            rows.append(_compared(study, name, cells, full))
    head = [words.variant, words.benchmarks, words.against.format(name="Uni-DPO"), words.quality]
    return markdown(head, rows)


def published_table(study: Study, words: Words) -> str:
    """The same with the published beta."""
    cells = {name: them for name, them in plan.published(study.tuned, study.seeds).items() if study.by_seed(them)}
    rows = [_compared(study, name, them, cells["full"]) for name, them in cells.items() if "full" in cells]
    head = [words.variant, words.benchmarks, words.against.format(name="full"), words.quality]
    return markdown(head, rows)


def _compared(study: Study, name: str, cells: list[Cell], full: list[Cell]) -> list[str]:
    ours, theirs = study.by_seed(cells), study.by_seed(full)
    mean = interval(over_seeds([*ours.values()]))
    shown = "" if cells == full else signed(difference(ours, theirs))
    return [name, mean, shown, interval(over_seeds([*study.by_seed(cells, quality).values()]), 2)]


def when_table(study: Study, words: Words) -> str:
    """Conditions by method."""
    table = plan.when(study.tuned, study.seeds)
    rows = []
    for name in CONDITIONS:
        values = {method: study.by_seed(table[name, method]) for method in plan.COMPARED}
        if not all(values.values()):
            continue
        means = [interval(over_seeds([*values[method].values()])) for method in plan.COMPARED]
        gains = [signed(difference(values["uni_dpo"], values[other])) for other in plan.COMPARED[:-1]]
        rows.append([name, *means, *gains])
    head = [words.condition, *plan.COMPARED, *(f"uni_dpo - {other}" for other in plan.COMPARED[:-1])]
    return markdown(head, rows)


def sweep_table(study: Study, words: Words) -> str:
    """One option at a time."""
    full = study.by_seed(plan.main(study.tuned, study.seeds)["uni_dpo"])
    rows, before = [], None
    for (option, value), cells in swept(study).items():
        ours = study.by_seed(cells)
        shown = difference(ours, full)
        same = shown.mean == 0 and shown.half == 0
        mean = f"{over_seeds([*ours.values()]).mean:.1f}"
        rows.append([f"`{option}`" if option != before else "", f"{value:g}", mean, "" if same else signed(shown)])
        before = option
    head = [words.option, words.value, words.benchmarks, words.against.format(name="Uni-DPO")]
    return markdown(head, rows)


def swept(study: Study) -> dict[tuple[str, float], list[Cell]]:
    """The points of those options that have been run at more than the tuned value."""
    done = {point: cells for point, cells in plan.sweep(study.tuned, study.seeds).items() if study.by_seed(cells)}
    options = [option for option, _ in done]
    return {(option, value): cells for (option, value), cells in done.items() if options.count(option) > 1}


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
    """A mean with the half-width of its interval."""
    return f"{it.mean:.{digits}f} ± {it.half:.{digits}f}"


def signed(it: Estimate) -> str:
    """A difference with its interval, starred if zero is outside."""
    return f"{it.mean:+.1f} [{it.low:+.1f}, {it.high:+.1f}]" + (" *" if it.clear else "")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
