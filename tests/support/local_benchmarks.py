"""A few rows of each benchmark of the configs, made here: VLMEvalKit's real names and columns, our own questions.

`write_tsvs` makes what VLMEvalKit would download, `write_predictions` what a model would leave, `run_vlmeval` is its
real command. Nothing needs a network, a GPU or a judge.
"""

import ast
import base64
import io
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from PIL import Image


HERE = Path(__file__).resolve().parent
# VLMEvalKit's, and not taken from summarize_eval: a category missing there must be missed here.
MME_CATEGORIES = (
    *("OCR", "artwork", "celebrity", "color", "count", "existence", "landmark", "position", "posters", "scene"),
    *("code_reasoning", "commonsense_reasoning", "numerical_calculation", "text_translation"),
)
OCR_CATEGORIES = (
    *("Regular Text Recognition", "Irregular Text Recognition", "Artistic Text Recognition"),
    *("Handwriting Recognition", "Digit String Recognition", "Non-Semantic Text Recognition"),
    *("Scene Text-centric VQA", "Doc-oriented VQA", "Key Information Extraction"),
    "Handwritten Mathematical Expression Recognition",
)
COLOURS = ("red", "green", "blue", "yellow")
RIGHT, WRONG = (lambda row: True), (lambda row: False)


def mixed(seed: int, share: float = 0.5) -> Callable[[dict], bool]:
    """Right for a share of the questions, at random; the rows of one circular group fall alike."""
    return lambda row: random.Random(f"{seed} {int(row['index']) % 1_000_000} {row['question']}").random() < share


def write_tsvs(folder: Path, rows: int = 12) -> dict[str, pd.DataFrame]:
    """Write NAME.tsv for the nine and the poster's two, about `rows` questions each, and return the tables."""
    makers = {
        "ChartQA_TEST": _chartqa,
        "MMBench_DEV_CN": lambda rows: _mmbench(rows, "图中的物体是什么颜色？"),
        "MMBench_DEV_EN": lambda rows: _mmbench(rows, "What color is the thing?"),
        "MME": _mme,
        "OCRBench": _ocrbench,
        "POPE": _pope,
        "ScienceQA_TEST": _scienceqa,
        "SEEDBench_IMG": _seedbench,
        "TextVQA_VAL": _textvqa,
        "InfoVQA_VAL": _infovqa,
        "RealWorldQA": _seedbench,
    }
    folder.mkdir(parents=True, exist_ok=True)
    tables = {name: pd.DataFrame(make(rows)) for name, make in makers.items()}
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.tsv", sep="\t", index=False)
    return tables


def write_predictions(work: Path, model: str, tables: dict[str, pd.DataFrame], right: Callable[[dict], bool]) -> None:
    """Write MODEL_NAME.xlsx for each table: its columns without the image, and a right or wrong answer to each row."""
    folder = work / model
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        said = [answer(name, row, right(row)) for row in table.to_dict("records")]
        table.drop(columns="image").assign(prediction=said).to_excel(folder / f"{model}_{name}.xlsx", index=False)


def answer(name: str, row: dict, right: bool) -> str:
    """A right or a wrong answer, worded as a model words it."""
    if "A" in row:
        letters = [letter for letter in "ABCD" if isinstance(row.get(letter), str)]
        letter = row["answer"] if right else next(other for other in letters if other != row["answer"])
        return f"{letter}. {row[letter]}"
    if row["answer"] in ("Yes", "No"):
        says_yes = (row["answer"] == "Yes") == right
        return "Yes, it is." if says_yes else "No, it is not."
    if not right:
        return "something else"
    first = ast.literal_eval(row["answer"])[0] if row["answer"].startswith("[") else row["answer"]
    if name == "OCRBench":
        return f"It says {' '.join(first) if row['category'] == OCR_CATEGORIES[-1] else first.upper()} here"
    return first + "s" if name == "InfoVQA_VAL" and row["index"] % 3 == 0 else first


def run_vlmeval(lmu_data: Path, work: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run VLMEvalKit's command with local files in place of downloads and without a judge."""
    offline = [sys.executable, HERE / "eval_offline.py", "vlmeval.run", "--judge", "exact_matching"]
    command = [*offline, "--work-dir", work, *arguments]
    environment = {**os.environ, "LMUData": str(lmu_data)}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, cwd=lmu_data)


