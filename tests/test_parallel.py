"""Several ranks: scores keep their digits, and one rank with a NaN stops all, under DeepSpeed.

`trust/test_parallel_matrix.py` compares ranks with one process by every strategy.
"""

import json

import pytest
from pairs import make_rows, options, write_dataset
from ranks import job, said, statuses, train_jobs
from safetensors.torch import load_file

from llamafactory.train.uni_dpo.record.pair_log import PAIR_LOG, read_pair_log


NAN = {
    "loss": (1, {"save_strategy": "no"}, "Step 2: loss nan"),
    "weights": (2, {"save_strategy": "steps", "save_steps": 1}, "Step 2: weights are not finite"),
}


@pytest.fixture(scope="module")
def place(tiny_model, tmp_path_factory):
    """Where two ranks have trained in bfloat16: by ZeRO-2 with a score of 2.495, by ZeRO-3 with a weight broken."""
    place = tmp_path_factory.mktemp("parallel")
    write_dataset(place, [row | {"score_chosen": 2.495} for row in make_rows(place, 8)])
    run = options(tiny_model, place, place, bf16=True, max_steps=2, uni_dpo_log_pairs=True)
    jobs = [job(place / "scores", "zero2", 2, run)]
    for name, (step, saving, _) in NAN.items():
        broken = job(place / name, "zero3", 2, run | saving)
        (place / name / "run.json").write_text(json.dumps(broken["options"]))
        arguments = [str(place / name / "run.json"), str(step), str(place / name / "outcome")]
        jobs.append(broken | {"call": "ruin_zero3:main", "argv": arguments})
    for each in jobs:
        config = json.loads((place / each["folder"] / "zero.json").read_text())
        (place / each["folder"] / "zero.json").write_text(json.dumps(config | {"bf16": {"enabled": True}}))
    train_jobs(jobs)
    return place


def test_scores_are_not_rounded_under_deepspeed_bf16(place):
    """2.495 is 2.5 in bfloat16 and would reach tau_good = 2.5; the model gets bfloat16, the score must not."""
    assert statuses(place / "scores") == [0, 0], said(place / "scores")[-3000:]
    logged = read_pair_log(str(place / "scores" / "out" / PAIR_LOG))
    assert len(logged) == 16 and {row["score_chosen"] for row in logged} == {2.495}


@pytest.mark.parametrize("name", NAN)
def test_one_rank_with_a_nan_stops_all_under_zero3(place, name):
    """Each rank holds half of every weight: a NaN in one half must be seen by both before anything is saved."""
    folder, (step, _, message) = place / name, NAN[name]
    assert statuses(folder) == [0, 0], said(folder)[-3000:]
    assert all(message in (folder / f"outcome-{rank}.txt").read_text() for rank in range(2))
    # What was whole is saved: the guard does not stop every run.
    saved = sorted((folder / "out").rglob("*.safetensors"))
    assert [path.parent.name for path in saved] == ["checkpoint-1"] * (step - 1)
    assert all(tensor.isfinite().all() for path in saved for tensor in load_file(path).values())
