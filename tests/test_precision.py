"""What is in which precision, for each way of running, and what that is good for: resuming to the bit.

The ways: one process, DDP, ZeRO-1 to 3, FSDP1 and FSDP2 on two ranks; in float32 and bfloat16; full and LoRA; from
weights that are stored in bfloat16, as those of every real model are. On a GPU the kernels are others, and the
precisions the same.
"""

import json
import pickle
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from figures import LONG
from pairs import ROOT, options, train
from ranks import job, said, statuses, train_jobs
from recorded import messages
from safetensors.torch import load_file, save_file

from llamafactory.train.uni_dpo.training.resume import trusting_deepspeed


FLOAT, HALF = "float32", "bfloat16"
WAYS = ("one", "ddp", "zero1", "zero2", "zero3", "fsdp1", "fsdp2")
ALL = [(way, dtype, tuning) for way in WAYS for dtype in (FLOAT, HALF) for tuning in ("full", "lora")]
# FSDP1 flattens weights, and takes no adapter in float32 beside others in bfloat16.
ALL = [case for case in ALL if case[0] != "fsdp1" or case[2] == "full"]
# One of each kind: autocast, DeepSpeed's own weights, and torch's shards.
SOME = [(way, HALF, "full") for way in ("one", "zero2", "fsdp2")]
CASES = ALL if LONG else SOME

# Of weights as the forward pass takes them from the optimizer: DeepSpeed rounds them, others leave it to autocast.
ROUNDS_WEIGHTS = ("zero1", "zero2", "zero3")


