"""The demo world as benchmarks for VLMEvalKit: four TSV files about held-out scenes, scored without judge or network.

`write_benchmarks` fills a folder that VLMEvalKit takes as its data (environment variable LMUData); `data_config` is
the "data" part of a config file for them. The names decide how VLMEvalKit asks and scores, so they cannot be chosen
freely: "openended" makes Qwen2-VL's own wording ask for short answers, "ChartQA" accepts heights that are off by 5 %.

| name | asks | VLMEvalKit's score |
| --- | --- | --- |
| DemoWorld_MCQ | colour, place, number, height, each with four options | share of right letters |
| DemoWorld_YesNo | what is there, which number it is, which bar is taller; half of the answers are yes | % right |
| DemoWorld_Short_openended | colour, count, place, number | % exactly right |
| DemoWorld_ChartQA_openended | heights of bars, the tallest bar | % right |
"""

import base64
import csv
import io
import random
import shutil
from collections import defaultdict
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from common import write_json, write_text

from .questions import LETTERS, SHORT_SUFFIX, YES_NO_SUFFIX, Question, ask
from .scene import Chart, Number, draw
from .writers import scenes


MCQ, YES_NO = "DemoWorld_MCQ", "DemoWorld_YesNo"
SHORT, CHART = "DemoWorld_Short_openended", "DemoWorld_ChartQA_openended"
# The class of `vlmeval.dataset` that asks and scores, and the groups that share the rows; `place_of` sorts questions.
BENCHMARKS = {
    MCQ: ("ImageMCQDataset", ("shapes", "number", "chart")),
    YES_NO: (
        "ImageYORNDataset",
        tuple(f"{family} {truth}" for family in ("shapes", "number", "chart") for truth in ("yes", "no")),
    ),
    SHORT: ("ImageVQADataset", ("colour", "count", "position", "number")),
    CHART: ("ImageVQADataset", ("height", "tallest")),
}


def write_benchmarks(out_dir: Path, rows: int = 200, seed: int = 0, split: str = "test") -> dict[str, Path]:
    """Write the four files, `rows` questions each, every question about a scene of its own.

    The same arguments give the same files. A file that changes also loses the images VLMEvalKit unpacked from it.

    Returns:
        The path of each file by its benchmark's name.

    Raises:
        ValueError: the split has too few scenes for so many different questions.
    """
    paths = {}
    for name, items in benchmark_questions(rows, seed, split).items():
        path = paths[name] = Path(out_dir) / f"{name}.tsv"
        text = _as_tsv(name, items)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            shutil.rmtree(path.parent / "images" / name, ignore_errors=True)
            write_text(path, text)
    return paths


def data_config() -> dict[str, dict[str, str]]:
    """The "data" of a VLMEvalKit config. Without the classes, `--data` would score only multiple choice."""
    return {name: {"class": dataset_class, "dataset": name} for name, (dataset_class, _) in BENCHMARKS.items()}


def write_config(out_dir: Path) -> Path:
    """Write config.json for `python -m vlmeval.uni_dpo`, to be used with --model NAME=CHECKPOINT."""
    model = {"class": "UniDPOVLM", "model_path": "$MODEL", "max_new_tokens": 64}
    config = {"judge": "exact_matching", "model": {"checkpoint": model}, "data": data_config()}
    write_json(out_dir / "config.json", config, indent=2)
    return out_dir / "config.json"


def benchmark_questions(rows: int, seed: int, split: str) -> dict[str, list[tuple[Question, Image.Image]]]:
    """The questions of each benchmark with their pictures.

    Raises:
        ValueError: the split has too few scenes for so many different questions.
    """
    lacking = {}
    for name, (_, groups) in BENCHMARKS.items():
        share, rest = divmod(rows, len(groups))
        lacking |= {(name, group): share + (number < rest) for number, group in enumerate(groups)}
    found, asked = {name: [] for name in BENCHMARKS}, set()
    with tqdm(total=sum(lacking.values()), desc="benchmarks", unit="question") as progress:
        for scene, rng in scenes(split, 25 * rows + 500, seed, "benchmark"):
            fresh = [question for question in ask(scene, rng) if _identity(question) not in asked]
            place, question = _neediest(fresh, lacking, rng)
            if question is None:
                continue
            asked.add(_identity(question))
            found[place[0]].append((question, draw(scene, rng)))
            progress.update()
            lacking[place] -= 1
            if not any(lacking.values()):
                return found
    names = ", ".join(f"{name} {group}" for (name, group), left in lacking.items() if left)
    raise ValueError(
        f"The {split} split has too few scenes for {rows} rows a benchmark (lacking {names}): ask for fewer."
    )


def _identity(question: Question) -> tuple:
    """What makes two questions the same, however they are phrased and drawn."""
    return question.scene.key, stem(question), question.options


def _neediest(questions: list[Question], lacking: dict, rng: random.Random) -> tuple:
    """The group that lacks the most of those a scene can serve, and a question for it."""
    served = defaultdict(list)
    for question in questions:
        served[place_of(question)].append(question)
    place = max(served, key=lambda place: lacking.get(place, 0), default=None)
    return (place, rng.choice(served[place])) if lacking.get(place, 0) else (None, None)


def place_of(question: Question) -> tuple[str, str]:
    """The benchmark and the group that a question belongs to; descriptions belong to none."""
    family = {Number: "number", Chart: "chart"}.get(type(question.scene), "shapes")
    if question.kind == "choice":
        return MCQ, family
    if question.kind == "yes_no":
        return YES_NO, f"{family} {question.truth}"
    if question.kind == "chart":
        return CHART, "height" if question.truth.isdigit() else "tallest"
    return SHORT, question.kind


def stem(question: Question) -> str:
    """The bare question, without options and without what VLMEvalKit appends by itself."""
    if question.options:
        return question.text.removeprefix("Question: ").split("\n")[0].split(f" A. {question.options[0]}")[0]
    return question.text.removesuffix(YES_NO_SUFFIX).removesuffix(SHORT_SUFFIX)


def _columns(name: str, question: Question) -> dict[str, str]:
    if name == MCQ:
        options = dict(zip(LETTERS, question.options, strict=True))
        return {"question": stem(question), **options, "answer": question.truth}
    if name == YES_NO:  # like MME it asks for yes or no itself: for names it does not know VLMEvalKit appends nothing
        return {"question": stem(question) + YES_NO_SUFFIX, "answer": question.truth.capitalize()}
    # VQA accuracy is full when three other annotators agree with an answer, so four say the same.
    return {"question": stem(question), "answer": repr([question.truth] * 4) if name == SHORT else question.truth}


def _as_tsv(name: str, items: list[tuple[Question, Image.Image]]) -> str:
    text, writer = io.StringIO(), None
    for index, (question, image) in enumerate(items):
        png = io.BytesIO()
        image.save(png, "PNG")
        row = {"index": index, **_columns(name, question), "category": place_of(question)[1]}
        row["image"] = base64.b64encode(png.getvalue()).decode()
        if writer is None:
            writer = csv.DictWriter(text, list(row), delimiter="\t", lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)
    return text.getvalue()
