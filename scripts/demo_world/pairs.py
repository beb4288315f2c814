"""Preference pairs: answers sampled from a model, scored by the rule, labelled by an imperfect judge."""

import random
from pathlib import Path

import torch

from .generate import Answerer
from .noise import Noise, make_pair
from .questions import KINDS, Question, ask
from .rule import judge
from .writers import pair_row, save_image, scenes, write_pairs


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
        asked, items, paths = prompts(split, count, seed), [], []
        for question, index in asked:
            rng = random.Random(f"picture {split} {seed} {index}")
            image, path = save_image(folder, f"{split}_{index:05d}", question.scene, rng)
            items.append((question.text, image))
            paths.append(path)
        candidates = answerer.answers(items, samples, temperature)
        rows = []
        for (question, index), path, texts in zip(asked, paths, candidates, strict=True):
            scored = [(text, judge(question, text).score) for text in sorted(set(texts)) if text.strip()]
            pair = make_pair(scored, noise, random.Random(f"judge {split} {seed} {index}"))
            if pair is not None:
                rows.append(pair_row(question, pair, path))
        datasets[name] = rows
    write_pairs(folder, datasets)
    return {name: len(rows) for name, rows in datasets.items()}
