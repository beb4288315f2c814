"""Several processes: two ranks train as one does; scores and the guard against NaN hold under DeepSpeed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pairs import ROOT, command_line, log_history, make_rows, options, write_dataset
from ranks import AUTO, BY_UPSTREAM, TWO_RANKS, ZERO3
from safetensors.torch import load_file

from llamafactory.train.uni_dpo.record.pair_log import PAIR_LOG, read_pair_log


@BY_UPSTREAM
def test_two_ranks_equal_one(tiny_model, pair_data, tmp_path):
    """Two pairs on each of two ranks, or on one with twice the accumulation: the same pairs in every step."""
    outputs = {}
    for name, environment, accumulation in (("one", {}, 2), ("two", TWO_RANKS, 1)):
        changes = {"gradient_accumulation_steps": accumulation, "uni_dpo_log_pairs": True, "max_steps": 5}
        outputs[name] = tmp_path / name
        run = options(tiny_model, pair_data, outputs[name], **changes)
        done = command_line(run, tmp_path / f"{name}.yaml", **environment)
        assert done.returncode == 0, done.stderr[-3000:]

    one, two = (log_history(output) for output in outputs.values())
    for first, second in zip(one[:5], two[:5], strict=True):
        for key in ("loss", "grad_norm", "rewards/margins", "uni_dpo/w_perf", "uni_dpo/w_qual"):
            assert first[key] == pytest.approx(second[key], rel=1e-4, abs=1e-4), key

    logs = [read_pair_log(str(output / PAIR_LOG)) for output in outputs.values()]
    seen = [sorted((row["step"], row["row"]) for row in log) for log in logs]
    assert seen[0] == seen[1] and len(seen[0]) == 20
    weights = [load_file(output / "model.safetensors") for output in outputs.values()]
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-5) for name in weights[0])


@BY_UPSTREAM
def test_scores_are_not_rounded_under_deepspeed_bf16(tiny_model, tmp_path):
    """2.495 is 2.5 in bfloat16 and would reach tau_good = 2.5; the model gets bfloat16, the score must not."""
    rows = [row | {"score_chosen": 2.495} for row in make_rows(tmp_path / "data", 8)]
    write_dataset(tmp_path / "data", rows)
    config = tmp_path / "zero2.json"
    config.write_text(json.dumps({"bf16": {"enabled": True}, "zero_optimization": {"stage": 2}, **AUTO}))
    run = options(tiny_model, tmp_path / "data", tmp_path / "out", deepspeed=str(config), bf16=True)
    done = command_line(
        run | {"uni_dpo_log_pairs": True, "max_steps": 2, "use_cpu": True}, tmp_path / "run.yaml", **TWO_RANKS
    )
    assert done.returncode == 0, done.stderr[-3000:]
    scores = {row["score_chosen"] for row in read_pair_log(str(tmp_path / "out" / PAIR_LOG))}
    assert scores == {2.495}


@pytest.mark.parametrize(
    "step, saving, said",
    [
        (1, {"save_strategy": "no"}, "Step 2: loss nan"),
        (2, {"save_strategy": "steps", "save_steps": 1}, "Step 2: weights are not finite"),
    ],
)
def test_one_rank_with_a_nan_stops_all_under_zero3(tiny_model, tmp_path, step, saving, said):
    """Each rank holds half of every weight: a NaN in one half must be noticed by both before anything is saved."""
    write_dataset(tmp_path / "data", make_rows(tmp_path / "data", 8))
    config = tmp_path / "zero3.json"
    config.write_text(json.dumps({"bf16": {"enabled": True}, "zero_optimization": ZERO3, **AUTO}))
    run = options(tiny_model, tmp_path / "data", tmp_path / "out", deepspeed=str(config), bf16=True, use_cpu=True)
    (tmp_path / "run.json").write_text(json.dumps(run | saving | {"max_steps": 2}))
    arguments = [ROOT / "tests" / "support" / "ruin_zero3.py", tmp_path / "run.json", str(step), tmp_path / "outcome"]
    ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"DS_ACCELERATOR": "cpu"}
    done = subprocess.run([*ranks, *arguments], capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(said in (tmp_path / f"outcome-{rank}.txt").read_text() for rank in range(2))
    # What was whole is saved: the guard does not stop every run.
    saved = sorted(Path(run["output_dir"]).rglob("*.safetensors"))
    assert [path.parent.name for path in saved] == ["checkpoint-1"] * (step - 1)
    assert all(tensor.isfinite().all() for path in saved for tensor in load_file(path).values())
