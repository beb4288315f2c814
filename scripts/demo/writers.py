"""Data sets in LlamaFactory's formats, each in one folder with its images and its dataset_info.json."""

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from .noise import Pair
from .questions import Question, ask
from .scene import Scene, draw, sample_scene


Turns = Callable[[Scene, random.Random], list[Question]]
Annotator = Callable[[Question, random.Random], str]
PAIR_COLUMNS = {
    "prompt": "instruction",
    "query": "input",
    "chosen": "chosen",
    "rejected": "rejected",
    "images": "images",
    "score_chosen": "score_chosen",
    "score_rejected": "score_rejected",
}
SFT_ENTRY = {
    "formatting": "sharegpt",
    "columns": {"messages": "messages", "images": "images"},
    "tags": {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
    },
}


def scenes(split: str, count: int, seed: int, name: str) -> Iterator[tuple[Scene, random.Random]]:
    """Yield `count` scenes of a split, each with its own generator for everything done with it.

    Scene i depends on split, seed, name and i only: a longer list begins with the shorter one. Lists with different
    names are independent, so that preference pairs do not reuse the pictures of the supervised data.
    """
    for index in range(count):
        rng = random.Random(f"{name} {split} {seed} {index}")
        yield sample_scene(rng, split), rng


def conversation(scene: Scene, rng: random.Random) -> list[Question]:
    """Questions about one picture, for one multi-turn row.

    Several turns a picture teach several answers for one pass over the image. A description comes last, or alone:
    the questions after it could be answered from its text without looking.
    """
    *questions, description = {question.text: question for question in ask(scene, rng)}.values()
    rng.shuffle(questions)
    return rng.choices(([description], questions, [*questions, description]), weights=(1, 8, 2))[0]


def caption(scene: Scene, rng: random.Random) -> list[Question]:
    """Only the description, which names everything there is and where: the quickest way to learn to see."""
    return [ask(scene, rng)[-1]]


def write_sft(folder: Path, name: str, count: int, seed: int, turns: Turns, annotator: Annotator) -> None:
    """Write `count` rows about training scenes as the data set `name`: `turns` asks, `annotator` answers."""
    rows = []
    for index, (scene, rng) in enumerate(tqdm(scenes("train", count, seed, name), name, count, unit="img")):
        _, path = save_image(folder, f"{index:06d}", scene, rng)
        messages = []
        for question in turns(scene, rng):
            tag = "" if messages else "<image>"
            messages.append({"role": "user", "content": tag + question.text})
            messages.append({"role": "assistant", "content": annotator(question, rng)})
        rows.append({"messages": messages, "images": [path]})
    write_dataset(folder, {name: (rows, SFT_ENTRY)})


def pair_row(question: Question, pair: Pair, image: str) -> dict:
    """One row of a preference data set; the last four columns are for looking at, training ignores them."""
    return {
        "instruction": "<image>" + question.text,
        "input": "",
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "score_chosen": pair.score_chosen,
        "score_rejected": pair.score_rejected,
        "images": [image],
        "kind": question.kind,
        "label": pair.label,
        "true_chosen": pair.true_chosen,
        "true_rejected": pair.true_rejected,
    }


def write_pairs(folder: Path, datasets: dict[str, list[dict]]) -> None:
    """Write preference data sets, name to rows, side by side."""
    entry = {"formatting": "alpaca", "ranking": True, "columns": PAIR_COLUMNS}
    write_dataset(folder, {name: (rows, entry) for name, rows in datasets.items()})


def save_image(folder: Path, name: str, scene: Scene, rng: random.Random) -> tuple[Image.Image, str]:
    """Draw a scene as images/NAME.png and return the image and that path, which is relative to the folder."""
    path = folder / "images" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    image = draw(scene, rng)
    image.save(path)
    return image, f"images/{name}.png"


def write_dataset(folder: Path, datasets: dict[str, tuple[list[dict], dict]]) -> None:
    """Write rows as NAME.json and, last, the dataset_info.json that names them."""
    for name, (rows, _) in datasets.items():
        write_whole(folder / f"{name}.json", lambda file, rows=rows: json.dump(rows, file, indent=1))
    info = {name: {"file_name": f"{name}.json", **entry} for name, (_, entry) in datasets.items()}
    write_whole(folder / "dataset_info.json", lambda file: json.dump(info, file, indent=2))


def write_whole(path: Path, write: Callable) -> None:
    """Write a text file so that it is there entirely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        write(file)
    os.replace(part, path)
