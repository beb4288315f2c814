"""Which cells the study is made of. A cell is one training run with one measurement; an experiment is a list of them.

Cells are named by what they do, so the same run in two experiments is done once, and a plan that changes leaves the
results of unchanged cells valid.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from common import ToolError

from .conditions import CONDITIONS
from .methods import (
    ABLATED_AS_PUBLISHED,
    ABLATIONS,
    ETAS_AGAINST_LABELS,
    SWEEPS,
    TAU_GOOD,
    TAU_GOOD_LAMBDA,
    Options,
    ablated,
    as_published,
    grid,
)


TUNING_SEEDS = 2
SWEEP_SEEDS = 3
COURSE_SEEDS = 3
COURSE_EPOCHS = 4
AGAINST_LABELS = "labels 35 %, scores true"
COMPARED = ("dpo", "ln_dpo", "uni_dpo")  # where the whole list would cost too much

EXPERIMENTS = {
    "tuning": "every method at every point of the grid, examined on validation scenes",
    "main": "every method at its best point, examined on test scenes by VLMEvalKit",
    "ablation": "Uni-DPO without one of its terms",
    "published": "the same with the published beta",
    "when": "noise in scores and labels, easy pairs, other scales",
    "labels": "w_qual where scores know better than labels",
    "sweep": "one hyper-parameter of Uni-DPO at a time",
    "course": "four epochs, examined after each",
}


@dataclass(frozen=True)
class Size:
    """How large a study is.

    Attributes:
        sft_rows: conversations that each seed's start checkpoint learns from.
        questions: questions whose sampled answers become pairs.
        val_questions: the same, for pairs of validation scenes.
        exam: questions of each of eight kinds in our own exam.
        rows: questions of each of VLMEvalKit's four benchmarks.
    """

    sft_rows: int
    questions: int
    val_questions: int
    exam: int
    rows: int


SIZES = {"demo": Size(1600, 1200, 160, 40, 200), "test": Size(16, 48, 16, 1, 12)}


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        seed: which start checkpoint, pairs and test questions.
        condition: a key of `CONDITIONS`.
        options: LlamaFactory's options, as sorted items; empty for the start checkpoint itself.
        measure: "val" (validation scenes), "test" (test scenes), or "course" (validation scenes after each epoch).
    """

    seed: int
    condition: str
    options: tuple[tuple[str, object], ...]
    measure: str

    @property
    def key(self) -> str:
        """A name for files."""
        told = json.dumps([self.seed, self.condition, self.options, self.measure])
        return f"{self.measure}-s{self.seed}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def cell(seed: int, options: Options, measure: str = "test", condition: str = "base") -> Cell:
    """Make a cell."""
    return Cell(seed, condition, tuple(sorted(options.items())), measure)


def tuning(methods: Iterable[str], seeds: Sequence[int]) -> dict[tuple[str, int], list[Cell]]:
    """For each method and number of a grid point, the cells of the seeds that tune."""
    return {
        (method, number): [cell(seed, options, "val") for seed in seeds[:TUNING_SEEDS]]
        for method in methods
        for number, options in enumerate(grid(method))
    }


def main(tuned: Mapping[str, Options], seeds: Sequence[int]) -> dict[str, list[Cell]]:
    """The start and every tuned method, over all seeds."""
    return {name: [cell(seed, options) for seed in seeds] for name, options in {"start": {}, **tuned}.items()}


def ablation(tuned: Mapping[str, Options], seeds: Sequence[int]) -> dict[str, list[Cell]]:
    """Tuned Uni-DPO without each of its parts."""
    return {name: [cell(seed, ablated(tuned["uni_dpo"], name)) for seed in seeds] for name in ABLATIONS}


def published(tuned: Mapping[str, Options], seeds: Sequence[int]) -> dict[str, list[Cell]]:
    """Uni-DPO with the published beta, whole and without each of its parts."""
    full = as_published(tuned["uni_dpo"])
    variants = {"full": full, **{name: ablated(full, name) for name in ABLATED_AS_PUBLISHED}}
    return {name: [cell(seed, options) for seed in seeds] for name, options in variants.items()}


def sweep(tuned: Mapping[str, Options], seeds: Sequence[int]) -> dict[tuple[str, float], list[Cell]]:
    """Uni-DPO with one option changed; thresholds are swept where the NLL term is strong enough to show."""
    uni_dpo = tuned["uni_dpo"]
    points = {
        (name, value): {**uni_dpo, name: value}
        for name, values in SWEEPS.items()
        for value in (*values, uni_dpo[name])
    }
    strong = {**uni_dpo, "uni_dpo_nll_lambda": TAU_GOOD_LAMBDA}
    points |= {("uni_dpo_tau_good", value): {**strong, "uni_dpo_tau_good": value} for value in TAU_GOOD}
    return {point: [cell(seed, options) for seed in seeds[:SWEEP_SEEDS]] for point, options in sorted(points.items())}


def when(tuned: Mapping[str, Options], seeds: Sequence[int]) -> dict[tuple[str, str], list[Cell]]:
    """Conditions by method; a method that sees no scores is run once for all conditions that differ in scores only."""
    table = {}
    for name in CONDITIONS:
        for method in COMPARED:
            if method not in tuned:
                continue
            seen = name if method == "uni_dpo" else _without_scores(name)
            table[name, method] = [cell(seed, tuned[method], condition=seen) for seed in seeds]
    return table


def labels(tuned: Mapping[str, Options], seeds: Sequence[int]) -> dict[float, list[Cell]]:
    """Steeper and no quality weights where many labels are wrong and scores are right."""
    etas = {eta: {**tuned["uni_dpo"], "uni_dpo_qual_eta": eta} for eta in ETAS_AGAINST_LABELS}
    etas[tuned["uni_dpo"]["uni_dpo_qual_eta"]] = tuned["uni_dpo"]
    return {
        eta: [cell(seed, options, condition=AGAINST_LABELS) for seed in seeds] for eta, options in sorted(etas.items())
    }


def _without_scores(name: str) -> str:
    """The first condition that differs from this one in scores only."""
    noise, easy = CONDITIONS[name].noise, CONDITIONS[name].easy
    return next(other for other, it in CONDITIONS.items() if (it.noise, it.easy) == (noise, easy))


def course(tuned: Mapping[str, Options], seeds: Sequence[int]) -> dict[str, list[Cell]]:
    """Longer runs of DPO, of Uni-DPO, and of Uni-DPO with the published beta, with and without w_perf."""
    variants = {name: tuned[name] for name in COMPARED if name in tuned}
    full = as_published(tuned["uni_dpo"])
    variants |= {"beta 2": full, "beta 2, no w_perf": ablated(full, "no w_perf")}
    return {
        name: [cell(seed, {**options, "num_train_epochs": COURSE_EPOCHS}, "course") for seed in seeds[:COURSE_SEEDS]]
        for name, options in variants.items()
    }


AFTER_TUNING = {
    "main": main,
    "ablation": ablation,
    "published": published,
    "when": when,
    "labels": labels,
    "sweep": sweep,
    "course": course,
}


def check_names(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Refuse what there is none of.

    Raises:
        ToolError: a name is unknown.
    """
    if unknown := sorted(set(given) - set(known)):
        raise ToolError(f"there is no {what} {', '.join(unknown)}; choose from {', '.join(known)}")
