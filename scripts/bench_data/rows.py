"""Rows with the columns, sizes and scores of the published data, and raw answers as MM-RLHF ranks them.

Everything follows from a seed and the row's number. Text is cut from one long made-up text, so that half a million
rows take seconds; nothing is learned from it.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


PUBLISHED_ROWS = 50_555
PAIRS_PER_IMAGE = 3
ELSEWHERE = "/mnt/store/someone/data/MM-RLHF"  # where the images of published rows are: nobody's machine
WORDS = (
    "the image shows a red bus near an old bridge while three people wait under green trees and one of them reads "
    "numbers from a chart whose bars grow from left to right so the answer is forty two metres since no label says so"
).split()


@dataclass(frozen=True)
class Subset:
    """A part of the data: its share of all rows, and how its answers and scores differ from those of the others.

    `letters` is the median length of an answer, `spread` the standard deviation of the logarithm of lengths, `score`
    the mean score of a chosen answer; `source` begins the names of images.
    """

    name: str
    share: float
    letters: float
    spread: float
    score: float
    source: str


SUBSETS = (
    Subset("long", 0.55, 850, 0.55, 2.9, "llava_wild"),
    Subset("short", 0.27, 130, 0.8, 2.2, "ai2d_azuregpt"),
    Subset("mcq", 0.18, 24, 1.1, 1.6, "scienceqa"),
)


def pairs(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield rows as published: instruction, chosen, rejected, two scores, and the path of an image.

    Scores are like a reward model's: normal, a little higher for longer answers; one pair in eleven is reversed.
    """
    rng, text = random.Random(seed), _long_text(seed)
    for row in range(count):
        subset = subset_of(row)
        lengths = [_length(rng, subset) for _ in range(2)]
        score = rng.gauss(subset.score, 1.1)
        margin = 1.6 * rng.gauss(1, 0.75) + 0.1 * (lengths[0] - lengths[1]) / subset.letters
        chosen, rejected = (_cut(rng, text, length) for length in lengths)
        yield {
            "instruction": f"<image>{_cut(rng, text, 120).capitalize()}, {row}?",
            "chosen": chosen,
            "rejected": rejected if rejected != chosen else f"not {chosen}",
            "score_chosen": round(score, 6),
            "score_rejected": round(score - margin, 6),
            "images": [f"{ELSEWHERE}/{image_name(row // PAIRS_PER_IMAGE)}"],
        }


def questions(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield questions in the way of MM-RLHF's data.jsonl: four answers, each with a model, a score and a rank.

    How data.jsonl itself names its columns is not known to us; these names `data.py convert` recognises.
    Answers stand in no order; scores are from 1 to 10, rank 1 is the best, and answers with one score share a rank.
    """
    rng, text = random.Random(seed), _long_text(seed)
    for row in range(count):
        subset = subset_of(row)
        scores = [rng.randint(1, 10) for _ in range(4)]
        question = f"{_cut(rng, text, 120).capitalize()}, {row}?"
        answers = [
            {
                "answer": _cut(rng, text, _length(rng, subset)),
                "model": f"model-{number}",
                "score": score,
                "rank": 1 + sum(other > score for other in scores),
                "reason": _cut(rng, text, 80),
            }
            for number, score in enumerate(scores)
        ]
        yield {"id": row, "image": image_name(row), "question": question, "answers": answers}


def subset_of(row: int) -> Subset:
    """Return the part a row belongs to; parts are spread evenly over the rows."""
    at = (row // PAIRS_PER_IMAGE * 0.6180339887498949) % 1  # the golden ratio spreads whatever the count
    for subset in SUBSETS[:-1]:
        at -= subset.share
        if at < 0:
            return subset
    return SUBSETS[-1]


def image_name(number: int) -> str:
    """Return the path of an image below MM-RLHF."""
    subset = subset_of(number * PAIRS_PER_IMAGE)
    return f"{subset.name}/{subset.source}_{number}.png"


def image_names(rows: int) -> Iterator[str]:
    """Yield the paths of the images of so many `pairs`, below MM-RLHF, each once."""
    return (image_name(number) for number in range(-(-rows // PAIRS_PER_IMAGE)))


def _long_text(seed: int) -> str:
    return " ".join(random.Random(f"text {seed}").choices(WORDS, k=100_000))


def _length(rng: random.Random, subset: Subset) -> int:
    return min(6000, max(1, round(subset.letters * rng.lognormvariate(0, subset.spread))))


def _cut(rng: random.Random, text: str, length: int) -> str:
    start = rng.randrange(len(text) - length)
    return text[start : start + length].strip() or "A"
