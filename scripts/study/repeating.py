"""One cell again, beside what the report says of it."""

from collections.abc import Mapping

from common import ToolError

from . import plan
from .methods import Options
from .raw import Result, Results
from .statistics import over_seeds
from .tables import benchmarks


def compared(method: str, again: Result, known: Results, tuned: Mapping[str, Options]) -> tuple[str, bool]:
    """Compare one run with the raw results.

    Args:
        method: which.
        again: the run.
        known: the raw results.
        tuned: the methods' options.

    Returns:
        What to print, and whether the run is within the interval in which 95 % of single seeds fall. That is wider
        than the interval of their mean, outside of which some of the very seeds that make the mean must lie.

    Raises:
        ToolError: the raw results have fewer than two seeds of the method.
    """
    seeds = known.test_seeds()
    values = {result["seed"]: benchmarks(result) for result in known.of(plan.main(tuned, seeds)[method])}
    if len(values) < 2:
        raise ToolError(f"the raw results have {len(values)} seeds of {method}: too few for an interval")
    estimate, value = over_seeds([*values.values()]), benchmarks(again)
    before = values.get(again["seed"])
    single = estimate.half * (1 + estimate.n) ** 0.5
    inside = abs(value - estimate.mean) <= single
    lines = [
        f"{method}, seed {again['seed']}: {value:.2f} % (mean of four benchmarks, {again.get('seconds')} s)",
        f"raw results, same seed: {'not run' if before is None else f'{before:.2f} %'}",
        f"mean of {estimate.n} seeds: {estimate.mean:.2f} %, 95 % interval [{estimate.low:.2f}, {estimate.high:.2f}]",
        f"95 % of single seeds: [{estimate.mean - single:.2f}, {estimate.mean + single:.2f}]",
        "inside" if inside else "OUTSIDE",
    ]
    return "\n".join(lines), inside
