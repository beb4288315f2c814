"""What is done to the preference data of a seed, to see when a method helps.

All conditions of a seed come from the same sampled answers, judged with the same random numbers, so two conditions
differ only where their names say so. One side effect: a pair that is made easy has its label right, unless its chosen
answer is worth nothing, so easy pairs also thin out the wrong labels.
"""

import random
from dataclasses import dataclass, field

from demo.pairs import Candidates, Noise
from demo.rule import judge


@dataclass(frozen=True)
class Condition:
    """One way to judge the sampled answers.

    Attributes:
        noise: the judge who makes and labels the pairs; his scores and labels go together.
        scores: the scores that training sees, labels left alone: "judge", "true" (the rule's own), "scattered" (the
            rule's, with an error of 3 points of 10), "shuffled" (those of a pair drawn at random, with replacement: no
            information).
        easy: share of pairs whose rejected answer is replaced by an answer to another kind of question.
        scale: factor of all scores.
    """

    noise: Noise = field(default_factory=Noise)
    scores: str = "judge"
    easy: float = 0.0
    scale: float = 1.0


CONDITIONS: dict[str, Condition] = {
    "base": Condition(),
    "scores true": Condition(scores="true"),
    "scores scattered": Condition(scores="scattered"),
    "scores shuffled": Condition(scores="shuffled"),
    "labels 0 %": Condition(Noise(mislabelled=0.0)),
    "labels 20 %": Condition(Noise(mislabelled=0.2)),
    "labels 35 %": Condition(Noise(mislabelled=0.35)),
    "labels 35 %, scores true": Condition(Noise(mislabelled=0.35), scores="true"),
    "easy 50 %": Condition(easy=0.5),
    "easy 80 %": Condition(easy=0.8),
    "scores x 10": Condition(scale=10.0),
    "scores / 10": Condition(scale=0.1),
}
SCATTER = 3.0


def dataset_name(condition: str) -> str:
    """A condition's data set: "labels 35 %, scores true" is `study_labels_35_scores_true`."""
    words = "".join(letter if letter.isalnum() else " " for letter in condition.replace("/", " by "))
    return "_".join(["study", *words.split()])


def rows_of(condition: Condition, candidates: list[Candidates], key: str) -> list[dict]:
    """The preference pairs that a condition makes of sampled answers; `key` is the seed of the judge."""
    rows = []
    for number, candidate in enumerate(candidates):
        rng = random.Random(f"judge {key} {candidate.index}")
        row = candidate.row(condition.noise, rng)
        if row is not None:
            rows.append(_made_easy(row, number, candidates, condition.easy, rng))
    return [_rescored(row, rows, number, condition, key) for number, row in enumerate(rows)]


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


def _rescored(row: dict, rows: list[dict], number: int, condition: Condition, key: str) -> dict:
    rng = random.Random(f"scores {key} {number}")
    chosen, rejected = row["score_chosen"], row["score_rejected"]
    if condition.scores == "shuffled":
        other = rng.choice(rows)
        chosen, rejected = other["score_chosen"], other["score_rejected"]
    elif condition.scores in ("true", "scattered"):
        chosen, rejected = row["true_chosen"], row["true_rejected"]
        if condition.scores == "scattered":
            chosen, rejected = chosen + rng.gauss(0, SCATTER), rejected + rng.gauss(0, SCATTER)
    chosen, rejected = (round(score * condition.scale, 4) for score in (chosen, rejected))
    return {**row, "score_chosen": chosen, "score_rejected": rejected}
