"""The batched runner inside real VLMEvalKit trees, against VLMEvalKit's own loop on the same rows."""

import base64
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from eval_tree import TREES, answer_of, environment, overlaid, python
from PIL import Image
from safetensors.torch import load_file, save_file


DEMO = Path(__file__).resolve().parents[1] / "data" / "demo" / "checkpoint"
ROWS = 14
SETS = {
    "Tiny_MCQ": {"class": "ImageMCQDataset", "dataset": "Tiny_MCQ"},
    "Tiny_YORN": {"class": "ImageYORNDataset", "dataset": "Tiny_YORN"},
    "Tiny_ChartQA": {"class": "ImageVQADataset", "dataset": "Tiny_ChartQA"},
}


def picture(rng):
    """A picture of noise, as base64."""
    content = io.BytesIO()
    size = rng.choice([(56, 56), (84, 56), (140, 84)])
    Image.frombytes("RGB", size, rng.randbytes(3 * size[0] * size[1])).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def write_sets(folder, count=ROWS):
    """Write three data sets as VLMEvalKit has them."""
    rng = random.Random(3)
    folder.mkdir(exist_ok=True)
    rows = [{"index": i, "question": f"What is it?{' Say.' * (i % 5)}", "image": picture(rng)} for i in range(count)]
    letters = [row | {"A": "one", "B": "two", "answer": rng.choice("AB"), "category": "all"} for row in rows]
    yes_no = [row | {"answer": rng.choice(["Yes", "No"]), "category": "all"} for row in rows]
    charts = [row | {"answer": str(["12"]), "split": "human"} for row in rows]
    for name, table in zip(SETS, (letters, yes_no, charts), strict=True):
        pd.DataFrame(table).to_csv(folder / f"{name}.tsv", sep="\t", index=False)
    return folder


def write_config(path, model, sets=SETS, **changes):
    """Write a config for run.py and for ours."""
    options = {"class": "UniDPOQwen2VL", "model_path": str(model), "max_new_tokens": 8} | changes
    path.write_text(json.dumps({"model": {"tiny": options}, "data": sets}))
    return path


def predictions(work, name="tiny", sets=SETS):
    """Return the prediction column of each data set."""
    return {data: list(map(str, pd.read_excel(work / name / f"{name}_{data}.xlsx")["prediction"])) for data in sets}


def metrics(work, name="tiny"):
    """Return the contents of the metric files."""
    return {path.name: path.read_text() for path in (work / name).glob("*.csv")}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The demo's checkpoint, whose answers mean something, and one that differs from it in its weights alone."""
    other = tmp_path_factory.mktemp("other") / "checkpoint"
    shutil.copytree(DEMO, other)
    weights = load_file(other / "model.safetensors")
    noise = torch.Generator().manual_seed(5)
    spoilt = {name: weight + 0.02 * torch.randn(weight.shape, generator=noise) for name, weight in weights.items()}
    save_file(spoilt, other / "model.safetensors", metadata={"format": "pt"})
    return DEMO, other


