"""What is run in the world of words: a small plan, whose cost was fixed beforehand, the same for every method.

A cell is as in the demo world, one training run with one measurement. Its conditions differ in labels and scores only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..methods import METHODS as ALL
from ..methods import SEE_SCORES, Options, told, with_grid_point
from ..plan import Cell, cell
from ..results import Results
from .conditions import BASE, CONDITIONS, WRONG


NAMES = ("dpo", "ln_dpo", "simpo", "uni_dpo", "w_qual", "filtered", "odpo", "rpo", "robust_dpo")
METHODS = {name: ALL[name] for name in NAMES}
# Learning rate and beta: four corners were tried first, then, as the best lay on them, what is between and beyond.
CORNERS = ((1e-4, 0.1), (1e-4, 2.0), (4e-4, 0.1), (4e-4, 2.0))
GRID = (*CORNERS, (2e-4, 0.1), (2e-4, 0.5), (4e-4, 0.5), (8e-4, 0.1))
TUNED_ON = (0,)  # seeds


@dataclass(frozen=True)
class Size:
    """How large a study is.

    Attributes:
        questions: instructions whose sampled answers become pairs.
        val: instructions of validation.
        test: instructions of the test.
    """

    questions: int
    val: int
    test: int


SIZES = {"demo": Size(150, 80, 150), "test": Size(120, 10, 10)}


def points(method: str) -> list[Options]:
    """All points of the grid for one method."""
    return [with_grid_point(method, *point) for point in GRID]


def tuning(methods: Sequence[str]) -> dict[tuple[str, int], list[Cell]]:
    """Every method at every point, examined on validation instructions."""
    return {
        (method, number): [cell(seed, as_run(options, BASE), "val", BASE) for seed in TUNED_ON]
        for method in methods
        for number, options in enumerate(points(method))
    }


def best(results: Results, methods: Sequence[str]) -> dict[str, Options]:
    """Each method's point with the most points on validation, the first of equals; of those whose grid is done."""
    cells, found = tuning(methods), {}
    for method in methods:
        done = [results.of(cells[method, number]) for number in range(len(points(method)))]
        if all(done):
            means = [exam(them[0], "val") for them in done]
            found[method] = points(method)[means.index(max(means))]
    return found


def exam(result: dict[str, Any], measure: str = "test") -> float:
    """Mean points of an exam, in per cent of all; a run that diverged has learned nothing."""
    return 10 * result[measure]["points"] if measure in result else 0.0


def main(tuned: dict[str, Options], seeds: Sequence[int]) -> dict[tuple[str, str], list[Cell]]:
    """By condition and method, and the start; a method that sees no scores has one run for two conditions."""
    table = {(BASE, "start"): [cell(seed, {}, "test", BASE) for seed in seeds]}
    for name, condition in CONDITIONS.items():
        for method, options in tuned.items():
            data = name if method in SEE_SCORES or not condition.told else WRONG
            run = as_run(options, name)
            table[name, method] = [cell(seed, run, "test", data) for seed in seeds]
    return table


def as_run(options: Options, condition: str) -> Options:
    """What runs of a method under a condition are: DPO where no score contradicts a label, or no label is wrong.

    Filtering leaves nothing out there, and robust DPO is told so.
    """
    it = CONDITIONS[condition]
    if "pref_flip_rate" in options:
        options = told(options, it.wrong) | ({} if it.wrong else ALL["dpo"])
    idle = {"pref_pair_weights": not it.told, "pref_flip_rate": not it.wrong}
    return {name: value for name, value in options.items() if not idle.get(name)}
