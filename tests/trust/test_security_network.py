"""Training and evaluation with the network cut off, and in folders whose names need quoting everywhere.

The hub's libraries are left as users have them, not told to stay offline: whoever calls out would be seen, by a hook
in every Python process, and would fail, where this machine lets us take the network away.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from eval_sets import SETS, write_config, write_sets
from pairs import CLI, ROOT, log_history, make_rows, options, write_dataset


# No name of a variable: `datasets` fills those in.
STRANGE = """it's a "strange" $ `pwd` folder; & more"""
CUT_OFF = ["unshare", "--user", "--map-root-user", "--net"]
TOLD = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


def can_cut_off() -> bool:
    try:
        return subprocess.run([*CUT_OFF, "true"], capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model):
    """The repository, a model and pairs in a folder with a strange name."""
    folder = tmp_path_factory.mktemp("network") / STRANGE
    for part in ("LlamaFactory", "VLMEvalKit", "scripts"):
        shutil.copytree(ROOT / part, folder / "repository" / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("examples", "data"):
        (folder / "repository" / part).mkdir()
        (folder / "repository" / part / "uni_dpo").symlink_to(f"../LlamaFactory/{part}/uni_dpo")
    shutil.copytree(tiny_model, folder / "model")
    write_dataset(folder / "pairs", make_rows(folder / "pairs", 12))
    return folder


def run(folder: Path, *command: object, **variables: object) -> tuple[str, list[str]]:
    """Run a command without a network, and return what it printed and whom it tried to reach."""
    calls = folder / "calls.txt"
    calls.write_text("")
    path = os.pathsep.join(filter(None, [str(ROOT / "tests" / "support" / "listening"), os.environ.get("PYTHONPATH")]))
    environment = {name: value for name, value in os.environ.items() if name not in TOLD}
    environment |= {"PYTHONPATH": path, "UNI_DPO_CALLS": str(calls), "CUDA_VISIBLE_DEVICES": ""}
    environment |= {name: str(value) for name, value in variables.items()}
    command = [*(CUT_OFF if can_cut_off() else []), *map(str, command)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr, calls.read_text().splitlines()


def test_the_hook_hears_calls(tmp_path):
    """Also of a child process, and also those that fail."""
    program = "import contextlib, urllib.request as r\nwith contextlib.suppress(OSError): r.urlopen('http://example.invalid')"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {program!r}])"
    assert any("example.invalid" in call for call in run(tmp_path, sys.executable, "-c", child)[1])


def test_training_calls_nobody(place, figure):
    """By the example's own script, with everything of it in strange places."""
    script = place / "repository" / "examples" / "uni_dpo" / "Qwen2_VL_2B_uni_dpo.sh"
    variables = {"MODEL": place / "model", "DATA": "pairs", "DATASET_DIR": place / "pairs", "OUTPUT": place / "out"}
    variables |= {"BATCH": 2, "GLOBAL_BATCH": 4, "PYTHON": sys.executable}
    changes = ["max_steps=2", "preprocessing_num_workers=1", f"media_dir={place / 'pairs'}"]
    _, calls = run(place, "bash", script, *changes, **variables)
    assert calls == []
    assert log_history(place / "out")[0]["loss"] > 0 and (place / "out" / "uni_dpo_training.png").exists()
    cut = "cut off" if can_cut_off() else "there, but nobody called"
    figure(
        "6 security", "training by the example's script in a folder that needs quoting, network " + cut, 1, "no call"
    )


@pytest.mark.long
def test_plain_training_calls_nobody(place, tiny_model, tmp_path):
    """By `llamafactory-cli train`, where `datasets` would report every file it loads; another loss is left alone."""
    for loss, wanted in (("uni_dpo", []), ("sigmoid", ["socket.getaddrinfo s3.amazonaws.com"])):
        run_options = options(tiny_model, place / "pairs", tmp_path / loss, pref_loss=loss, max_steps=1)
        (tmp_path / "run.yaml").write_text(json.dumps(run_options))  # JSON is YAML
        assert run(tmp_path, *CLI, tmp_path / "run.yaml")[1] == wanted


@pytest.mark.long
def test_evaluation_calls_nobody(place, figure):
    """By our runner, and the table over its results."""
    data, work = write_sets(place / "sets"), place / "work"
    config = write_config(place / "config.json", place / "model")
    arguments = ["-m", "vlmeval.uni_dpo", "--config", config, "--work-dir", work]
    _, calls = run(place, sys.executable, *arguments, LMUData=data)
    assert calls == []
    for name in SETS:
        assert pd.read_excel(next(work.rglob(f"*{name}.xlsx")))["prediction"].notna().all()
    table = place / "repository" / "scripts" / "summarize_eval.py"
    assert run(place, sys.executable, table, work, "--out", place / "table")[1] == []
    cut = "cut off" if can_cut_off() else "there, but nobody called"
    figure("6 security", "evaluation in a folder that needs quoting, network " + cut, 1, "no call")


@pytest.mark.long
def test_data_commands_call_nobody(place):
    """Also those that load a tokenizer."""
    data = [sys.executable, place / "repository" / "scripts" / "uni_dpo" / "data.py"]
    options = ["--dataset-dir", place / "pairs"]
    for command in (["check", "pairs", *options, "--model", place / "model"], ["stats", "pairs", *options]):
        extra = ["--out", place / "stats"] if command[0] == "stats" else []
        assert run(place, *data, *command, *extra)[1] == [], command


def test_installer_and_helps(place, checkout, tmp_path):
    """The installer into a checkout with a strange name, and the other scripts as far as is free."""
    target = tmp_path / STRANGE / "LlamaFactory"
    shutil.copytree(checkout, target)
    repository = place / "repository"
    installer = [sys.executable, repository / "scripts" / "install_overlay.py"]
    for command in ("install", "status", "uninstall"):
        run(place, *installer, command, "--checkout", target)
    for script in ("scripts/setup.sh", "examples/uni_dpo/quickstart.sh", "examples/uni_dpo/Qwen2_VL_2B_dpo.sh"):
        assert "usage" in run(place, "bash", repository / script, "--help", PYTHON=sys.executable)[0].lower()


def test_report_to_is_off():
    """Trainers report to every tracker that is installed unless told not to."""
    for example in (ROOT / "examples" / "uni_dpo").glob("*.yaml"):
        assert "report_to: none" in example.read_text(), example