@pytest.fixture(scope="module", params=TREES, ids=str)
def tree(request, tmp_path_factory):
    return overlaid(request.param, tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def data(tree, tmp_path_factory):
    """Data sets of one tree's own: a run changes a row."""
    return write_sets(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def runs(tree, models, data, tmp_path_factory):
    """Runs one after the other in one work directory, and what each of them left."""
    folder = tmp_path_factory.mktemp("runs")
    config = write_config(folder / "config.json", models[0])
    gone = {"Gone": {"class": "ImageMCQDataset", "dataset": "Gone"}}
    broken = write_config(folder / "broken.json", models[0], gone | SETS)
    base = ["--config", str(config), "--batch-size", "4"]
    work, first, second = folder / "work", str(models[0]), str(models[1])
    change = f"""
import pandas as pd
table = pd.read_csv({str(data / "Tiny_YORN.tsv")!r}, sep="\\t")
table.loc[3, "question"] = "Is it another one?"
table.to_csv({str(data / "Tiny_YORN.tsv")!r}, sep="\\t", index=False)
"""
    keep = f"import shutil; shutil.copytree({str(work)!r}, {str(folder / 'kept')!r})"
    requests = {
        "all": [*base, "--work-dir", str(work)],
        "again": [*base, "--work-dir", str(work)],
        "keep": {"prepare": keep},
        "one_row_changed": {"prepare": change},
        "changed": [*base, "--work-dir", str(work), "--data", "Tiny_YORN"],
        "afresh": [*base, "--work-dir", str(work), "--data", "Tiny_YORN", "--no-reuse"],
        "other": [*base, "--work-dir", str(work), "--model", f"tiny={second}"],
        "infer": [*base, "--work-dir", str(folder / "steps"), "--mode", "infer", "--data", "Tiny_MCQ"],
        "eval": [*base, "--work-dir", str(folder / "steps"), "--mode", "eval", "--data", "Tiny_MCQ"],
        "nothing_to_score": [*base, "--work-dir", str(folder / "none"), "--mode", "eval", "--data", "Tiny_MCQ"],
        "broken": ["--config", str(broken), "--work-dir", str(folder / "broken"), "--data", "Gone", "Tiny_MCQ"],
        "by_path": ["--model", first, "--data", "Tiny_MCQ", "--work-dir", str(folder / "path"), "--mode", "infer"],
        "no_model": ["--data", "Tiny_MCQ"],
        "no_config": ["--config", str(folder / "gone.json")],
        "no_folder": [*base, "--model", "gone"],
        "one_name": [*base, "--model", f"a={first}", f"a={second}"],
    }
    os.environ["LMUData"] = str(data)
    found = answer_of(tree, "eval_runs.py", requests, folder)
    return found | {"folder": folder, "work": work, "kept": folder / "kept", "config": config}


@pytest.fixture(scope="module")
def upstream(tree, runs, models, tmp_path_factory):
    """VLMEvalKit's own loop on the same rows, on the data as it was before a row was changed."""
    folder = tmp_path_factory.mktemp("upstream")
    rows = write_sets(folder / "data")
    start = [tree / "run.py"] if (tree / "run.py").is_file() else ["-m", "vlmeval"]
    arguments = ["--config", runs["config"], "--work-dir", folder / "work", "--judge", "exact_matching"]
    done = python(tree, *start, *arguments, LMUData=str(rows))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "work"


def test_predictions_and_scores_are_those_of_vlmevalkits_own_loop(runs, upstream):
    assert runs["all"]["exit"] == 0, runs["all"]["text"]
    assert predictions(runs["kept"]) == predictions(upstream)
    assert len(metrics(upstream)) >= 3
    for name, content in metrics(upstream).items():
        assert metrics(runs["kept"])[name] == content, name
    answers = predictions(upstream)["Tiny_MCQ"]
    assert len(answers) == ROWS and len(set(answers)) > 1


def test_a_second_run_answers_nothing_again(runs):
    assert runs["again"]["exit"] == 0
    assert runs["again"]["text"].count(f"{ROWS} rows reused") == 3


def test_only_a_changed_row_is_answered_again(runs):
    """In its batch: rows are always answered in the same company."""
    assert f"{ROWS} rows, 1 answered" in runs["changed"]["text"]
    assert f"{ROWS} rows, {ROWS} answered" in runs["afresh"]["text"]


def test_answers_of_another_checkpoint_are_never_taken(runs):
    """Although it has the same name, and files of the first one lie there."""
    assert runs["other"]["exit"] == 0
    assert runs["other"]["text"].count(f"{ROWS} rows, {ROWS} answered") == 3
    assert predictions(runs["work"])["Tiny_MCQ"] != predictions(runs["kept"])["Tiny_MCQ"]
    aside = list((runs["work"] / "tiny").glob("answers/replaced-*/tiny_Tiny_MCQ.xlsx"))
    assert [list(map(str, pd.read_excel(path)["prediction"])) for path in aside] == [
        predictions(runs["kept"])["Tiny_MCQ"]
    ]


def test_answering_and_scoring_apart(runs):
    assert runs["infer"]["exit"] == runs["eval"]["exit"] == 0
    assert "not scored" in runs["infer"]["text"] and "scored in" in runs["eval"]["text"]
    wanted = metrics(runs["kept"])
    for name, content in metrics(runs["folder"] / "steps").items():
        assert content == wanted[name]
    assert runs["nothing_to_score"]["exit"] == 1
    assert "no predictions to score" in runs["nothing_to_score"]["text"]


def test_a_set_that_fails_is_named_and_the_others_finish(runs):
    assert runs["broken"]["exit"] == 1
    assert "FAILED tiny Gone" in runs["broken"]["text"]
    assert "done   tiny Tiny_MCQ" in runs["broken"]["text"]
    assert predictions(runs["folder"] / "broken", sets=["Tiny_MCQ"])


def test_a_checkpoint_without_a_config(runs):
    assert runs["by_path"]["exit"] == 0, runs["by_path"]["text"]
    found = predictions(runs["folder"] / "path", "demo_checkpoint", ["Tiny_MCQ"])  # the last folder alone says little
    assert len(found["Tiny_MCQ"]) == ROWS


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_model", "--model PATH, or --config FILE"),
        ("no_config", "cannot read"),
        ("no_folder", "no such folder, and no such name in a config; the config has tiny"),
        ("one_name", "two models would be called a"),
    ],
)
def test_arguments_that_make_no_sense(runs, name, words):
    assert runs[name]["exit"] == 2
    assert words in runs[name]["text"]


