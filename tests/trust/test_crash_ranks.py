"""`kill -9` of one of two ranks, at random moments: the same command ends with the weights of an undisturbed run."""

import random
import shutil

import pytest
import torch
from figures import times
from pairs import options
from ranks import course, job, said, statuses, train_jobs
from safetensors.torch import load_file


ROWS, STEPS = 24, 6
SECONDS = (2.0, 9.0)  # between them a run of a few seconds reads data, trains and saves


@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_one_rank_is_killed(tiny_model, pair_data, tmp_path, figure, strategy):
    rng, kills, wanted = random.Random(0), 0, times(2, 25)
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": STEPS, "uni_dpo_log_pairs": True}
    run = options(tiny_model, pair_data, tmp_path / "out", gradient_accumulation_steps=1, **saving)
    whole = job(tmp_path / "whole", strategy, 2, run)
    killed = [job(tmp_path / f"{number}", strategy, 2, run) for number in range(wanted)]
    deaths = [{"kill": {"rank": number % 2, "seconds": rng.uniform(*SECONDS)}} for number in range(wanted)]
    again = [job | {"keep_log": True} for job in killed]
    pairs = [entry for pair in zip([j | d for j, d in zip(killed, deaths, strict=True)], again, strict=True) for entry in pair]
    train_jobs([whole, *pairs], tmp_path / "jobs.json")
    assert statuses(tmp_path / "whole") == [0, 0], said(tmp_path / "whole")[-3000:]
    wanted_course = course(tmp_path / "whole" / "out", ROWS)
    for number in range(wanted):
        folder = tmp_path / f"{number}"
        assert statuses(folder) == [0, 0], said(folder)[-3000:]
        kills += "was killed" in (folder / "deaths").read_text()
        loss, weight = course(folder / "out", ROWS).off(wanted_course)
        assert loss == weight == 0
    assert kills, "no rank was killed before its end"
    figure("2 crash", f"one of two ranks killed, {strategy}", kills, "weights to the bit, every pair of every step once")