def _image(seed: int) -> str:
    rng = random.Random(seed)
    image = Image.new("RGB", (56, 56), tuple(rng.randrange(256) for _ in range(3)))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def _chartqa(rows: int) -> list[dict]:
    splits = ("test_human", "test_augmented")
    return [
        {
            "index": i,
            "question": f"How tall is bar {i}?",
            "answer": str(10 + i) if i % 3 else COLOURS[i % 4],
            "split": splits[i % 2],
            "image": _image(i),
        }
        for i in range(rows)
    ]


def _mmbench(rows: int, question: str) -> list[dict]:
    """Every question four times with its options rotated, the copies pointing to the first one's image."""
    table = []
    for i in range(rows):
        for turn in range(4):
            options = COLOURS[turn:] + COLOURS[:turn]
            table.append(
                {
                    "index": i + 1_000_000 * turn,
                    "question": f"{question} ({i})",
                    "hint": "Look closely." if i % 2 else None,
                    **dict(zip("ABCD", options, strict=True)),
                    "answer": "ABCD"[options.index(COLOURS[i % 4])],
                    "category": ("color", "object_localization")[i % 2],
                    "l2-category": ("finegrained_perception (instance-level)", "coarse_perception")[i % 2],
                    "split": "dev",
                    "image": str(i) if turn else _image(i),
                }
            )
    return table


def _mme(rows: int) -> list[dict]:
    table = []
    for category in MME_CATEGORIES:
        for picture in range(max(2, rows // 14)):
            for said in ("Yes", "No"):
                index = len(table)
                table.append(
                    {
                        "index": index,
                        "question": f"Is this {category} number {index}? Please answer yes or no.",
                        "answer": said,
                        "category": category,
                        "image_path": f"{category}/{picture}.png",
                        "image": _image(picture),
                    }
                )
    return table


def _ocrbench(rows: int) -> list[dict]:
    return [
        {
            "index": i,
            "question": f"What is written in image {i}?",
            "answer": repr([f"Word {i} End", f"term{i}"]),
            "category": OCR_CATEGORIES[i % 10],
            "image": _image(i),
        }
        for i in range(rows)
    ]


def _pope(rows: int) -> list[dict]:
    categories = ("random", "popular,adversarial", "random,popular,adversarial")
    return [
        {
            "index": i,
            "question": f"Is there a thing of kind {i} in the image?",
            "answer": ("Yes", "No")[i % 2],
            "category": categories[i % 3],
            "image": _image(i // 2),
        }
        for i in range(rows)
    ]


def _scienceqa(rows: int) -> list[dict]:
    """Two to four options, as in the real set."""
    table = []
    for i in range(rows):
        many = 2 + i % 3
        options = dict(zip("ABCD", (f"thing {i}-{n}" for n in range(many)), strict=False))
        table.append(
            {
                "index": i,
                "question": f"Which of these is meant in lesson {i}?",
                "hint": "Use the picture." if i % 2 else None,
                **{letter: options.get(letter) for letter in "ABCD"},
                "answer": "ABCD"[i % many],
                "category": ("biology", "physics")[i % 2],
                "split": "test",
                "image": _image(i),
            }
        )
    return table


def _seedbench(rows: int) -> list[dict]:
    return [
        {
            "index": 1000 + i,
            "question": f"What color is object {i}?",
            **dict(zip("ABCD", COLOURS, strict=True)),
            "answer": "ABCD"[i % 4],
            "category": ("Instance Identity", "Scene Understanding")[i % 2],
            "image": _image(i),
        }
        for i in range(rows)
    ]


def _textvqa(rows: int) -> list[dict]:
    """Ten annotators who agree the more, the smaller the number; three agreeing is enough for a full score."""
    table = []
    for i in range(rows):
        agreeing = max(2, 10 - i)
        references = [f"brand{i}"] * agreeing + [f"other{i}-{n}" for n in range(10 - agreeing)]
        table.append(
            {"index": i, "question": f"What brand is shown in {i}?", "answer": repr(references), "image": _image(i)}
        )
    return table


def _infovqa(rows: int) -> list[dict]:
    """Two references; an answer one letter away from one earns most of a point."""
    return [
        {
            "index": i,
            "question": f"Which document is number {i}?",
            "answer": repr([f"invoice {i}", f"bill of number {i}"]),
            "image": _image(i),
        }
        for i in range(rows)
    ]
