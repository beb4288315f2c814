"""From raw ranked answers to a trained model by the commands of the README.

Training is started as a user does; the data commands run in this process, which spares their imports.
"""

import json
import sys

from data_cli import data
from launching import bash, script
from pairs import ROOT, log_history, make_rows


def typed(*arguments):
    """Run `data.py ARGUMENTS` and return what it printed."""
    status, out, err = data(*arguments)
    assert not status, out + err
    return out + err


def test_from_ranked_answers_to_a_trained_model(tmp_path):
    """Convert, score, register, look, check, train: nothing to edit, and each step's output fits the next."""
    raw, scorer = tmp_path / "data" / "MM-RLHF", ROOT / "data" / "demo" / "checkpoint"
    pictures = make_rows(raw / "short", count=5)
    with (raw / "data.jsonl").open("w") as file:  # as in an unpacked MM-RLHF: four ranked answers a question
        for number, row in enumerate(pictures):
            answers = [row["chosen"], row["rejected"], f"Perhaps {number}.", "I would rather not say."]
            ranked = [{"response": text, "rank": place} for place, text in enumerate(answers, 1)]
            asked = {"question": row["instruction"].removeprefix("<image>"), "image": f"short/{row['images'][0]}"}
            file.write(json.dumps({"id": number, "responses": ranked} | asked) + "\n")
    folder = raw.parent
    unscored, pairs = folder / "unscored.json", folder / "mm_rlhf.json"
    typed("convert", raw / "data.jsonl", "-o", unscored)
    assert "score_chosen" not in json.loads(unscored.read_text())[0], "a rank is not a score"
    assert "agree" in typed("score", unscored, "-o", pairs, "--model", scorer, "--kind", "yes-no")
    typed("register", "mm_rlhf", pairs, "--dataset-dir", folder)
    assert "tau_good" in typed("stats", "mm_rlhf", "--dataset-dir", folder, "--out", tmp_path / "stats")
    assert (tmp_path / "stats" / "stats.png").is_file()
    typed(
        "check", "mm_rlhf", "--dataset-dir", folder, "--model", scorer, "--template", "qwen2_vl", "--cutoff-len", 512
    )

    variables = {"MODEL": scorer, "DATA": "mm_rlhf", "DATASET_DIR": folder, "OUTPUT": tmp_path / "model"}
    variables |= {"BATCH": 2, "GLOBAL_BATCH": 4, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    changes = ["max_steps=1", "preprocessing_num_workers=1", "uni_dpo_tau_good=0"]
    done = bash(script("uni_dpo"), *changes, **{name: str(value) for name, value in variables.items()})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert log_history(tmp_path / "model")[0]["loss"] > 0
