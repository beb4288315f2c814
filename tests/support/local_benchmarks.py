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
    folder.mkdir(parents=True, exist_ok=True)
    tables = {name: pd.DataFrame(make(rows)) for name, make in MAKERS.items()}
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


def image(seed: int) -> str:
    """A small picture of one colour, as the files hold it."""
    rng, stream = random.Random(seed), io.BytesIO()
    Image.new("RGB", (56, 56), tuple(rng.randrange(256) for _ in range(3))).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def numbered(make: Callable[[int], dict], first: int = 0) -> Callable[[int], list[dict]]:
    """Rows that differ by their number, each with a picture of its own unless it says which."""
    return lambda rows: [{"index": first + i, **({"image": image(i)} | make(i))} for i in range(rows)]


def chartqa(i: int) -> dict:
    answer = str(10 + i) if i % 3 else COLOURS[i % 4]
    return {"question": f"How tall is bar {i}?", "answer": answer, "split": ("test_human", "test_augmented")[i % 2]}


def mmbench(question: str) -> Callable[[int], list[dict]]:
    """Every question four times with its options rotated, the copies pointing to the first one's image."""

    def row(i: int, turn: int) -> dict:
        options = COLOURS[turn:] + COLOURS[:turn]
        return {
            "index": i + 1_000_000 * turn,
            "question": f"{question} ({i})",
            "hint": "Look closely." if i % 2 else None,
            **dict(zip("ABCD", options, strict=True)),
            "answer": "ABCD"[options.index(COLOURS[i % 4])],
            "category": ("color", "object_localization")[i % 2],
            "l2-category": ("finegrained_perception (instance-level)", "coarse_perception")[i % 2],
            "split": "dev",
            "image": str(i) if turn else image(i),
        }

    return lambda rows: [row(i, turn) for i in range(rows) for turn in range(4)]


def mme(rows: int) -> list[dict]:
    """Two questions about each picture of each category."""
    places = [(category, i) for category in MME_CATEGORIES for i in range(max(2, rows // 14)) for _ in range(2)]
    return [
        {
            "index": index,
            "question": f"Is this {category} number {index}? Please answer yes or no.",
            "answer": ("Yes", "No")[index % 2],
            "category": category,
            "image_path": f"{category}/{picture}.png",
            "image": image(picture),
        }
        for index, (category, picture) in enumerate(places)
    ]


def ocrbench(i: int) -> dict:
    answer = repr([f"Word {i} End", f"term{i}"])
    return {"question": f"What is written in image {i}?", "answer": answer, "category": OCR_CATEGORIES[i % 10]}


def pope(i: int) -> dict:
    category = ("random", "popular,adversarial", "random,popular,adversarial")[i % 3]
    question = {"question": f"Is there a thing of kind {i} in the image?", "answer": ("Yes", "No")[i % 2]}
    return {**question, "category": category, "image": image(i // 2)}


def scienceqa(i: int) -> dict:
    """Two to four options, as in the real set."""
    options = {letter: f"thing {i}-{n}" if n < 2 + i % 3 else None for n, letter in enumerate("ABCD")}
    return {
        "question": f"Which of these is meant in lesson {i}?",
        "hint": "Use the picture." if i % 2 else None,
        **options,
        "answer": "ABCD"[i % (2 + i % 3)],
        "category": ("biology", "physics")[i % 2],
        "split": "test",
    }


def seedbench(i: int) -> dict:
    category = ("Instance Identity", "Scene Understanding")[i % 2]
    options = dict(zip("ABCD", COLOURS, strict=True))
    return {"question": f"What color is object {i}?", **options, "answer": "ABCD"[i % 4], "category": category}


def textvqa(i: int) -> dict:
    """Ten annotators who agree the more, the smaller the number; three agreeing is enough for a full score."""
    agreeing = max(2, 10 - i)
    references = [f"brand{i}"] * agreeing + [f"other{i}-{n}" for n in range(10 - agreeing)]
    return {"question": f"What brand is shown in {i}?", "answer": repr(references)}


def infovqa(i: int) -> dict:
    """Two references; an answer one letter away from one earns most of a point."""
    return {"question": f"Which document is number {i}?", "answer": repr([f"invoice {i}", f"bill of number {i}"])}


MAKERS = {
    "ChartQA_TEST": numbered(chartqa),
    "MMBench_DEV_CN": mmbench("图中的物体是什么颜色？"),
    "MMBench_DEV_EN": mmbench("What color is the thing?"),
    "MME": mme,
    "OCRBench": numbered(ocrbench),
    "POPE": numbered(pope),
    "ScienceQA_TEST": numbered(scienceqa),
    "SEEDBench_IMG": numbered(seedbench, 1000),
    "TextVQA_VAL": numbered(textvqa),
    "InfoVQA_VAL": numbered(infovqa),
    "RealWorldQA": numbered(seedbench, 1000),
}
