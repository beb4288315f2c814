"""Scenes in an order of their own, and data sets in LlamaFactory's formats, each in one folder with its images."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from common import write_text

from .questions import Question, ask
from .scene import Scene, draw, sample_scene


Turns = Callable[[Scene, random.Random], list[Question]]
Annotator = Callable[[Question, random.Random], str]
SFT_ENTRY = {
    "formatting": "sharegpt",
    "columns": {"messages": "messages", "images": "images"},
    "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
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


def save_image(folder: Path, name: str, scene: Scene, rng: random.Random) -> tuple[Image.Image, str]:
    """Draw a scene as images/NAME.png and return the image and that path, which is relative to the folder."""
    path = folder / "images" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    image = draw(scene, rng)
    image.save(path)
    return image, f"images/{name}.png"


def write_dataset(folder: Path, datasets: dict[str, tuple[list[dict], dict]]) -> None:
    """Write rows as NAME.json and, last, the dataset_info.json that describes them."""
    for name, (rows, _) in datasets.items():
        write_text(folder / f"{name}.json", json.dumps(rows, indent=1))
    info = {name: {"file_name": f"{name}.json", **entry} for name, (_, entry) in datasets.items()}
    write_text(folder / "dataset_info.json", json.dumps(info, indent=2))
