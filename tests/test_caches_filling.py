"""Filling caches: by a command, by several ranks, and after interruptions."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pairs import ROOT, command_line, log_history, make_rows, options, write_dataset
from ranks import AUTO, ZERO3
from safetensors import safe_open


COMMAND = [sys.executable, "-m", "llamafactory.train.uni_dpo.caches"]
RANKS = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
SLOWLY = ROOT / "tests" / "support" / "fill_slowly.py"
COMPARED = ("loss", "rewards/margins", "uni_dpo/reference_margin")


@pytest.fixture
def run(tiny_model, tmp_path):
    """Options of a run over 12 pairs, one of them without an image, with both caches."""
    rows = make_rows(tmp_path / "data", 12)
    rows[3] |= {"instruction": "What is it?", "images": []}
    write_dataset(tmp_path / "data", rows)
    changes = {"learning_rate": 1e-4, "max_steps": 3, "per_device_eval_batch_size": 1}
    run = options(tiny_model, tmp_path / "data", tmp_path / "out", **changes)
    return run | {"uni_dpo_reference_cache": str(tmp_path / "ref"), "uni_dpo_image_cache": str(tmp_path / "img")}


def fill(run, config, command=COMMAND, check=True, **environment):
    config.write_text(json.dumps(run))
    environment = os.environ | environment
    done = subprocess.run([*command, str(config)], capture_output=True, text=True, timeout=300, env=environment)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def pairs_in(folder):
    return [name for part in Path(folder).glob("*.parquet") for name in pq.read_table(part)["pair"].to_pylist()]


def log_probs(folder):
    tables = (pq.read_table(part).to_pylist() for part in Path(folder).glob("*.parquet"))
    return {row["pair"]: [row["chosen_logps"], row["rejected_logps"]] for rows in tables for row in rows}


def images_in(folder):
    names = []
    for part in Path(folder).glob("*.safetensors"):
        with safe_open(part, "pt") as tensors:
            names += [name for name in tensors.keys() if not name.endswith(".grid")]  # noqa: SIM118
    return names


def assert_same_course(first, second):
    for a, b in zip(log_history(first)[:3], log_history(second)[:3], strict=True):
        for key in COMPARED:
            assert a[key] == pytest.approx(b[key], rel=1e-3, abs=1e-5), key


def test_the_command_fills_and_trains_nothing(run, tmp_path):
    done = fill(run, tmp_path / "run.yaml")
    assert "The caches are complete." in done.stdout
    assert len(set(pairs_in(tmp_path / "ref"))) == 12 and len(set(images_in(tmp_path / "img"))) == 11
    assert not list((tmp_path / "out").glob("*.safetensors"))
    again = fill(run, tmp_path / "run.yaml")
    for what in ("Image features: all stored already", "Reference log-probs: all stored already, so no reference"):
        assert what in again.stderr + again.stdout
    assert len(pairs_in(tmp_path / "ref")) == 12


def test_the_command_explains_itself(run, tmp_path):
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "CONFIG.yaml [OPTION=VALUE ...]" in done.stdout
    bare = {name: value for name, value in run.items() if not name.endswith("_cache")}
    done = fill(bare, tmp_path / "run.yaml", check=False)
    assert done.returncode != 0 and "Error: Nothing to fill" in done.stderr


@pytest.mark.parametrize("parts", [2, 5, 14])
def test_killed_and_resumed(run, tmp_path, parts):
    """Killed in the images (2, 5) or in the log-probs (14): what is there is whole and is not computed again."""
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    slow = [sys.executable, SLOWLY, "0.3", tmp_path / "run.yaml"]
    filling = subprocess.Popen(slow, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("*/part-*"))) < parts and filling.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(filling.pid, signal.SIGKILL)
    filling.wait()
    pairs, images = pairs_in(tmp_path / "ref"), images_in(tmp_path / "img")
    assert len(images) + len(pairs) >= parts and len(pairs) < 12

    done = fill(run, tmp_path / "run.yaml")
    said = done.stdout + done.stderr
    assert len(images) == 11 or f"Image features: {11 - len(images)} images to encode" in said
    assert f"Reference log-probs: {12 - len(pairs)} of 12 pairs to compute" in said
    assert sorted(set(pairs_in(tmp_path / "ref"))) == sorted(pairs_in(tmp_path / "ref"))
    assert len(pairs_in(tmp_path / "ref")) == 12 and len(images_in(tmp_path / "img")) == 11


def test_two_ranks_share_the_work(run, tmp_path):
    """Uneven shares are filled up with repeats; a run on one rank then trains as without caches."""
    fill(run, tmp_path / "run.yaml", FORCE_TORCHRUN="1", NPROC_PER_NODE="2")  # as with two GPUs
    assert len(set(pairs_in(tmp_path / "ref"))) == 12 and len(pairs_in(tmp_path / "ref")) == 12
    assert len(set(images_in(tmp_path / "img"))) == 11 and len(images_in(tmp_path / "img")) == 12
    kept = sorted(path.name for path in tmp_path.glob("*/part-*"))
    plain = {name: value for name, value in run.items() if not name.endswith("_cache")}
    for name, options_of in (("plain", plain), ("cached", run)):
        done = command_line(options_of | {"output_dir": str(tmp_path / name)}, tmp_path / f"{name}.yaml")
        assert done.returncode == 0, done.stderr[-3000:]
    assert_same_course(tmp_path / "plain", tmp_path / "cached")
    assert sorted(path.name for path in tmp_path.glob("*/part-*")) == kept


def test_sharded_models_train_with_caches(run, tmp_path):
    """Under ZeRO-3 no rank has a whole weight: log-probs come from upstream's sharded reference, before it goes."""
    config = tmp_path / "zero3.json"
    config.write_text(json.dumps({"zero_optimization": ZERO3, **AUTO}))
    run |= {"deepspeed": str(config), "use_cpu": True}
    plain = {name: value for name, value in run.items() if not name.endswith("_cache")}
    ranks = [*RANKS, str(ROOT / "tests" / "support" / "train_deepspeed.py")]
    for name, options_of in (("plain", plain), ("cold", run), ("warm", run)):
        fill(options_of | {"output_dir": str(tmp_path / name)}, tmp_path / f"{name}.json", ranks)
    assert_same_course(tmp_path / "plain", tmp_path / "cold")
    assert_same_course(tmp_path / "cold", tmp_path / "warm")
    assert len(set(pairs_in(tmp_path / "ref"))) == 12


def test_sharded_lora_fills(run, tmp_path):
    """Under ZeRO-3 the policy is its own reference before it is wrapped: the pass gathers its weights."""
    config = tmp_path / "zero3.json"
    config.write_text(json.dumps({"zero_optimization": ZERO3, **AUTO}))
    run |= {"finetuning_type": "lora", "use_cpu": True}
    fill(run | {"deepspeed": str(config)}, tmp_path / "run.yaml", [*RANKS, str(SLOWLY), "0"], DS_ACCELERATOR="cpu")
    alone = {name: f"{value}-alone" for name, value in run.items() if name.endswith("_cache")}
    fill(run | alone, tmp_path / "alone.yaml")
    sharded, whole = (log_probs(tmp_path / name) for name in ("ref", "ref-alone"))
    assert sharded.keys() == whole.keys() and len(whole) == 12
    # DeepSpeed shards weights in float16 where a configuration names no precision.
    assert all(sharded[pair] == pytest.approx(whole[pair], rel=1e-4) for pair in whole)
