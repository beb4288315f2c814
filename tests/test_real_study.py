"""The script that compares the losses on the real model: what it would run, what it refuses, and a small real run."""

import json
import math
import re
import shlex
import shutil
from pathlib import Path

import pytest
from launching import EXAMPLES, bash, script, settings_in
from local_benchmarks import write_tsvs
from omegaconf import OmegaConf
from pairs import ROOT, make_rows, write_dataset
from real_shape import main


DEFAULT = ["uni_dpo", "dpo", "simpo", "dpo_matched", "simpo_matched"]
ABLATIONS = {"no_w_qual": "uni_dpo_qual_eta", "no_w_perf": "uni_dpo_perf_gamma", "no_nll": "uni_dpo_nll_lambda"}
# What may differ between two runs of one loss, beside what is asked about.
PLACES = ("output_dir", "uni_dpo_reference_cache")


def planned(*arguments: str, **options) -> tuple[str, dict[str, dict]]:
    """Return what a dry run prints, and the settings of every run in it by label."""
    done = bash(script("study"), "--dry-run", *arguments, **{"GPUS": "4"} | options)
    assert done.returncode == 0, done.stderr
    parts = re.split(r"\n== (\S+)\n", done.stdout)
    blocks = dict(zip(parts[1::2], parts[2::2], strict=True))
    blocks.pop("evaluation", None)
    return done.stdout, {label: settings_in(block) for label, block in blocks.items()}


def text(name: str) -> str:
    return (EXAMPLES / f"Qwen2_VL_2B_{name}.yaml").read_text()


def yaml(name: str) -> dict:
    return OmegaConf.to_container(OmegaConf.create(text(name)))


def difference(one: dict, other: dict) -> dict:
    """Options of `one` that `other` has not, or with another value."""
    return {name: value for name, value in one.items() if name not in PLACES and other.get(name, None) != value}


def test_five_runs_with_published_and_matched_settings(tmp_path):
    printed, runs = planned(cwd=tmp_path)
    assert list(runs) == [f"{name}-42" for name in DEFAULT]
    for name in ("uni_dpo", "dpo", "simpo"):  # as published: nothing but what four GPUs here ask for
        assert set(difference(runs[f"{name}-42"], yaml(name))) <= {
            *("flash_attn", "deepspeed", "dataset_dir", "preprocessing_num_workers", "dataloader_num_workers")
        }
    ours = runs["uni_dpo-42"]
    for name in ("dpo", "simpo"):
        run = runs[f"{name}_matched-42"]
        assert (run["learning_rate"], run["pref_beta"]) == (ours["learning_rate"], ours["pref_beta"]) == (6e-6, 2.0)
        assert run["dpo_label_smoothing"] == ours.get("dpo_label_smoothing", 0.0) == 0.0
        changed = difference(run, runs[f"{name}-42"])
        assert set(changed) <= {"learning_rate", "pref_beta", "dpo_label_smoothing"}
        head = re.search(r"^# (learning_rate=\S.*) output_dir=", text(name), re.MULTILINE)[1]  # how to do it by hand
        said = OmegaConf.to_container(OmegaConf.from_cli(head.split()))
        assert said == {option: value for option, value in changed.items() if option in yaml(name)}
    folders = [run["output_dir"] for run in runs.values()]
    assert folders == [str(ROOT / "outputs" / "Qwen2_VL_2B_study" / label) for label in runs]
    caches = {run["pref_loss"]: run.get("uni_dpo_reference_cache") for run in runs.values()}
    assert caches["simpo"] is None and caches["uni_dpo"] == caches["sigmoid"] is not None
    asked = [f"{label}={folder}" for label, folder in zip(runs, folders, strict=True)]
    (line,) = [line for line in printed.splitlines() if "--model base=" in line]
    words = shlex.split(line)[shlex.split(line).index("--model") + 1 :]
    assert words[: len(asked) + 2] == ["base=Qwen/Qwen2-VL-2B", *asked, "--work-dir"]
    assert "torch.distributed.run --standalone --nproc_per_node=4 -m vlmeval.uni_dpo" in printed
    assert "summarize_eval.py" in printed and "--paper" in printed
    assert list(tmp_path.iterdir()) == []
    helped = bash(script("study"), "--help").stdout
    assert all(name in helped for name in (*DEFAULT, *ABLATIONS))


def test_ablations_turn_one_term_off_each_whatever_else_is_given(tmp_path):
    arguments = ["--only", "uni_dpo", "--ablations", "uni_dpo_qual_eta=0.35", "uni_dpo_tau_good=4"]
    _, runs = planned(*arguments, cwd=tmp_path)
    assert list(runs) == [f"{name}-42" for name in ("uni_dpo", *ABLATIONS)]
    assert runs["uni_dpo-42"]["uni_dpo_qual_eta"] == 0.35
    for name, option in ABLATIONS.items():
        assert difference(runs[f"{name}-42"], runs["uni_dpo-42"]) == {option: 0}


