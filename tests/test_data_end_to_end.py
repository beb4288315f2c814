"""From raw ranked answers to a trained model by the commands of the README, each as a user would type it."""

import json
import os
import subprocess
import sys

import pytest
from pairs import ROOT, log_history, make_rows


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A folder like an unpacked MM-RLHF: `data.jsonl` with four ranked answers a question, and its pictures."""
    folder = tmp_path_factory.mktemp("data") / "MM-RLHF"
    pictures = make_rows(folder / "short", count=12)
    with (folder / "data.jsonl").open("w") as file:
        for number, row in enumerate(pictures):
            answers = [row["chosen"], row["rejected"], f"Perhaps {number}.", "I would rather not say."]
            asked = row["instruction"].removeprefix("<image>")
            ranked = [{"response": text, "rank": place} for place, text in enumerate(answers, 1)]
            image = f"short/{row['images'][0]}"
            file.write(json.dumps({"id": number, "image": image, "question": asked, "responses": ranked}) + "\n")
    return folder


def data(*arguments, status=0):
    """Run `data.py` and return what it printed."""
    command = [sys.executable, str(ROOT / "scripts" / "uni_dpo" / "data.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_from_ranked_answers_to_a_trained_model(raw, tmp_path):
    """Convert, score, register, look, check, train: nothing to edit, and each step's output fits the next."""
    folder, scorer = raw.parent, ROOT / "data" / "demo" / "checkpoint"
    unscored, pairs = folder / "unscored.json", folder / "mm_rlhf.json"
    data("convert", raw / "data.jsonl", "-o", unscored)
    assert "score_chosen" not in json.loads(unscored.read_text())[0], "a rank is not a score"
    assert "agree" in data("score", unscored, "-o", pairs, "--model", scorer, "--kind", "yes-no")
    data("register", "mm_rlhf", pairs, "--dataset-dir", folder)
    assert "tau_good" in data("stats", "mm_rlhf", "--dataset-dir", folder, "--out", tmp_path / "stats")
    assert (tmp_path / "stats" / "stats.png").is_file()
    data("check", "mm_rlhf", "--dataset-dir", folder, "--model", scorer, "--template", "qwen2_vl", "--cutoff-len", 512)

    variables = {"MODEL": scorer, "DATA": "mm_rlhf", "DATASET_DIR": folder, "OUTPUT": tmp_path / "model"}
    variables |= {"BATCH": 2, "GLOBAL_BATCH": 4, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    script = ROOT / "examples" / "uni_dpo" / "Qwen2_VL_2B_uni_dpo.sh"
    changes = ["max_steps=2", "preprocessing_num_workers=1", "uni_dpo_tau_good=0"]
    environment = os.environ | {name: str(value) for name, value in variables.items()}
    done = subprocess.run(["bash", script, *changes], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert log_history(tmp_path / "model")[0]["loss"] > 0
