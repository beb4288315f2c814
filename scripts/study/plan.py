"""Which cells the study is made of. A cell is one training run with one measurement; an experiment is a list of them.

Cells are named by what they do, so the same run in two experiments is done once, and a plan that changes leaves the
results of unchanged cells valid.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common import ToolError

from .conditions import CONDITIONS, SCORE_ERRORS, SINGLE, WRONG_LABELS, surface_name
from .methods import (
    ABLATED_AS_PUBLISHED,
    ABLATIONS,
    ETAS_AGAINST_LABELS,
    PUBLISHED_BETA,
    SEE_SCORES,
    SWEEPS,
    TAU_GOOD,
    TAU_GOOD_LAMBDA,
    Options,
    ablated,
    grid,
    told,
    wider,
)


COURSE_EPOCHS = 4
AGAINST_LABELS = "labels 35 %, scores true"
MOST_SCATTER = (
    "labels 20 %",
    "labels 35 %",
    AGAINST_LABELS,
    "labels 35 %, scores of a model",
    "easy 50 %",
    "easy 80 %",
)
COMPARED = ("dpo", "ln_dpo", "uni_dpo")  # where the whole list would cost too much
# What Uni-DPO is compared with in every condition.
RIVALS = ("w_qual", "mm_dpo", "filtered", "odpo", "rpo", "robust_dpo", "wpo", "anchor", "mpo")
ON_SURFACE = ("dpo", "uni_dpo", "filtered", "odpo", "rpo", "robust_dpo")

Tuned = Mapping[str, Options]
Variants = dict[Any, Options | tuple[Options, str]]


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
        measure: "val" (validation scenes), "test" (test scenes), "course" (validation scenes after each epoch), or
            "data" (how good labels and scores of the pairs are; nothing is trained).
    """

    seed: int
    condition: str
    options: tuple[tuple[str, object], ...]
    measure: str

    @property
    def key(self) -> str:
        """A name for files."""
        content = json.dumps([self.seed, self.condition, self.options, self.measure])
        return f"{self.measure}-s{self.seed}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Experiment:
    """A list of cells.

    Attributes:
        about: what it asks, for `--list`.
        variants: from the tuned methods to what is compared: options, or options and a condition other than "base".
        measure: of its cells.
        seeds: how many seeds at most.
    """

    about: str
    variants: Callable[[Tuned], Variants]
    measure: str = "test"
    seeds: int | None = None


def cell(seed: int, options: Options, measure: str = "test", condition: str = "base") -> Cell:
    """Make a cell."""
    return Cell(seed, condition, tuple(sorted(options.items())), measure)


def cells_of(experiment: str, tuned: Tuned, seeds: Sequence[int]) -> dict[Any, list[Cell]]:
    """The cells of an experiment, one a seed, by variant. Of "tuning" only the names of methods are asked for."""
    it, table = EXPERIMENTS[experiment], {}
    for name, variant in it.variants(tuned).items():
        options, condition = variant if isinstance(variant, tuple) else (variant, "base")
        table[name] = [cell(seed, options, it.measure, condition) for seed in seeds[: it.seeds]]
    return table


def _tuning(methods: Iterable[str]) -> Variants:
    return {(method, number): options for method in methods for number, options in enumerate(grid(method))}


def _main(tuned: Tuned) -> Variants:
    return {"start": {}, **tuned}


def _ablation(tuned: Tuned) -> Variants:
    return {name: ablated(tuned["uni_dpo"], name) for name in ABLATIONS}


def _published(tuned: Tuned) -> Variants:
    full = {**tuned["uni_dpo"], "pref_beta": PUBLISHED_BETA}
    return {"full": full, **{name: ablated(full, name) for name in ABLATED_AS_PUBLISHED}}


def _wider(tuned: Tuned) -> Variants:
    return {(name, number): it for name, best in tuned.items() for number, it in enumerate(wider(name, best))}


