"""The configs' benchmarks on local rows: VLMEvalKit's own loop and ours, from the same config file."""

import json

import pandas as pd
import pytest
from eval_tree import OVERLAY, TREES, overlaid, python
from local_benchmarks import write_tsvs
from pairs import ROOT

from summarize_eval.rules import NINE, POSTER


METRICS = {"MME": "_score.csv", "POPE": "_score.csv", "OCRBench": "_score.json"}


@pytest.fixture(scope="module", params=TREES, ids=str)
def finished(request, tiny_model, tmp_path_factory):
    """The folders of both loops after all benchmarks of both configs."""
    folder = tmp_path_factory.mktemp("nine")
    write_tsvs(folder / "data", rows=3)
    tree = overlaid(request.param, folder / "tree")
    config = json.loads((OVERLAY / "config.json").read_text())
    config["data"] |= json.loads((OVERLAY / "config_poster.json").read_text())["data"]
    config["model"]["checkpoint"]["max_new_tokens"] = 6  # an untrained model never ends
    (folder / "config.json").write_text(json.dumps(config))
    own = tree / "run.py" if (tree / "run.py").is_file() else "vlmeval.run"
    loops = {"theirs": [own, "--judge", "exact_matching"], "ours": ["vlmeval.uni_dpo"]}
    # VLMEvalKit orders some columns by their hashes.
    variables = {"LMUData": str(folder / "data"), "MODEL": str(tiny_model), "PYTHONHASHSEED": "0"}
    for name, start in loops.items():
        arguments = [*start, "--config", folder / "config.json", "--work-dir", folder / name]
        done = python(tree, ROOT / "tests" / "support" / "eval_offline.py", *arguments, **variables)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "theirs" / "checkpoint", folder / "ours" / "checkpoint"


def test_configs_name_the_benchmarks():
    for name, benchmarks in (("config.json", NINE), ("config_poster.json", POSTER)):
        config = json.loads((OVERLAY / name).read_text())
        assert config["judge"] == "exact_matching"
        assert {key: entry["dataset"] for key, entry in config["data"].items()} == {key: key for key in benchmarks}


@pytest.mark.parametrize("data", NINE + POSTER)
def test_predictions_and_metrics_equal_vlmevalkits(finished, data):
    theirs, ours = (folder / f"checkpoint_{data}" for folder in finished)
    tables = [pd.read_excel(f"{path}.xlsx") for path in (theirs, ours)]
    pd.testing.assert_frame_equal(*tables)
    assert "prediction" in tables[0] and "image" not in tables[0]
    scores = [path.with_name(path.name + METRICS.get(data, "_acc.csv")).read_text() for path in (theirs, ours)]
    assert scores[0] == scores[1] != ""
