"""Preference pairs: answers sampled from a model, scored by the rule, labelled by an imperfect judge."""

import random
from dataclasses import dataclass
from pathlib import Path

import torch

from .generate import Answerer
from .noise import Noise, make_pair
from .questions import KINDS, Question, ask
from .rule import judge
from .writers import pair_row, save_image, scenes, write_pairs


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

    def scored(self) -> list[tuple[str, float]]:
        """The distinct answers with the rule's score."""
        return [(text, judge(self.question, text).score) for text in sorted(set(self.texts)) if text.strip()]


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


def write_sampled_pairs(
    model_dir: Path, folder: Path, train: int, val: int, samples: int, temperature: float, noise: Noise, seed: int
) -> dict[str, int]:
    """Sample answers and write the data sets `demo_pairs` (training scenes) and `demo_pairs_val` (validation scenes).

    Args:
        model_dir: the model that answers, best the one to be trained: pairs of its own answers teach it most.
        folder: gets the data sets, their images and dataset_info.json.
        train: how many questions about training scenes; fewer pairs come of it where all answers are alike.
        val: the same for validation scenes.
        samples: answers sampled for each question.
        temperature: of the sampling.
        noise: the judge.
        seed: of scenes, sampling and judge.

    Returns:
        How many pairs each data set holds.
    """
    torch.manual_seed(seed)
    answerer = Answerer(model_dir)
    datasets = {}
    for name, split, count in (("demo_pairs", "train", train), ("demo_pairs_val", "val", val)):
        candidates = sample_candidates(answerer, folder, split, count, samples, temperature, seed)
        rows = []
        for candidate in candidates:
            rng = random.Random(f"judge {split} {seed} {candidate.index}")
            pair = make_pair(candidate.scored(), noise, rng)
            if pair is not None:
                rows.append(pair_row(candidate.question, pair, candidate.path))
        datasets[name] = rows
    write_pairs(folder, datasets)
    return {name: len(rows) for name, rows in datasets.items()}


def sample_candidates(
    answerer: Answerer, folder: Path, split: str, count: int, samples: int, temperature: float, seed: int
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