def test_killed_and_resumed(tree, models, tmp_path):
    """Killed between two batches, it goes on behind the last whole line, and nothing is answered twice."""
    rows = write_sets(tmp_path / "data", 60)
    config = write_config(tmp_path / "config.json", models[0], {"Tiny_MCQ": SETS["Tiny_MCQ"]}, max_new_tokens=16)

    def arguments(work):
        return [
            "-m",
            "vlmeval.uni_dpo",
            "--config",
            str(config),
            "--work-dir",
            str(tmp_path / work),
            "--batch-size",
            "2",
        ]

    assert python(tree, *arguments("whole"), LMUData=str(rows)).returncode == 0
    journal = tmp_path / "killed" / "tiny" / "answers" / "Tiny_MCQ.rank0.jsonl"
    variables = environment(tree, LMUData=str(rows))
    with subprocess.Popen(
        [sys.executable, *arguments("killed")], cwd=tree, env=variables, stderr=subprocess.DEVNULL
    ) as run:
        while run.poll() is None and (not journal.is_file() or journal.read_bytes().count(b"\n") < 10):
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
    before = journal.read_bytes()
    given = before.count(b"\n")
    assert 10 <= given < 60
    journal.write_bytes(before + b'{"index": "7", "ke')  # a line cut off in the middle
    done = python(tree, *arguments("killed"), LMUData=str(rows))
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"60 rows, {60 - given} answered" in done.stdout
    assert journal.read_bytes().startswith(before)
    assert journal.read_bytes().count(b"\n") == 60
    assert predictions(tmp_path / "killed", sets=["Tiny_MCQ"]) == predictions(tmp_path / "whole", sets=["Tiny_MCQ"])


def test_two_ranks_answer_as_one(tree, runs, tmp_path):
    """Under torchrun, on gloo; each rank has a journal, and together they have every row once."""
    rows = write_sets(tmp_path / "data")
    start = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "vlmeval.uni_dpo"]
    arguments = ["--config", runs["config"], "--work-dir", tmp_path / "work", "--batch-size", "4"]
    done = python(tree, *start, *arguments, LMUData=str(rows))
    assert done.returncode == 0, done.stderr[-3000:]
    assert predictions(tmp_path / "work") == predictions(runs["kept"])
    shares = [
        len(path.read_text().splitlines()) for path in (tmp_path / "work").glob("tiny/answers/*_MCQ.rank*.jsonl")
    ]
    assert sum(shares) == ROWS and len(shares) == 2
