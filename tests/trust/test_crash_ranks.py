"""`kill -9` of one of two ranks, at random moments: the same command ends with the weights of an undisturbed run."""

import random

import pytest
from figures import times
from pairs import options
from ranks import course, job, said, statuses, train_jobs


ROWS, STEPS = 24, 6


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("zero2", marks=pytest.mark.long)])
def test_one_rank_is_killed(tiny_model, pair_data, tmp_path, figure, strategy):
    rng, wanted = random.Random(0), times(2, 25)
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": STEPS, "uni_dpo_log_pairs": True}
    run = options(tiny_model, pair_data, tmp_path / "out", gradient_accumulation_steps=1, **saving)
    whole, *killed = (job(tmp_path / name, strategy, 2, run) for name in ("whole", *map(str, range(wanted))))
    jobs = [whole]
    for number, one in enumerate(killed):
        death = {"kill": [number % 2, (number + rng.random()) / wanted], "folder": f"{one['folder']}/killed"}
        jobs += [one | death, one | {"resumes": True}]
    train_jobs(jobs)
    assert statuses(tmp_path / "whole") == [0, 0], said(tmp_path / "whole")[-3000:]
    undisturbed = course(tmp_path / "whole" / "out", ROWS)
    deaths = [statuses(tmp_path / str(number) / "killed") for number in range(wanted)]
    kills = sum(-9 in ended for ended in deaths)
    resumed = 0
    for number in range(wanted):
        folder = tmp_path / str(number)
        assert statuses(folder) == [0, 0], said(folder)[-3000:]
        resumed += "global step" in said(folder)
        assert course(folder / "out", ROWS).off(undisturbed) == (0, 0)
    assert kills and resumed, "no rank was killed while there was something to go on from"
    seen = f"weights to the bit, every pair of every step once; {resumed} went on from a checkpoint"
    figure("2 crash", f"one of two ranks killed, {strategy}, and started again", kills, seen)
