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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from .questions import LETTERS, SHORT_SUFFIX, YES_NO_SUFFIX, Question, ask
from .scene import Chart, Number, draw
from .writers import scenes, write_whole


@dataclass(frozen=True)
class Benchmark:
    """One TSV file.

    Attributes:
        name: of the file and in VLMEvalKit.
        dataset_class: the class of `vlmeval.dataset` that asks and scores.
        groups: equal shares of the rows; `group_of` says which a question is in.
        group_of: the group of a question, or another string if the benchmark does not ask such questions.
        columns: the row of a question, without index, category and image.
    """

    name: str
    dataset_class: str
    groups: tuple[str, ...]
    group_of: Callable[[Question], str]
    columns: Callable[[Question], dict[str, str]]


def write_benchmarks(out_dir: Path, rows: int = 200, seed: int = 0, split: str = "test") -> dict[str, Path]:
    """Write the four files, `rows` questions each, every question about a scene of its own.

    The same arguments give the same files. A file that changes also loses the images VLMEvalKit unpacked from it.

    Returns:
        The path of each file by its benchmark's name.

    Raises:
        ValueError: the split has too few scenes for so many different questions.
    """
    paths = {}
    for benchmark, items in benchmark_questions(rows, seed, split).items():
        path = paths[benchmark.name] = Path(out_dir) / f"{benchmark.name}.tsv"
        text = _as_tsv(benchmark, items)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            shutil.rmtree(path.parent / "images" / benchmark.name, ignore_errors=True)
            write_whole(path, lambda file, text=text: file.write(text))
    return paths


def data_config() -> dict[str, dict[str, str]]:
    """The "data" of a VLMEvalKit config. Without the classes, `--data` would score only multiple choice."""
    return {it.name: {"class": it.dataset_class, "dataset": it.name} for it in BENCHMARKS}


def benchmark_questions(rows: int, seed: int, split: str) -> dict[Benchmark, list[tuple[Question, Image.Image]]]:
    """The questions of each benchmark with their pictures.

    Raises:
        ValueError: the split has too few scenes for so many different questions.
    """
    open_groups = dict(_quotas(rows))
    found = {benchmark: [] for benchmark in BENCHMARKS}
    asked = set()
    with tqdm(total=sum(open_groups.values()), desc="benchmarks", unit="question") as progress:
        for scene, rng in scenes(split, 25 * rows + 500, seed, "benchmark"):
            fresh = [question for question in ask(scene, rng) if _identity(question) not in asked]
            place, question = _neediest(fresh, open_groups, rng)
            if question is None:
                continue
            asked.add(_identity(question))
            found[place[0]].append((question, draw(scene, rng)))
            progress.update()
            open_groups[place] -= 1
            if not any(open_groups.values()):
                return found
    lacking = ", ".join(f"{benchmark.name} {group}" for (benchmark, group), left in open_groups.items() if left)
    raise ValueError(
        f"The {split} split has too few scenes for {rows} rows a benchmark (lacking {lacking}): ask for fewer."
    )


def _quotas(rows: int) -> Iterator[tuple[tuple[Benchmark, str], int]]:
    for benchmark in BENCHMARKS:
        for number, group in enumerate(benchmark.groups):
            share, rest = divmod(rows, len(benchmark.groups))
            yield (benchmark, group), share + (number < rest)


def _identity(question: Question) -> tuple:
    """What makes two questions the same, however they are phrased and drawn."""
    return question.scene.key, stem(question), question.options


def _neediest(questions: list[Question], open_groups: dict, rng: random.Random) -> tuple:
    """The open group that lacks the most of those a scene can serve, and a question for it."""
    served = {}
    for question in questions:
        for benchmark in BENCHMARKS:
            served.setdefault((benchmark, benchmark.group_of(question)), []).append(question)
    place = max(served, key=lambda place: open_groups.get(place, 0), default=None)
    return (place, rng.choice(served[place])) if open_groups.get(place, 0) else (None, None)


def _as_tsv(benchmark: Benchmark, items: list[tuple[Question, Image.Image]]) -> str:
    rows = [
        {
            "index": index,
            **benchmark.columns(question),
            "category": benchmark.group_of(question),
            "image": _base64(image),
        }
        for index, (question, image) in enumerate(items)
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _base64(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def stem(question: Question) -> str:
    """The bare question, without options and without what VLMEvalKit appends by itself."""
    if question.options:
        return question.text.removeprefix("Question: ").split("\n")[0].split(f" A. {question.options[0]}")[0]
    return question.text.removesuffix(YES_NO_SUFFIX).removesuffix(SHORT_SUFFIX)


def _family(question: Question) -> str:
    return {Number: "number", Chart: "chart"}.get(type(question.scene), "shapes")


def _choice(question: Question) -> dict[str, str]:
    options = dict(zip(LETTERS, question.options, strict=True))
    return {"question": stem(question), **options, "answer": question.truth}


def _yes_no(question: Question) -> dict[str, str]:
    """Like MME, the file asks for yes or no itself: for names it does not know VLMEvalKit appends nothing."""
    return {"question": stem(question) + YES_NO_SUFFIX, "answer": question.truth.capitalize()}


def _short(question: Question) -> dict[str, str]:
    """VQA accuracy is full when three other annotators agree with an answer, so four say the same."""
    return {"question": stem(question), "answer": repr([question.truth] * 4)}


def _chart(question: Question) -> dict[str, str]:
    return {"question": stem(question), "answer": question.truth}


BENCHMARKS = (
    Benchmark(
        "DemoWorld_MCQ",
        "ImageMCQDataset",
        ("shapes", "number", "chart"),
        lambda question: _family(question) if question.kind == "choice" else "",
        _choice,
    ),
    Benchmark(
        "DemoWorld_YesNo",
        "ImageYORNDataset",
        tuple(f"{family} {truth}" for family in ("shapes", "number", "chart") for truth in ("yes", "no")),
        lambda question: f"{_family(question)} {question.truth}" if question.kind == "yes_no" else "",
        _yes_no,
    ),
    Benchmark(
        "DemoWorld_Short_openended",
        "ImageVQADataset",
        ("colour", "count", "position", "number"),
        lambda question: question.kind,
        _short,
    ),
    Benchmark(
        "DemoWorld_ChartQA_openended",
        "ImageVQADataset",
        ("height", "tallest"),
        lambda question: ("height" if question.truth.isdigit() else "tallest") if question.kind == "chart" else "",
        _chart,
    ),
)