def test_chosen_runs_and_seeds_in_a_folder_with_a_space(tmp_path):
    place = tmp_path / "my work"
    place.mkdir()
    printed, runs = planned(
        *("--only", "simpo_matched", "no_nll", "no_nll", "--seeds", "1", "2", "OUTPUT=my models", "max_steps=3"),
        *("uni_dpo_reference_cache=a cache", "--eval", "none"),
        cwd=place,
    )
    assert list(runs) == ["simpo_matched-1", "no_nll-1", "simpo_matched-2", "no_nll-2"]
    assert [run["seed"] for run in runs.values()] == [1, 1, 2, 2]
    assert all(run["max_steps"] == 3 for run in runs.values())
    assert runs["no_nll-2"]["output_dir"] == str(place / "my models" / "no_nll-2")
    assert runs["no_nll-2"]["uni_dpo_reference_cache"] == str(place / "a cache")
    assert "vlmeval" not in printed and list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "orpo"], "there is no run 'orpo'\n  there are: uni_dpo dpo simpo dpo_matched"),
        (["--only", "--dry-run"], "--only needs something after it"),
        (["--seeds", "one"], "--seeds one"),
        (["--eval"], "--eval needs something after it"),
        (["--eval", "nowhere.json"], "no such file"),
        (["learning_rate=1e-5"], "learning_rate is what tells the runs apart"),
        (["output_dir=here"], "OUTPUT=..."),
        (["dpo"], "'dpo' is neither an option nor key=value"),
        (["--dry"], "unknown option '--dry'"),
    ],
)
def test_refuses_before_anything_starts(arguments, message, tmp_path):
    done = bash(script("study"), *arguments, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr
    assert done.stdout == "" and list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, tiny_model):
    """A folder with a space in its path: a tiny model, eight pairs, and a benchmark of a few questions."""
    folder = tmp_path_factory.mktemp("study") / "my work"
    shutil.copytree(tiny_model, folder / "tiny model")
    write_dataset(folder / "my data", make_rows(folder / "my data", count=8))
    write_tsvs(folder, rows=4)
    (folder / "SEEDBench_IMG.tsv").rename(folder / "Mine.tsv")
    model = {"class": "UniDPOVLM", "model_path": "$MODEL", "max_new_tokens": 4}
    config = {"model": {"tiny": model}, "data": {"Mine": {"class": "ImageMCQDataset", "dataset": "Mine"}}}
    (folder / "my benchmarks.json").write_text(json.dumps(config))
    return folder


@pytest.mark.long  # six commands that import torch or VLMEvalKit
def test_a_failing_run_loses_nothing_and_the_same_command_finishes(workplace):
    arguments = ["--only", "uni_dpo", "dpo_matched", "--eval", "my benchmarks.json", "OUTPUT=all", "max_steps=1"]
    given = {"MODEL": "tiny model", "DATASET_DIR": "my data", "DATA": "pairs", "GLOBAL_BATCH": "4", "GPUS": "0"}
    given |= {"LMUData": str(workplace)}
    shutil.copytree(workplace / "tiny model", workplace / "all" / "uni_dpo-42")  # no run's: left alone
    first = bash(script("study"), *arguments, cwd=workplace, **given)
    assert first.returncode == 1, first.stdout[-3000:] + first.stderr
    assert "no checkpoint to resume from" in first.stderr and "FAILED: uni_dpo-42 (why" in first.stderr
    assert columns(workplace) == ["base", "dpo_matched-42"]
    assert "Reference log-probs: 8 of 8" in first.stdout

    shutil.rmtree(workplace / "all" / "uni_dpo-42")
    second = bash(script("study"), *arguments, cwd=workplace, **given)
    assert second.returncode == 0, second.stdout[-3000:] + second.stderr
    assert second.stdout.count("finished already") == 1 and "Reference log-probs: all stored" in second.stdout
    assert columns(workplace) == ["base", "uni_dpo-42", "dpo_matched-42"]
    assert f"# trained, in {workplace / 'all'}: uni_dpo-42 dpo_matched-42" in second.stdout


def columns(workplace: Path) -> list[str]:
    """The checkpoints in the table."""
    return json.loads((workplace / "all" / "table" / "table.json").read_text())["checkpoints"]


@pytest.mark.long
def test_random_checkpoint_trains(tmp_path):
    """For one step, as the page says.

    There the policy is the reference: w_qual = sigmoid(0.7 * 2.5) = .8520, w_perf = sigmoid(2 - 2 m)^3, and the loss
    is their product times log 2.
    """
    assert main([str(tmp_path / "small"), "--small"]) == 0
    run = {"MODEL": "small", "DATASET_DIR": "small/data", "DATA": "pair", "GLOBAL_BATCH": "1", "GPUS": "0"}
    options = ["bf16=true", "use_cpu=true", "finetuning_type=freeze", "freeze_trainable_layers=1"]  # as in the README
    arguments = ["max_steps=1", "uni_dpo_log_pairs=true", *options]
    done = bash(script("uni_dpo"), *arguments, cwd=tmp_path, OUTPUT="out", **run)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    row = json.loads((tmp_path / "out" / "uni_dpo_pairs.jsonl").read_text())
    w_perf = (1 + math.exp(2 * row["policy_margin"] - 2)) ** -3
    assert (row["w_qual"], row["w_perf"]) == pytest.approx((0.8519528, w_perf), rel=1e-5)
    assert row["reward_margin"] == row["nll_weight"] == 0
    assert row["loss"] == pytest.approx(0.8519528 * w_perf * math.log(2), rel=1e-5)
