"""The batched runner inside real VLMEvalKit trees, against VLMEvalKit's own loop on the same rows."""

import json
import shutil

import pandas as pd
import pytest
import torch
from eval_sets import DEMO, metrics, predictions, write_config, write_sets
from eval_tree import OVERLAY, TREES, python, vlmevalkit
from local_benchmarks import write_tsvs
from safetensors.torch import load_file, save_file

from summarize_eval.rules import NINE, POSTER


ROWS = 6
METRICS = {"MME": "_score.csv", "POPE": "_score.csv", "OCRBench": "_score.json"}
MCQ_ONLY = ("--data", "Tiny_MCQ")


@pytest.fixture(scope="module", params=TREES, ids=str)
def kit(request):
    return vlmevalkit(request.param)


@pytest.fixture(scope="module")
def nine(kit, tmp_path_factory):
    """The folders of both loops after all benchmarks of both configs."""
    folder = tmp_path_factory.mktemp("nine")
    write_tsvs(folder / "data", rows=3)
    config = json.loads((OVERLAY / "config.json").read_text())
    config["data"] |= json.loads((OVERLAY / "config_poster.json").read_text())["data"]
    config["model"]["checkpoint"] |= {"max_new_tokens": 6, "model_path": str(DEMO)}
    (folder / "config.json").write_text(json.dumps(config))
    for name, start in {"theirs": kit.loop, "ours": kit.run}.items():
        arguments = ["--config", folder / "config.json", "--work-dir", folder / name, "--judge", "exact_matching"]
        done = start(folder / "data", *arguments)
        assert done.exit == 0, done.text[-3000:]
    return folder / "theirs" / "checkpoint", folder / "ours" / "checkpoint"


@pytest.mark.parametrize(
    "size, batches",
    [
        ((2, None), [[1, 4], [0, 2], [3, 5]]),
        ((3, 800), [[1, 4], [0, 2, 3], [5]]),
        ((9, 799), [[1], [4], [0, 2, 3, 5]]),
        ((9, 5), [[1], [4], [0], [2], [3], [5]]),
    ],
)
def test_batches_by_rows_and_tokens(kit, size, batches):
    """Rows count as long as the longest beside them; one that is too long by itself is asked alone."""
    assert kit.ask("batches", lengths=[10, 400, 10, 10, 400, 10], size=size) == batches


def test_configs_name_the_benchmarks():
    for name, benchmarks in (("config.json", NINE), ("config_poster.json", POSTER)):
        config = json.loads((OVERLAY / name).read_text())
        assert config["judge"] == "exact_matching"
        assert {key: entry["dataset"] for key, entry in config["data"].items()} == {key: key for key in benchmarks}


@pytest.mark.parametrize("data", NINE + POSTER)
def test_predictions_and_metrics_equal_vlmevalkits(nine, data):
    theirs, ours = (folder / f"checkpoint_{data}" for folder in nine)
    tables = [pd.read_excel(f"{path}.xlsx") for path in (theirs, ours)]
    pd.testing.assert_frame_equal(*tables)
    assert "prediction" in tables[0] and "image" not in tables[0]
    scores = [path.with_name(path.name + METRICS.get(data, "_acc.csv")).read_text() for path in (theirs, ours)]
    assert scores[0] == scores[1] != ""


@pytest.fixture(scope="module")
def world(kit, tmp_path_factory):
    """A folder with data sets and a config, and in `work` and `kept` what a first run left."""
    folder = tmp_path_factory.mktemp("runs")
    write_sets(folder / "data", ROWS)
    write_config(folder / "config.json", DEMO)
    done = kit.run(folder / "data", *base(folder))
    assert done.exit == 0, done.text
    shutil.copytree(folder / "work", folder / "kept")
    assert len(set(predictions(folder / "kept")["Tiny_MCQ"])) > 1 and len(metrics(folder / "kept")) >= 3
    return folder


def base(folder, work="work"):
    return ["--config", folder / "config.json", "--batch-size", "2", "--work-dir", folder / work]


def test_nothing_is_answered_twice(kit, world):
    """But for a row that has changed, in its batch: rows are always answered in the same company."""
    again = kit.run(world / "data", *base(world))
    assert again.exit == 0 and again.text.count(f"{ROWS} rows reused") == 3
    file = world / "data" / "Tiny_YORN.tsv"
    table = pd.read_csv(file, sep="\t")
    table.loc[3, "question"] = "Is it another one?"
    table.to_csv(file, sep="\t", index=False)
    changed = [*base(world), "--data", "Tiny_YORN"]
    assert f"{ROWS} rows, 1 answered" in kit.run(world / "data", *changed).text
    assert f"{ROWS} rows, {ROWS} answered" in kit.run(world / "data", *changed, "--no-reuse").text


def test_killed_and_continued(kit, world):
    """What a killed run leaves: whole lines, and one that was cut off in the middle. `trust/` kills real ones."""
    work = shutil.copytree(world / "kept", world / "killed")
    journal = work / "tiny" / "answers" / "Tiny_MCQ.rank0.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:4]) + lines[4][:20])
    done = kit.run(world / "data", *base(world, "killed"), *MCQ_ONLY)
    assert f"{ROWS} rows, 2 answered" in done.text
    assert journal.read_bytes() == b"".join(lines)
    assert predictions(work) == predictions(world / "kept")


