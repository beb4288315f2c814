"""The configs' benchmarks on local rows: VLMEvalKit's own loop and ours, from the same config file."""

import base64
import io
import json
import random

import pandas as pd
import pytest
from eval_tree import OVERLAY, TREES, overlaid, python
from pairs import ROOT
from PIL import Image


MME = "OCR artwork celebrity color count existence landmark position posters scene code_reasoning".split() + [
    "commonsense_reasoning",
    "numerical_calculation",
    "text_translation",
]
OCR = ["Regular Text Recognition", "Scene Text-centric VQA", "Handwritten Mathematical Expression Recognition"]
METRICS = {
    "ChartQA_TEST": "_acc.csv",
    "MMBench_DEV_CN": "_acc.csv",
    "MMBench_DEV_EN": "_acc.csv",
    "MME": "_score.csv",
    "OCRBench": "_score.json",
    "POPE": "_score.csv",
    "ScienceQA_TEST": "_acc.csv",
    "SEEDBench_IMG": "_acc.csv",
    "TextVQA_VAL": "_acc.csv",
    "InfoVQA_VAL": "_acc.csv",
    "RealWorldQA": "_acc.csv",
}


def row(rng, index, question="What is written here?"):
    """What every benchmark has: a picture of noise and a question."""
    content = io.BytesIO()
    size = rng.choice([(56, 56), (84, 56)])
    Image.frombytes("RGB", size, rng.randbytes(3 * size[0] * size[1])).save(content, "PNG")
    return {"index": index, "question": question, "image": base64.b64encode(content.getvalue()).decode()}


def choices(rng, index, question="Which one?"):
    """A multiple-choice row."""
    options = {"A": "red", "B": "green", "C": "blue", "D": "grey"}
    extra = {"answer": rng.choice("ABCD"), "category": "colour", "l2-category": "sight", "split": "dev"}
    return row(rng, index, question) | options | extra


def write_benchmarks(folder):
    """Write a few rows of each benchmark, with the columns of the real ones."""
    rng = random.Random(0)
    mme = []
    for i, category in enumerate(MME):
        first = row(rng, 2 * i, "Is it red?") | {
            "answer": "Yes",
            "category": category,
            "image_path": f"{category}.png",
        }
        mme += [first, first | {"index": 2 * i + 1, "question": "Is it blue?", "answer": "No"}]
    kinds = ("adversarial", "popular", "random")
    tables = {
        "MME": mme,
        "POPE": [row(rng, i, "Is there a cat?") | {"answer": "Yes", "category": kinds[i % 3]} for i in range(6)],
        "OCRBench": [row(rng, i) | {"answer": "['a', 'b']", "category": OCR[i % 3]} for i in range(3)],
        "ChartQA_TEST": [
            row(rng, i) | {"answer": "['12']", "split": ("test_human", "test_augmented")[i % 2]} for i in range(4)
        ],
        "MMBench_DEV_CN": [choices(rng, i, "这是什么颜色？") for i in range(4)],
    }
    tables |= {
        name: [row(rng, i) | {"answer": str(["a"] * 10)} for i in range(3)] for name in ("TextVQA_VAL", "InfoVQA_VAL")
    }
    for name in ("MMBench_DEV_EN", "ScienceQA_TEST", "SEEDBench_IMG", "RealWorldQA"):
        tables[name] = [choices(rng, i) for i in range(4)]
    for name, table in tables.items():
        pd.DataFrame(table).to_csv(folder / f"{name}.tsv", sep="\t", index=False)


@pytest.fixture(scope="module", params=TREES, ids=str)
def finished(request, tiny_model, tmp_path_factory):
    """The folders of both loops after all benchmarks of both configs."""
    folder = tmp_path_factory.mktemp("nine")
    (folder / "data").mkdir()
    write_benchmarks(folder / "data")
    tree = overlaid(request.param, folder / "tree")
    config = json.loads((OVERLAY / "config.json").read_text())
    config["data"] |= json.loads((OVERLAY / "config_poster.json").read_text())["data"]
    config["model"]["checkpoint"]["max_new_tokens"] = 6  # an untrained model never ends
    (folder / "config.json").write_text(json.dumps(config))
    own = tree / "run.py" if (tree / "run.py").is_file() else "vlmeval.run"
    judged = [own, "--judge", "exact_matching"]
    for name, start in {"theirs": judged, "ours": ["vlmeval.uni_dpo", "--model", f"checkpoint={tiny_model}"]}.items():
        arguments = [*start, "--config", folder / "config.json", "--work-dir", folder / name]
        variables = {"LMUData": str(folder / "data"), "MODEL": str(tiny_model)}
        done = python(tree, ROOT / "tests" / "eval_offline.py", *arguments, **variables)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "theirs" / "checkpoint", folder / "ours" / "checkpoint"


def test_configs_name_the_benchmarks():
    nine = json.loads((OVERLAY / "config.json").read_text())["data"]
    poster = json.loads((OVERLAY / "config_poster.json").read_text())["data"]
    assert [*nine, *poster] == list(METRICS)
    assert all(entry["dataset"] == name for name, entry in (nine | poster).items())


@pytest.mark.parametrize("data", METRICS)
def test_predictions_and_metrics_equal_vlmevalkits(finished, data):
    theirs, ours = (folder / f"checkpoint_{data}" for folder in finished)
    tables = [pd.read_excel(f"{path}.xlsx") for path in (theirs, ours)]
    pd.testing.assert_frame_equal(*tables)
    assert "prediction" in tables[0] and "image" not in tables[0]
    scores = [path.with_name(path.name + METRICS[data]).read_text() for path in (theirs, ours)]
    assert scores[0] == scores[1] != ""
