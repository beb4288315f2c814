"""What came of the cells: values by seed, of variants that can be compared."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import plan
from .conditions import SINGLE
from .methods import Options
from .plan import COMPARED, Cell
from .results import Result, Results


BySeed = dict[int, float]


def benchmarks(result: Result, name: str = "mean") -> float:
    """VLMEvalKit's score in per cent, of all benchmarks or of one; a run that diverged has learned nothing."""
    return result.get("vlmeval", {}).get(name, 0.0)


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

    def cells(self, experiment: str) -> dict:
        """The cells of an experiment by variant, done or not."""
        return plan.cells_of(experiment, self.tuned, self.seeds)

    def by_seed(self, cells: Iterable[Cell], outcome: Callable[[Result], float] = benchmarks) -> BySeed:
        """One value for each cell that is done."""
        return {result["seed"]: outcome(result) for result in self.results.of(cells)}

    def values(self, experiment: str) -> dict:
        """The benchmarks' mean by seed for each variant; empty where nothing is done."""
        return {name: self.by_seed(cells) for name, cells in self.cells(experiment).items()}

    def methods(self) -> dict[str, BySeed]:
        """The start and every method that has been tested: benchmarks' means of the seeds that all of them have."""
        return shared({name: by for name, by in self.values("main").items() if by})

    def courses(self) -> dict[str, list[dict]]:
        """What happened in the longer runs, by variant that has been run; a name says if some of them diverged."""
        found = {}
        for name, cells in self.cells("course").items():
            done = self.results.of(cells)
            if courses := [result["course"] for result in done if "course" in result]:
                found[name if len(courses) == len(done) else f"{name} ({len(courses)} of {len(done)} runs)"] = courses
        return found

    def conditions(self) -> list[str]:
        """The conditions under which all compared methods have been run; none unless one beside "base" has been."""
        values = self.values("when")
        names = [name for name in SINGLE if all(values.get((name, method)) for method in COMPARED)]
        return names if names != ["base"] else []

    def quality(self, condition: str) -> list[dict[str, float]]:
        """How good labels and scores of a condition are, seed by seed; empty where that was not looked at."""
        return [result["data"] for result in self.results.of(self.cells("data")[condition])]

    def swept(self) -> dict[str, dict[float, BySeed]]:
        """For each option that has been run at its tuned value and at another one, values by seed."""
        options: dict[str, dict[float, BySeed]] = {}
        for (option, value), by_seed in self.values("sweep").items():
            if by_seed:
                options.setdefault(option, {})[value] = by_seed
        tuned = self.tuned["uni_dpo"]
        return {option: values for option, values in options.items() if tuned[option] in values and len(values) > 1}


def shared(values: Mapping[Any, BySeed]) -> dict[Any, BySeed]:
    """The values of the seeds that all have, so that their means can be compared; nothing if there is no such seed."""
    seeds = sorted(set.intersection(*map(set, values.values()))) if values else []
    return {name: {seed: by[seed] for seed in seeds} for name, by in values.items()} if seeds else {}


def side_by_side(
    study: Study, experiment: str, names: Iterable[str], methods: Iterable[str]
) -> dict[str, dict[str, BySeed]]:
    """By condition DPO and those of the methods that were tuned.

    A condition is there once all of these have been run, and its seeds are those that all have.
    """
    wanted = ["dpo", *(method for method in methods if method in study.tuned)]
    if not set(wanted) & (set(plan.RIVALS) - {"mm_dpo"}):
        return {}  # cells of other experiments
    values = study.values(experiment)
    done = {name: shared({method: values.get((name, method), {}) for method in wanted}) for name in names}
    return {name: found for name, found in done.items() if found}


def exam_means(courses: list[dict]) -> dict[int, float]:
    """The mean accuracy in our exam after each epoch, in per cent, by the steps of the first run."""
    lines = [sorted((int(step), exam["accuracy"]) for step, exam in course["exams"].items()) for course in courses]
    means = [sum(100 * share for _, share in epoch) / len(epoch) for epoch in zip(*lines, strict=True)]
    return dict(zip([step for step, _ in lines[0]], means, strict=True))