def test_answers_of_another_checkpoint_are_never_taken(kit, world):
    """Although it has the same name, and differs in its weights alone, and files of the first one lie there."""
    other = shutil.copytree(DEMO, world / "other")
    noise = torch.Generator().manual_seed(5)
    weights = load_file(other / "model.safetensors")
    spoilt = {name: weight + 0.02 * torch.randn(weight.shape, generator=noise) for name, weight in weights.items()}
    save_file(spoilt, other / "model.safetensors", metadata={"format": "pt"})
    work, first = shutil.copytree(world / "kept", world / "second"), predictions(world / "kept")["Tiny_MCQ"]
    done = kit.run(world / "data", *base(world, "second"), *MCQ_ONLY, "--model", f"tiny={other}")
    assert done.exit == 0 and f"{ROWS} rows, {ROWS} answered" in done.text
    assert predictions(work)["Tiny_MCQ"] != first
    (aside,) = (work / "tiny").glob("answers/replaced-*/tiny_Tiny_MCQ.xlsx")
    assert list(map(str, pd.read_excel(aside)["prediction"])) == first


def test_answering_and_scoring_apart(kit, world):
    steps = [*base(world, "steps"), *MCQ_ONLY, "--mode"]
    nothing = kit.run(world / "data", *steps, "eval")
    assert nothing.exit == 1 and "no predictions to score" in nothing.text
    answered, scored = (kit.run(world / "data", *steps, mode) for mode in ("infer", "eval"))
    assert answered.exit == scored.exit == 0
    assert "not scored" in answered.text and "scored in" in scored.text
    assert metrics(world / "steps").items() <= metrics(world / "kept").items() and metrics(world / "steps")


def test_a_set_that_fails_is_named_and_the_others_finish(kit, world):
    done = kit.run(world / "data", *base(world, "broken"), "--data", "Gone", "Tiny_MCQ")
    assert done.exit == 1 and "Traceback" not in done.text
    assert "FAILED tiny Gone: data set Gone: VLMEvalKit does not know it" in done.text
    assert "done   tiny Tiny_MCQ" in done.text and predictions(world / "broken", sets=["Tiny_MCQ"])


def test_a_checkpoint_without_a_config(kit, world):
    done = kit.run(world / "data", "--model", DEMO, *MCQ_ONLY, "--work-dir", world / "path", "--mode", "infer")
    assert done.exit == 0, done.text
    found = predictions(world / "path", "demo_checkpoint", ["Tiny_MCQ"])  # the last folder alone says little
    assert len(found["Tiny_MCQ"]) == ROWS


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (MCQ_ONLY, "--model PATH, or --config FILE"),
        (("--config", "gone.json"), "cannot read"),
        (("--model", "gone"), "no such folder, and no such name in a config; the config has tiny"),
        (("--model", f"a={DEMO}", "a=other"), "two models would be called a"),
    ],
)
def test_arguments_that_make_no_sense(kit, world, arguments, words):
    config = base(world) if arguments[0] == "--model" else []
    done = kit.run(world / "data", *config, *arguments)
    assert done.exit == 2 and words in done.text


@pytest.mark.parametrize("start", ["forked", pytest.param("torchrun", marks=pytest.mark.long)])
def test_two_ranks_answer_as_one(kit, world, start):
    """On gloo; each rank has a journal, and together they have every row once."""
    arguments = list(map(str, [*base(world, "ranks"), *MCQ_ONLY]))
    shutil.rmtree(world / "ranks", ignore_errors=True)
    if start == "forked":
        assert kit.ask("ranks", data=world / "data", arguments=arguments) == [0, 0]
    else:
        torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "vlmeval.uni_dpo"]
        done = python(kit.root, *torchrun, *arguments, LMUData=str(world / "data"))
        assert done.returncode == 0, done.stderr[-3000:]
    assert predictions(world / "ranks", sets=["Tiny_MCQ"])["Tiny_MCQ"] == predictions(world / "kept")["Tiny_MCQ"]
    shares = [len(path.read_text().splitlines()) for path in world.glob("ranks/tiny/answers/*_MCQ.rank*.jsonl")]
    assert sum(shares) == ROWS and len(shares) == 2


def test_imports_make_no_circle():
    """Of our modules by each other, also those inside functions, though runner and model lie in two packages."""
    import ast

    folders = {"vlmeval.uni_dpo": OVERLAY / "vlmeval/uni_dpo"}
    folders["vlmeval.vlm.qwen2_vl.uni_dpo"] = OVERLAY / "vlmeval/vlm/qwen2_vl/uni_dpo"
    arrows = {}
    for package, folder in folders.items():
        for path in folder.glob("[!_]*.py"):
            wanted = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
            above = {node: ".".join(f"{package}.x".split(".")[: -node.level]) for node in wanted if node.level}
            names = {f"{place}.{node.module}" if node.module else place for node, place in above.items()}
            arrows[f"{package}.{path.stem}"] = names
    while arrows:
        free = [name for name, names in arrows.items() if not names & arrows.keys()]
        assert free, f"a circle among {sorted(arrows)}"
        arrows = {name: names for name, names in arrows.items() if name not in free}
