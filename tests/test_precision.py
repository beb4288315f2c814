"""What is in which precision, for each way of running, and what that is good for: resuming to the bit.

The ways: one process, DDP, ZeRO-2, ZeRO-3, FSDP1 and FSDP2 on two ranks; in float32 and bfloat16; full and LoRA. On a
GPU the kernels are others, and the precisions are the same.
"""

import json

import pytest
import torch
from figures import LONG
from pairs import options
from ranks import job, said, statuses, train_jobs
from safetensors.torch import load_file, save_file


FLOAT, HALF = "float32", "bfloat16"
WAYS = ("one", "ddp", "zero2", "zero3", "fsdp1", "fsdp2")
ALL = [(way, dtype, tuning) for way in WAYS for dtype in (FLOAT, HALF) for tuning in ("full", "lora")]
SOME = [case for case in ALL if case[1:] == (HALF, "full")] + [("one", FLOAT, "full"), ("fsdp2", HALF, "lora")]
SOME += [("zero2", HALF, "lora")]
import os
CASES = [tuple(c.split("-")) for c in os.environ["CASES"].split()] if "CASES" in os.environ else SOME


@pytest.fixture(scope="module")
def bf16_model(tiny_model, tmp_path_factory):
    """The tiny model stored in bfloat16, as every real one is."""
    folder = tmp_path_factory.mktemp("bf16") / "model"
    return stored_in_bf16(tiny_model, folder)


def stored_in_bf16(model, folder):
    import shutil

    shutil.copytree(model, folder)
    file = folder / "model.safetensors"
    weights = {name: weight.bfloat16() for name, weight in load_file(file).items()}
    save_file(weights, file, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def seen(tmp_path_factory, bf16_model, pair_data):
    """What every rank of every case printed, by case."""
    place = tmp_path_factory.mktemp("precision")
    jobs = []
    for case in CASES:
        way, dtype, tuning = case
        run = {"max_steps": 1, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 1}
        run |= {"max_grad_norm": 0.0, "max_samples": 8, "bf16": dtype == HALF, "use_cpu": not way.startswith("fsdp")}
        run |= {"finetuning_type": tuning, "lora_rank": 4 if tuning == "lora" else None}
        if way == "fsdp1":  # flattens weights, and so takes but one precision
            run |= {"freeze_vision_tower": False, "freeze_multi_modal_projector": False}
        folder = place / "-".join(case)
        jobs.append(job(folder, way, 0 if way == "one" else 2, options(bf16_model, pair_data, folder, **run)))
        jobs[-1]["probe"] = True
        if way.startswith("zero"):
            config = json.loads((folder / "zero.json").read_text())
            config |= {"bf16": {"enabled": "auto"}, "data_types": {"grad_accum_dtype": "fp32"}}
            (folder / "zero.json").write_text(json.dumps(config))
    train_jobs(jobs, place / "jobs.json")
    return {case: read(place / "-".join(case)) for case in CASES}


def read(folder):
    assert set(statuses(folder)) == {0}, said(folder)[-3000:]
    logs = [said(folder, rank).splitlines() for rank in range(len(statuses(folder)))]
    return [json.loads(line[11:]) for log in logs for line in log if line.startswith("precision: ")]


def test_x(seen):
    for case, ranks in seen.items():
        print(case, json.dumps(ranks[0]))
    assert 0