@pytest.fixture(scope="module")
def bf16_model(tiny_model, tmp_path_factory):
    """The tiny model stored in bfloat16."""
    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("bf16") / "model")
    file = folder / "model.safetensors"
    save_file({name: weight.bfloat16() for name, weight in load_file(file).items()}, file, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": HALF, "dtype": HALF}))
    return folder


def summing(name):
    """What a DeepSpeed config of the examples says of how gradients are added up."""
    config = json.loads((ROOT / "LlamaFactory" / "examples" / "uni_dpo" / f"{name}.json").read_text())
    return {key: config[key] for key in ("data_types", "communication_data_type") if key in config}


@pytest.fixture(scope="module")
def place(tmp_path_factory, bf16_model, pair_data):
    """Where one step of every case is."""
    place = tmp_path_factory.mktemp("precision")
    fixed = {"max_steps": 1, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 1, "max_samples": 8}
    jobs = []
    for case in CASES:
        way, dtype, tuning = case
        run = fixed | {"max_grad_norm": 0.0, "bf16": dtype == HALF, "use_cpu": not way.startswith("fsdp")}
        run |= {"finetuning_type": tuning, "lora_rank": 4 if tuning == "lora" else None}
        if way == "fsdp1":
            run |= {"freeze_vision_tower": False, "freeze_multi_modal_projector": False}
        folder = place / "-".join(case)
        jobs.append(job(folder, way, 0 if way == "one" else 2, options(bf16_model, pair_data, folder, **run)))
        jobs[-1]["probe"] = True
        if way in ROUNDS_WEIGHTS:
            jobs[-1]["options"] |= {"save_strategy": "steps", "save_steps": 1}
            config = json.loads((folder / "zero.json").read_text()) | {"bf16": {"enabled": "auto"}}
            (folder / "zero.json").write_text(json.dumps(config | summing("ds_z1" if way == "zero1" else "ds_z2")))
    train_jobs(jobs)
    return place


def seen(place, case):
    """What every rank said of its first step."""
    folder = place / "-".join(case)
    assert set(statuses(folder)) == {0}, said(folder)[-3000:]
    logs = [said(folder, rank).splitlines() for rank in range(len(statuses(folder)))]
    return [json.loads(line[11:]) for log in logs for line in log if line.startswith("precision: ")]


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_what_is_in_which_precision(place, case):
    """Everything that is added up or handed on is in float32, and has its digits, whatever computes it."""
    way, dtype, tuning = case
    ranks = seen(place, case)
    assert len(ranks) == (1 if way == "one" else 2)
    for rank in ranks:
        handed_on = {name: rank[name] for name in ("policy", "reference", "losses", "rewards", "scores")}
        assert set(handed_on.values()) == {FLOAT}, handed_on
        assert rank["computed"] == [HALF if way in ROUNDS_WEIGHTS and dtype == HALF else FLOAT]
        assert rank["stepped"] == [FLOAT]
        assert rank["gradients"] == [FLOAT] and not rank["rounded"]
        logps = torch.tensor(rank["logps"])
        assert not torch.equal(logps, logps.bfloat16().float())
        # Accelerate has FSDP keep all weights in float32; LlamaFactory leaves what is frozen as it is stored.
        assert rank["frozen"] == [] if way == "fsdp1" else [FLOAT if way == "fsdp2" and dtype == HALF else HALF]


@pytest.mark.parametrize("case", [case for case in CASES if case[0] != "one"], ids="-".join)
def test_log_probs_are_those_of_one_process(place, case):
    """Up to the rounding of the computation: that of means of -6.3 to bfloat16 would be up to 0.016.

    The first pair of all is the same one however ranks share them.
    """
    one = seen(place, ("one", case[1], "full"))[0]["logps"][:2]
    assert seen(place, case)[0]["logps"][:2] == pytest.approx(one, abs=0.005)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_files_of_a_model(place, case):
    """One process, DDP and FSDP write what they trained; DeepSpeed what it computes with, as its config asks."""
    way, dtype, tuning = case
    (file,) = (place / "-".join(case) / "out").glob("*.safetensors")
    trained = {weight.dtype for name, weight in load_file(file).items() if "visual" not in name}
    assert trained == {torch.bfloat16 if way in ROUNDS_WEIGHTS and dtype == HALF else torch.float32}


@pytest.mark.parametrize("case", [case for case in CASES if case[0] in ROUNDS_WEIGHTS], ids="-".join)
def test_torch_takes_deepspeeds_files_without_trusting_all(place, case):
    """As it loads them for DeepSpeed before 0.16; what is none of DeepSpeed's classes is refused still."""
    files = sorted((place / "-".join(case) / "out" / "checkpoint-1").rglob("*states.pt"))
    assert len(files) > 2
    with trusting_deepspeed():
        for file in files:
            torch.load(file, weights_only=True)
    with pytest.raises(pickle.UnpicklingError, match="deepspeed"):
        for file in files:
            torch.load(file, weights_only=True)


@pytest.mark.parametrize("tuning", ["full", "freeze"])
def test_resuming_keeps_each_tensors_precision(bf16_model, pair_data, tmp_path, tuning):
    """LlamaFactory trains in float32 beside a frozen tower in bfloat16; two steps move weights by 2e-6."""
    run = options(bf16_model, pair_data, tmp_path / "whole", bf16=True, use_cpu=True, learning_rate=1e-6)
    run |= {"finetuning_type": tuning, "save_strategy": "steps", "save_steps": 2}
    run |= {"freeze_trainable_layers": 1} if tuning == "freeze" else {}
    train(run)
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    train(run | {"output_dir": str(tmp_path / "resumed")})
    start, whole, resumed = (load_file(folder / "model.safetensors") for folder in (
        bf16_model, tmp_path / "whole", tmp_path / "resumed"
    ))  # fmt: skip
    assert {weight.dtype for weight in whole.values()} == {torch.bfloat16, torch.float32}
    assert any(not torch.equal(whole[name].float(), start[name].float()) for name in whole)
    assert all(torch.equal(whole[name], resumed[name]) and whole[name].dtype == resumed[name].dtype for name in whole)


def test_resuming_on_two_ranks_keeps_each_tensors_precision(bf16_model, pair_data, tmp_path):
    run = {"bf16": True, "use_cpu": True, "learning_rate": 1e-6, "save_strategy": "steps", "save_steps": 1}
    run = options(bf16_model, pair_data, tmp_path, max_samples=16, max_steps=2, **run)
    whole, resumed = (job(tmp_path / name, "ddp", 2, run) for name in ("whole", "resumed"))
    train_jobs([whole])
    assert statuses(tmp_path / "whole") == [0, 0], said(tmp_path / "whole")[-3000:]
    shutil.copytree(tmp_path / "whole" / "out" / "checkpoint-1", tmp_path / "resumed" / "out" / "checkpoint-1")
    train_jobs([resumed | {"resumes": True}])
    assert statuses(tmp_path / "resumed") == [0, 0], said(tmp_path / "resumed")[-3000:]
    weights = [load_file(tmp_path / name / "out" / "model.safetensors") for name in ("whole", "resumed")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_best_model_comes_back_in_its_precision(bf16_model, pair_data, tmp_path):
    """By a measure that falls the first evaluation is the best, and its weights are not the last ones."""
    run = options(bf16_model, pair_data, tmp_path, bf16=True, use_cpu=True, max_steps=2, val_size=4, learning_rate=0.3)
    run |= {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    run |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": True}
    history = train(run)
    best = Path(json.loads((tmp_path / "trainer_state.json").read_text())["best_model_checkpoint"])
    losses = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    assert best.name == f"checkpoint-{1 + losses.index(max(losses))}"
    kept, last = (load_file(folder / "model.safetensors") for folder in (best, tmp_path))
    assert all(torch.equal(kept[name], last[name]) for name in kept)
    other = load_file(tmp_path / f"checkpoint-{2 - losses.index(max(losses))}" / "model.safetensors")
    assert any(not torch.equal(kept[name], other[name]) for name in kept)


def test_stored_reference_log_probs_have_their_digits(bf16_model, pair_data, tmp_path):
    run = options(bf16_model, pair_data, tmp_path / "out", bf16=True, use_cpu=True, max_steps=1, max_samples=8)
    train(run | {"uni_dpo_reference_cache": str(tmp_path / "cache")})
    rows = [row for part in (tmp_path / "cache").glob("*.parquet") for row in pq.read_table(part).to_pylist()]
    means = torch.tensor([row["chosen_logps"] / row["chosen_tokens"] for row in rows], dtype=torch.float64)
    assert len(means) == 8 and torch.allclose(means, means.float().double(), rtol=1e-14)
    assert not torch.allclose(means, means.bfloat16().double(), rtol=1e-5)


@pytest.mark.parametrize("summed_in, warns", [(None, True), ("bf16", True), ("fp32", False)])
def test_deepspeed_configs_that_round_sums_are_warned_of(summed_in, warns):
    from llamafactory.train.uni_dpo.training.precision import warn_of_rounded_sums

    config = {"bf16": {"enabled": True}, "zero_optimization": {"stage": 2}}
    config |= {"data_types": {"grad_accum_dtype": summed_in}} if summed_in else {}
    with messages() as heard:
        warn_of_rounded_sums(config)
    assert any("adds up the gradients of micro-batches in bf16" in line for line in heard) == warns


def test_our_deepspeed_configs_add_up_in_float32():
    """ZeRO-1 also has to send sums as they are: DeepSpeed 0.19.8 rounds them to bfloat16 otherwise."""
    in_float32 = {"data_types": {"grad_accum_dtype": "fp32"}}
    assert summing("ds_z2") == in_float32 and summing("ds_z1") == in_float32 | {"communication_data_type": "fp32"}