def _under(names: Iterable[str], methods: Iterable[str], tuned: Tuned) -> Variants:
    """Conditions by method; a method that sees no scores is run once for all conditions that differ in scores only."""

    def without_scores(name: str) -> str:
        noise, easy = CONDITIONS[name].noise, CONDITIONS[name].easy
        return next(other for other, it in CONDITIONS.items() if (it.noise, it.easy) == (noise, easy))

    return {
        (name, method): (
            told(tuned[method], CONDITIONS[name].noise.mislabelled),
            name if method in SEE_SCORES else without_scores(name),
        )
        for name in names
        for method in methods
        if method in tuned
    }


def _when(tuned: Tuned) -> Variants:
    return _under(SINGLE, COMPARED, tuned)


def _rivals(tuned: Tuned) -> Variants:
    return _under(SINGLE, ("dpo", "uni_dpo", *RIVALS), tuned)


def _more(tuned: Tuned) -> Variants:
    return _under(MOST_SCATTER, ("dpo", "uni_dpo", *RIVALS), tuned)


def _surface(tuned: Tuned) -> Variants:
    names = [surface_name(wrong, error) for wrong in WRONG_LABELS for error in SCORE_ERRORS]
    return _under(names, ON_SURFACE, tuned)


def _data(tuned: Tuned) -> Variants:
    return {name: ({}, name) for name in CONDITIONS}


def _labels(tuned: Tuned) -> Variants:
    """Steeper and no quality weights where many labels are wrong and scores are right."""
    uni_dpo = tuned["uni_dpo"]
    etas = sorted({*ETAS_AGAINST_LABELS, uni_dpo["uni_dpo_qual_eta"]})
    return {eta: ({**uni_dpo, "uni_dpo_qual_eta": eta}, AGAINST_LABELS) for eta in etas}


def _sweep(tuned: Tuned) -> Variants:
    """Uni-DPO with one option changed; thresholds are swept where the NLL term is strong enough to show."""
    uni_dpo = tuned["uni_dpo"]
    points = {
        (name, value): {**uni_dpo, name: value}
        for name, values in SWEEPS.items()
        for value in (*values, uni_dpo[name])
    }
    strong = {**uni_dpo, "uni_dpo_nll_lambda": TAU_GOOD_LAMBDA}
    points |= {("uni_dpo_tau_good", value): {**strong, "uni_dpo_tau_good": value} for value in TAU_GOOD}
    return {point: points[point] for point in sorted(points)}


def _course(tuned: Tuned) -> Variants:
    """Longer runs of DPO, of Uni-DPO, and of Uni-DPO with the published beta, with and without w_perf."""
    full = {**tuned["uni_dpo"], "pref_beta": PUBLISHED_BETA}
    variants = {name: tuned[name] for name in COMPARED if name in tuned}
    variants |= {"beta 2": full, "beta 2, no w_perf": ablated(full, "no w_perf")}
    return {name: {**options, "num_train_epochs": COURSE_EPOCHS} for name, options in variants.items()}


EXPERIMENTS = {
    "tuning": Experiment(
        "every method at every point of the grid, examined on validation scenes", _tuning, "val", seeds=2
    ),
    "wider": Experiment("beyond the edges of the grid, where a method was best there", _wider, "val", seeds=2),
    "main": Experiment("every method at its best point, examined on test scenes by VLMEvalKit", _main),
    "ablation": Experiment("Uni-DPO without one of its terms", _ablation),
    "published": Experiment("the same with the published beta", _published),
    "when": Experiment("noise in scores and labels, easy pairs, other scales", _when),
    "data": Experiment("how good the labels and the scores of every condition are", _data, "data"),
    "rivals": Experiment("the same for simpler losses and other cures", _rivals),
    "more": Experiment(
        "those with many wrong labels or easy pairs, for more seeds: they differ and scatter most", _more
    ),
    "surface": Experiment("wrong labels by errors of scores: where scores start to pay", _surface),
    "labels": Experiment("w_qual where scores know better than labels", _labels),
    "sweep": Experiment("one hyper-parameter of Uni-DPO at a time", _sweep, seeds=3),
    "course": Experiment("four epochs, examined after each", _course, "course", seeds=3),
}


def check_names(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Refuse what there is none of (ToolError: a name is unknown)."""
    if unknown := sorted(set(given) - set(known)):
        raise ToolError(f"there is no {what} {', '.join(unknown)}; choose from {', '.join(known)}")
