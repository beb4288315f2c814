"""Preference pairs: answers sampled from a model, scored by the rule, labelled by a judge who is not perfect.

Three sources of noise, each with one setting: a judge's scores scatter (`score_std`), some pairs are made of answers
that are about equally good (`ambiguous`), and some labels are simply the wrong way round (`mislabelled`).
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .questions import KINDS, Question, ask
from .rule import judge
from .writers import save_image, scenes, write_dataset


if TYPE_CHECKING:  # torch and transformers take seconds to import
    from .generate import Answerer


AMBIGUOUS_MARGIN = 2.0
COLUMNS = ("chosen", "rejected", "images", "score_chosen", "score_rejected")
ENTRY = {
    "formatting": "alpaca",
    "ranking": True,
    "columns": {"prompt": "instruction", "query": "input"} | {name: name for name in COLUMNS},
}


@dataclass(frozen=True)
class Noise:
    """Settings of the judge.

    Attributes:
        score_std: standard deviation of the error of a score, in points of the 0 to 10 scale.
        ambiguous: share of questions for which the two answers closest in score are compared, not best and worst.
        mislabelled: share of pairs whose two scores are exchanged.
    """

    score_std: float = 0.5
    ambiguous: float = 0.2
    mislabelled: float = 0.08

    def __post_init__(self):
        """Check the ranges (ValueError: a negative deviation, or a share outside 0 to 1)."""
        if self.score_std < 0:
            raise ValueError(f"score_std is a standard deviation, it cannot be {self.score_std}.")
        for name in ("ambiguous", "mislabelled"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share, 0 to 1, not {getattr(self, name)}.")


@dataclass(frozen=True)
class Pair:
    """Two answers as the judge labelled them.

    `score_*` are what a data set holds, `true_*` what the rule said. `label` is "mislabelled" if the rule prefers the
    rejected answer, else "ambiguous" below a true margin of `AMBIGUOUS_MARGIN`, else "clear".
    """

    chosen: str
    rejected: str
    score_chosen: float
    score_rejected: float
    true_chosen: float
    true_rejected: float

    @property
    def label(self) -> str:
        """What kind of pair this turned out to be."""
        margin = self.true_chosen - self.true_rejected
        return "mislabelled" if margin < 0 else "ambiguous" if margin < AMBIGUOUS_MARGIN else "clear"


@dataclass(frozen=True)
class Candidates:
    """Answers sampled to one question.

    Attributes:
        question: what was asked.
        index: the number of its scene.
        path: its picture, relative to the data set's folder.
        texts: the answers as they came, doubles and empty ones included.
    """

    question: Question
    index: int
    path: str
    texts: tuple[str, ...]

    def row(self, noise: Noise, rng: random.Random) -> dict | None:
        """The pair that a judge makes of the answers, as a row of a data set; None if there is no pair to be made.

        The last four columns are for looking at, training ignores them.
        """
        distinct = [text for text in sorted(set(self.texts)) if text.strip()]
        pair = make_pair([(text, judge(self.question, text).score) for text in distinct], noise, rng)
        if pair is None:
            return None
        values = asdict(pair)
        true = {name: values.pop(name) for name in ("true_chosen", "true_rejected")}
        row = {"instruction": "<image>" + self.question.text, "input": "", **values, "images": [self.path]}
        return {**row, "kind": self.question.kind, "label": pair.label, **true}


def make_pair(scored: Sequence[tuple[str, float]], noise: Noise, rng: random.Random) -> Pair | None:
    """Choose two answers and label them.

    Args:
        scored: distinct answers to one question with the rule's score.
        noise: the judge.
        rng: its randomness; always the same number of draws, so that pairs do not depend on one another.

    Returns:
        The pair, or None when there are not two answers, or when best and worst are wanted and all score the same.
    """
    rolls = rng.random(), rng.random(), rng.gauss(0, 1), rng.gauss(0, 1)
    ranked = sorted(scored, key=lambda item: (-item[1], item[0]))
    if len(ranked) < 2:
        return None
    if rolls[0] < noise.ambiguous:
        two = min(zip(ranked, ranked[1:], strict=False), key=lambda pair: pair[0][1] - pair[1][1])
    else:
        two = ranked[0], ranked[-1]
        if two[0][1] == two[1][1]:
            return None
    noisy = [score + noise.score_std * error for (_, score), error in zip(two, rolls[2:], strict=True)]
    seen = [min(10.0, max(0.0, score)) for score in noisy]
    if rolls[1] < noise.mislabelled:
        seen.reverse()
    first, second = sorted(zip(seen, two, strict=True), key=lambda item: -item[0])
    return Pair(first[1][0], second[1][0], round(first[0], 2), round(second[0], 2), first[1][1], second[1][1])


def prompts(split: str, count: int, seed: int) -> list[tuple[Question, int]]:
    """`count` questions with the number of their scene, one a scene, kinds as equal as the scenes allow."""
    asked = dict.fromkeys(KINDS, 0)
    chosen = []
    for index, (scene, rng) in enumerate(scenes(split, count, seed, "pairs")):
        questions = ask(scene, rng)
        kind = min({question.kind: None for question in questions}, key=asked.get)
        asked[kind] += 1
        chosen.append((rng.choice([question for question in questions if question.kind == kind]), index))
    return chosen


def sample_candidates(
    answerer: "Answerer", folder: Path, split: str, count: int, samples: int, temperature: float, seed: int
) -> list[Candidates]:
    """Draw the pictures of `count` questions into `folder` and sample answers with torch's global generator."""
    asked, items, paths = prompts(split, count, seed), [], []
    for question, index in asked:
        rng = random.Random(f"picture {split} {seed} {index}")
        image, path = save_image(folder, f"{split}_{index:05d}", question.scene, rng)
        items.append((question.text, image))
        paths.append(path)
    answers = answerer.answers(items, samples, temperature)
    return [
        Candidates(question, index, path, tuple(texts))
        for (question, index), path, texts in zip(asked, paths, answers, strict=True)
    ]


def write_sampled_pairs(
    model: Path, folder: Path, train: int, val: int, samples: int, temperature: float, noise: Noise, seed: int
) -> dict[str, list[dict]]:
    """Sample answers and write the data sets `demo_pairs` (training scenes) and `demo_pairs_val` (validation scenes).

    Args:
        model: the checkpoint that answers, best the one to be trained: pairs of its own answers teach it most.
        folder: gets the data sets, their images and dataset_info.json.
        train: how many questions about training scenes; fewer pairs come of it where all answers are alike.
        val: the same for validation scenes.
        samples: answers sampled for each question.
        temperature: of the sampling.
        noise: the judge.
        seed: of scenes, sampling and judge.

    Returns:
        The rows of each data set.
    """
    import torch

    from .generate import Answerer

    torch.manual_seed(seed)
    answerer = Answerer(model)
    datasets = {}
    for name, split, count in (("demo_pairs", "train", train), ("demo_pairs_val", "val", val)):
        candidates = sample_candidates(answerer, folder, split, count, samples, temperature, seed)
        rows = [it.row(noise, random.Random(f"judge {split} {seed} {it.index}")) for it in candidates]
        datasets[name] = [row for row in rows if row is not None]
    write_pairs(folder, datasets)
    return datasets


def write_pairs(folder: Path, datasets: dict[str, list[dict]]) -> None:
    """Write preference data sets, name to rows, side by side."""
    write_dataset(folder, {name: (rows, ENTRY) for name, rows in datasets.items()})
