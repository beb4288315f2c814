"""What is done to the preference data of a seed, to see when a method helps.

All conditions of a seed come from the same sampled answers, judged with the same random numbers, so two conditions
differ only where their names say so. One side effect: a pair that is made easy has its label right, unless its chosen
answer is worth nothing, so easy pairs also thin out the wrong labels.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from demo.pairs import Candidates, Noise
from demo.rule import judge


# What a model thinks of answers: by picture, question and answer.
ModelScores = Mapping[tuple[str, str, str], float]


@dataclass(frozen=True)
class Condition:
    """One way to judge the sampled answers.

    Attributes:
        noise: the judge who makes and labels the pairs; his scores and labels go together.
        scores: the scores that training sees, labels left alone: "judge", "true" (the rule's own), "shuffled" (those
            of a pair drawn at random, with replacement: no information), "model" (those of a reward model that was
            trained on pairs of other scenes).
        scatter: standard deviation of an error of "true" scores, in points of the 0 to 10 scale.
        easy: share of pairs whose rejected answer is replaced by an answer to another kind of question.
        scale: factor of all scores.
    """

    noise: Noise = field(default_factory=Noise)
    scores: str = "judge"
    scatter: float = 0.0
    easy: float = 0.0
    scale: float = 1.0


def surface_name(wrong: float, error: float) -> str:
    """The condition with a share of wrong labels and scores that are the rule's but for an error of so many points."""
    return f"labels {100 * wrong:g} %, scores " + (f"± {error:g}" if error else "true")


# Where scores start to pay: wrong labels by errors of scores, which share nothing.
WRONG_LABELS = (0.2, 0.35)
SCORE_ERRORS = (0.0, 3.0, 6.0, 12.0)
SURFACE = {
    surface_name(wrong, error): Condition(Noise(mislabelled=wrong), scores="true", scatter=error)
    for wrong in WRONG_LABELS
    for error in SCORE_ERRORS
}
CONDITIONS: dict[str, Condition] = {
    "base": Condition(),
    "scores true": Condition(scores="true"),
    "scores scattered": Condition(scores="true", scatter=3.0),
    "scores shuffled": Condition(scores="shuffled"),
    "scores of a model": Condition(scores="model"),
    "labels 0 %": Condition(Noise(mislabelled=0.0)),
    "labels 20 %": Condition(Noise(mislabelled=0.2)),
    "labels 35 %": Condition(Noise(mislabelled=0.35)),
    "labels 35 %, scores true": Condition(Noise(mislabelled=0.35), scores="true"),
    "labels 35 %, scores of a model": Condition(Noise(mislabelled=0.35), scores="model"),
    "easy 50 %": Condition(easy=0.5),
    "easy 80 %": Condition(easy=0.8),
    "scores x 10": Condition(scale=10.0),
    "scores / 10": Condition(scale=0.1),
}
# Those that are compared one by one; the surface has a table of its own.
SINGLE = tuple(CONDITIONS)
CONDITIONS |= SURFACE


def dataset_name(condition: str) -> str:
    """A condition's data set: "labels 35 %, scores true" is `study_labels_35_scores_true`."""
    words = "".join(letter if letter.isalnum() else " " for letter in condition.replace("/", " by "))
    return "_".join(["study", *words.split()])


def rows_of(
    condition: Condition, candidates: list[Candidates], key: str, model_scores: ModelScores | None = None
) -> list[dict]:
    """The preference pairs that a condition makes of sampled answers.

    The column `weight` is 0 where the scores prefer the rejected answer, else 1: pairs as filtered by scores.

    Args:
        condition: what to do.
        candidates: the answers.
        key: the seed of the judge.
        model_scores: for scores of a model.
    """
    rows = []
    for number, candidate in enumerate(candidates):
        rng = random.Random(f"judge {key} {candidate.index}")
        row = candidate.row(condition.noise, rng)
        if row is not None:
            rows.append(_made_easy(row, number, candidates, condition.easy, rng))
    scored = [_rescored(row, rows, number, condition, key, model_scores) for number, row in enumerate(rows)]
    return [row | {"weight": float(row["score_chosen"] >= row["score_rejected"])} for row in scored]


def asked_of_model(row: dict, side: str) -> tuple[str, str, str]:
    """The key in `ModelScores` of an answer of a row."""
    return row["images"][0], row["instruction"], row[side]


def quality_of(rows: list[dict]) -> dict[str, float]:
    """How good labels and scores are: shares of the pairs that the rule tells apart, and how many pairs there are.

    "labels": the chosen answer is the better one; "scores": the better one scores higher, a tie counting as half.
    """
    labels, scores = [], []
    for row in rows:
        true = row["true_chosen"] - row["true_rejected"]
        if true:
            seen = (row["score_chosen"] - row["score_rejected"]) * (1 if true > 0 else -1)
            labels.append(true > 0)
            scores.append(0.5 if seen == 0 else float(seen > 0))
    told = max(1, len(labels))
    return {"labels": round(sum(labels) / told, 4), "scores": round(sum(scores) / told, 4), "pairs": len(rows)}


def _made_easy(row: dict, number: int, candidates: list[Candidates], share: float, rng: random.Random) -> dict:
    """Perhaps replace the rejected answer by one that is beside the point, which any start model already avoids."""
    candidate, roll = candidates[number], rng.random()
    others = [other for other in candidates if other.question.kind != candidate.question.kind]
    text = rng.choice(rng.choice(others).texts)
    if roll >= share or text == row["chosen"]:
        return row
    score = judge(candidate.question, text).score
    changed = {"rejected": text, "score_rejected": round(score, 2), "true_rejected": score, "label": "easy"}
    return {**row, **changed}


def _rescored(
    row: dict, rows: list[dict], number: int, condition: Condition, key: str, model_scores: ModelScores | None
) -> dict:
    rng = random.Random(f"scores {key} {number}")
    chosen, rejected = row["score_chosen"], row["score_rejected"]
    if condition.scores == "shuffled":
        other = rng.choice(rows)
        chosen, rejected = other["score_chosen"], other["score_rejected"]
    elif condition.scores == "model":
        chosen, rejected = (model_scores[asked_of_model(row, side)] for side in ("chosen", "rejected"))
    elif condition.scores == "true":
        chosen, rejected = row["true_chosen"], row["true_rejected"]
        if condition.scatter:
            chosen, rejected = chosen + rng.gauss(0, condition.scatter), rejected + rng.gauss(0, condition.scatter)
    chosen, rejected = (round(score * condition.scale, 4) for score in (chosen, rejected))
    return {**row, "score_chosen": chosen, "score_rejected": rejected}
