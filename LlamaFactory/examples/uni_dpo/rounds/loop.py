"""The rounds themselves."""

import json
import shutil
import time
from pathlib import Path

from launcher.output import has_ended, last_checkpoint
from pair_data.errors import DataError

from . import machines, report
from .orphans import alone
from .plan import Plan, require_same
from .recipe import Recipe
from .stages import do, is_done
from .validation import Scores, gain, mean, read_scores, unanswered


def run(plan: Plan, fresh: bool = False) -> int:
    """Do all rounds, or what is left of them.

    Returns:
        The number of the best one; 0 from a machine that is not the first, which only takes part in training.
    """
    if machines.node_rank(plan):
        machines.follow(plan, Recipe(plan))
        return 0
    if fresh and plan.output.exists():
        kept = plan.output.with_name(f"{plan.output.name}.old-{time.strftime('%Y%m%d-%H%M%S')}")
        with alone(plan.output):  # or the folder of a run at work would be taken from it
            plan.output.rename(kept)
        print(f"# what was there is now {kept}")
    with alone(plan.output):
        try:
            require_same(plan)
            return _rounds(plan, Recipe(plan))
        finally:
            machines.dismiss(plan)


def _rounds(plan: Plan, recipe: Recipe) -> int:
    scores: list[Scores] = [_validate(plan, recipe, 0)]
    best = 0
    why = f"all {plan.rounds} rounds were done"
    for number in range(1, plan.rounds + 1):
        _make(plan, recipe, number)
        scores.append(_validate(plan, recipe, number))
        found = gain(scores[best], scores[number])
        if found.mean > 0:
            print(f"\n== round {number} helps on validation: {found} against {recipe.name(best)}")
            best = number
        else:
            said = f"round {number} does not help on validation: {found} against {recipe.name(best)}"
            print(f"\n== {said}")
            if number - best >= plan.patience and number < plan.rounds:
                why = f"stopped early, after {number} of {plan.rounds} rounds: {said}"
                break
    _tell(plan, recipe, scores, best, why)
    return best


def _make(plan: Plan, recipe: Recipe, number: int) -> None:
    for stage in recipe.making(number):
        if stage.name != "train" or is_done(stage, recipe.folder(number)):
            do(stage, recipe.folder(number), plan.root)
            continue
        _clear(stage.output, plan)
        with machines.calling(plan, number, stage):
            do(stage, recipe.folder(number), plan.root)


def _clear(checkpoint: Path, plan: Plan) -> None:
    """Remove what a killed training left that nobody can go on from."""
    ended = has_ended(checkpoint, {"eval_strategy": "no"} | plan.train)
    if checkpoint.is_dir() and not ended and not last_checkpoint(checkpoint):
        shutil.rmtree(checkpoint)


def _validate(plan: Plan, recipe: Recipe, number: int) -> Scores:
    for stage in recipe.validating(number):
        do(stage, recipe.folder(number), plan.root)
    return read_scores(recipe.folder(number) / "validation.json")


def _tell(plan: Plan, recipe: Recipe, scores: list[Scores], best: int, why: str) -> None:
    """Write and show the table over all rounds that were done."""
    last = len(scores) - 1
    measured: dict[str, dict[str, dict[str, float]]] = {}
    if plan.benchmarks:
        stage = recipe.summary(last)
        do(stage, plan.output / "benchmarks", plan.root)
        measured = report.read_benchmarks(stage.output)
    rows, ahead = [], 0
    for number, found in enumerate(scores):
        more = {}
        if number:
            pairs = json.loads((recipe.folder(number) / "pairs_report.json").read_text(encoding="utf-8"))
            more = {"pairs": pairs, "gain": gain(scores[ahead], found), "total": gain(scores[0], found)}
            ahead = number if more["gain"].mean > 0 else ahead
        kept = measured.get(recipe.name(number), {})
        known = {"validation": mean(found), "unanswered": unanswered(found), "benchmarks": kept}
        rows.append(report.Row(number, str(recipe.model(number)), **known, **more))
    if ahead != best:
        raise DataError("the table and the rounds disagree about the best one; please report this.")
    report.write(rows, best, why, plan.output)
    print("\n" + (plan.output / "table.md").read_text(encoding="utf-8"))
    print(f"table: {plan.output / 'table.md'}, table.json; picture: {plan.output / 'rounds.png'}")
