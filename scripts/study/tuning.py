"""From validation accuracies to the options that each method is tested with."""

from collections.abc import Iterable, Sequence

from common import ToolError

from . import plan
from .methods import METHODS, Options, grid
from .plan import Cell
from .raw import Results


def accuracy(results: Results, cells: Sequence[Cell]) -> float | None:
    """Mean accuracy on validation scenes, a share; None if no cell is done. A run that diverged has got nothing right.

    Raises:
        ToolError: some of the cells are done and some are not: a mean over fewer seeds cannot be compared.
    """
    done = results.of(cells)
    if done and len(done) < len(cells):
        seeds = sorted({cell.seed for cell in cells} - {result["seed"] for result in done})
        raise ToolError(f"tuning lacks seed {seeds[0]} of {dict(cells[0].options)}: run `tuning` again")
    return sum(result["val"]["accuracy"] if "val" in result else 0.0 for result in done) / len(done) if done else None


def tuned_options(results: Results, methods: Iterable[str]) -> dict[str, Options]:
    """Each method's point of the grid with the highest accuracy on validation scenes, the first of equals.

    Raises:
        ToolError: a method has not been tuned on every point, or not with the same seeds.
    """
    seeds = tuning_seeds(results)
    tuned = {}
    for method in methods:
        points = [
            accuracy(results, plan.tuning([method], seeds)[method, number]) for number in range(len(grid(method)))
        ]
        if None in points:
            lacking = points.count(None)
            raise ToolError(f"{method} has not been tuned: {lacking} points of its grid are missing; run `tuning`")
        tuned[method] = grid(method)[max(range(len(points)), key=points.__getitem__)]
    return {method: tuned[method] for method in METHODS if method in tuned}


def tuning_seeds(results: Results) -> list[int]:
    """The seeds that tuned, as far as there are any results."""
    return sorted({result["seed"] for result in results.all() if result["measure"] == "val" and result["options"]})
