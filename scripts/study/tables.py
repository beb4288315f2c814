"""The rows of the report's tables, from raw results alone; words around them stand in the report's templates."""

from collections.abc import Iterable, Sequence
from statistics import fmean

from . import plan
from .conditions import SINGLE, SURFACE
from .methods import BETAS, LEARNING_RATES, grid
from .outcomes import Study, benchmarks, exam_means, quality, shared, side_by_side
from .plan import COMPARED, Cell
from .results import accuracy, best_of_grid, beyond_grid
from .statistics import difference, holm, over_seeds, seeds_for, seen_with
from .texts import interval, point, short, signed, starred


BENCHMARKS = ("MCQ", "YesNo", "Short", "ChartQA")

Rows = list[list[str]]


def main(study: Study) -> Rows:
    """The start and every method; differences to DPO over all seeds, and over those that tuned nothing."""
    values = study.methods()
    cells = {name: [cell for cell in study.cells("main")[name] if cell.seed in by] for name, by in values.items()}
    dpo, tuners = values.get("dpo", {}), set(study.results.seeds("val"))
    others = [name for name in values if name not in ("start", "dpo") and dpo]
    differences = [difference(values[name], dpo) for name in others]
    adjusted = holm([it.p for it in differences])
    shown = {}
    for name, it, p in zip(others, differences, adjusted, strict=True):
        # Training runs of other seeds were not chosen among others.
        fresh = {seed: value for seed, value in values[name].items() if seed in dpo.keys() - tuners}
        shown[name] = [signed(it, p), f"{p:.3f}", signed(difference(fresh, dpo)) if fresh else ""]
    return [
        [
            name,
            point(study.tuned[name]) if name in study.tuned else "",
            interval(values[name]),
            *shown.get(name, ["", "", ""]),
            interval(study.by_seed(cells[name], quality), 2),
            *(
                f"{over_seeds([benchmarks(result, benchmark) for result in study.results.of(cells[name])]).mean:.1f}"
                for benchmark in BENCHMARKS
            ),
        ]
        for name in values
    ]


def tuning(study: Study) -> Rows:
    """Accuracies over the grid, methods below one another."""
    table = plan.cells_of("tuning", study.tuned, study.results.seeds("val"))
    rows = []
    for method, tuned in study.tuned.items():
        texts = {}
        for number, options in enumerate(grid(method)):
            text = f"{100 * accuracy(study.results, table[method, number]):.1f}"
            texts[options["learning_rate"], options["pref_beta"]] = f"**{text}**" if options == tuned else text
        for beta in BETAS:
            line = [texts[rate, beta] for rate in LEARNING_RATES]
            rows.append([method if beta == BETAS[0] else "", f"{beta:g}", *line])
    return rows


def ablation(study: Study) -> Rows:
    """Tuned Uni-DPO, and without each of its parts."""
    return _compared(study, {"full": study.cells("main")["uni_dpo"], **study.cells("ablation")})


def published(study: Study) -> Rows:
    """The same with the published beta."""
    return _compared(study, study.cells("published"))


def labels(study: Study) -> Rows:
    """What w_qual does where scores know better than labels; without it first."""
    return _compared(study, {f"eta {eta:g}": cells for eta, cells in study.cells("labels").items()})


def _compared(study: Study, variants: dict[str, list[Cell]]) -> Rows:
    """Variants, of which the first is what the others are compared with; nothing if there is nothing to compare."""
    values = {variant: study.by_seed(cells) for variant, cells in variants.items()}
    full, *others = values
    others = [variant for variant in others if values[variant]]
    if not (values[full] and others):
        return []
    texts = ["", *starred([difference(values[variant], values[full]) for variant in others])]
    return [
        [variant, interval(values[variant]), text, interval(study.by_seed(variants[variant], quality), 2)]
        for variant, text in zip((full, *others), texts, strict=True)
    ]


def when(study: Study) -> Rows:
    """Conditions by method."""
    values, others = study.values("when"), COMPARED[:-1]
    table = {name: shared({method: values[name, method] for method in COMPARED}) for name in study.conditions()}
    table = {name: found for name, found in table.items() if found}
    texts = iter(starred([difference(it["uni_dpo"], it[other]) for it in table.values() for other in others]))
    return [[name, *map(interval, found.values()), *(next(texts) for _ in others)] for name, found in table.items()]


def power(study: Study) -> Rows:
    """By condition the scatter of Uni-DPO - DPO over seeds, and what differences it lets be seen."""
    values, rows = study.values("when"), []
    for name in study.conditions():
        it = difference(values[name, "uni_dpo"], values[name, "dpo"])
        if it.n > 1:
            rows.append([name, f"{it.deviation:.2f}", f"{seen_with(it.deviation, it.n):.1f}"])
            rows[-1] += [str(seeds_for(it.deviation, points)) for points in (2.0, 1.0)]
    return rows


def data(study: Study) -> Rows:
    """How good labels and scores are under each condition: per cent of the pairs that the rule tells apart."""
    return [[name, *_quality(study, name)] for name in SINGLE if study.quality(name)]


def _quality(study: Study, condition: str) -> list[str]:
    """Shares of right labels and of right scores, means over seeds; empty where nothing is known."""
    known = study.quality(condition)
    return [f"{100 * fmean(it[kind] for it in known):.0f}" if known else "" for kind in ("labels", "scores")]


def rivals(study: Study) -> Rows:
    """Conditions by method: DPO's mean, and what the others add to it."""
    rows = _against_dpo(study, "rivals", SINGLE, ("uni_dpo", *plan.RIVALS))
    return [[name, *texts] for name, texts in rows.items()]


def surface(study: Study) -> Rows:
    """Wrong labels by errors of scores, with how often labels and scores are right."""
    names = [name for name in SURFACE if study.quality(name)]
    rows = _against_dpo(study, "surface", names, [name for name in plan.ON_SURFACE if name != "dpo"])
    return [[name, *_quality(study, name), *texts] for name, texts in rows.items()]


def _against_dpo(study: Study, experiment: str, names: Iterable[str], methods: Sequence[str]) -> dict[str, list[str]]:
    """By condition how many seeds, DPO's mean, and differences to it, starred together."""
    done = side_by_side(study, experiment, names, methods)
    gains = {
        (name, method): difference(by, found["dpo"])
        for name, found in done.items()
        for method, by in found.items()
        if method != "dpo"
    }
    stars = holm([it.p for it in gains.values()])
    texts = {key: short(it, p) for (key, it), p in zip(gains.items(), stars, strict=True)}
    return {
        name: [str(len(found["dpo"])), interval(found["dpo"]), *(texts.get((name, method), "") for method in methods)]
        for name, found in done.items()
    }


def wider(study: Study) -> Rows:
    """Accuracies beyond the edges of the grid, for methods that were best there."""
    results, rows = study.results, []
    best = best_of_grid(results, study.tuned)
    for method, points in beyond_grid(results, best).items():
        done = [(options, value) for options, value in points if value is not None]
        for number, (options, value) in enumerate(done):
            text = f"{100 * value:.1f}"
            chosen = f"**{text}**" if options == study.tuned[method] else text
            rows.append(["" if number else method, "" if number else point(best[method]), point(options), chosen])
    return rows


def sweep(study: Study) -> Rows:
    """One option at a time, each against its value in tuned Uni-DPO."""
    rows = []
    for option, values in study.swept().items():
        tuned = study.tuned["uni_dpo"][option]
        texts = iter(starred([difference(by, values[tuned]) for value, by in values.items() if value != tuned]))
        for number, (value, by_seed) in enumerate(values.items()):
            mean = over_seeds([*by_seed.values()]).mean
            text = "" if value == tuned else next(texts)
            rows.append(["" if number else f"`{option}`", f"{value:g}", f"{mean:.1f}", text])
    return rows


def course(study: Study) -> Rows:
    """Exams after each epoch, and what the weights did."""
    rows = []
    for name, courses in study.courses().items():
        last = [course["pairs"][-1] for course in courses if course["pairs"]]
        line = [name, *(f"{mean:.1f}" for mean in exam_means(courses).values())]
        for key in ("spearman", "w_perf_fitted", "w_perf_unfitted"):
            values = [row[key] for row in last if key in row]
            line.append(f"{sum(values) / len(values):.2f}" if values else "")
        rows.append(line)
    return rows


TABLES = {
    table.__name__: table
    for table in (main, ablation, published, when, power, data, rivals, surface, labels, sweep, course, tuning, wider)
}
