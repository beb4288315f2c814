"""`pref_token_budget`: the micro-batches of a step in fewer calls of the model, with the same result."""

import json

import pytest
import torch
from family_checkpoints import checkpoint_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import make_rows, mixed, options, train, write_dataset
from ranks import course, job, said, statuses, train_jobs
from recorded import recorded_run

from llamafactory.train.uni_dpo.errors import UniDPOError
from llamafactory.train.uni_dpo.training.budget import spread


RATE = 1e-4
STEPS = {"learning_rate": RATE, "adam_epsilon": 1e-5, "pref_beta": 0.5, "max_steps": 4, "uni_dpo_log_pairs": True}
PAIRS, AT_ONCE = 24, 8


@pytest.fixture(scope="module")
def data(rows, pair_data):
    """Pairs without a picture, with one and with two."""
    return write_dataset(pair_data, mixed(rows), name="mixed")


@given(st.lists(st.integers(1, 900), min_size=2, max_size=40), st.data())
@settings(max_examples=50, deadline=None)
def test_every_micro_batch_is_in_one_pack(tokens, draw):
    count = draw.draw(st.integers(1, len(tokens)))
    packs = spread(tokens, count)
    assert len(packs) == count and all(packs)
    assert sorted(place for pack in packs for place in pack) == list(range(len(tokens)))
    filled = [sum(tokens[place] for place in pack) for pack in packs]
    assert max(filled) - min(filled) <= max(tokens)


@pytest.fixture(scope="module")
def unjoined(tiny_model, data, tmp_path_factory):
    """Eight micro-batches a step, one by one: the options, and what happened."""
    folder = tmp_path_factory.mktemp("budget")
    changes = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8, "dataset": "mixed"}
    run = options(tiny_model, data, folder / "unjoined", **STEPS | changes)
    return run, recorded_run(run)


@pytest.mark.parametrize(
    "changes, calls",
    [
        ({"pref_token_budget": 300}, range(8, 21)),
        ({"pref_token_budget": 16384}, [4]),
        ({"pref_token_budget": 16384, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}, [4]),
        ({"pref_token_budget": 16384, "uni_dpo_reference_cache": "reference", "uni_dpo_image_cache": "image"}, [4]),
    ],
    ids=["300", "all in one", "of two pairs", "caches"],
)
def test_the_course_is_the_same(unjoined, tmp_path, changes, calls):
    run, expected = unjoined
    folders = {name: str(tmp_path / value) for name, value in changes.items() if name.endswith("cache")}
    found = recorded_run(run | changes | folders | {"output_dir": str(tmp_path / "out")})
    assert len(expected.batches) == 32 and len(found.batches) in calls
    for name in ("loss", "grad_norm", "rewards/margins", "rewards/accuracies", "logps/chosen", "uni_dpo/w_perf"):
        assert found.curve(name) == pytest.approx(expected.curve(name), rel=2e-3, abs=2e-4), name
    assert all((value - expected.weights[name]).abs().max() < 0.1 * RATE for name, value in found.weights.items())
    logged = [
        sorted((json.loads(line) for line in open(f"{folder}/uni_dpo_pairs.jsonl")), key=lambda row: str(row))
        for folder in (run["output_dir"], tmp_path / "out")
    ]
    assert len(logged[0]) == len(logged[1]) == 32
    for one, other in zip(*logged, strict=True):
        assert one["row"] == other["row"] and one["loss"] == pytest.approx(other["loss"], rel=2e-3, abs=1e-4)


def test_it_resumes_and_serves_other_losses(unjoined, tmp_path):
    """To the bit, as a step joins what it would have joined."""
    run = unjoined[0] | {"pref_token_budget": 300, "pref_loss": "sigmoid", "uni_dpo_log_pairs": False}
    run |= {"save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "constant"}
    whole = recorded_run(run | {"output_dir": str(tmp_path / "whole")})
    train(run | {"output_dir": str(tmp_path / "parts"), "max_steps": 2})
    rest = {"output_dir": str(tmp_path / "parts"), "resume_from_checkpoint": str(tmp_path / "parts" / "checkpoint-2")}
    parts = recorded_run(run | rest)
    assert 4 < len(whole.batches) < 32
    assert all(torch.equal(value, whole.weights[name]) for name, value in parts.weights.items())


def test_an_evaluation_between_two_logs(unjoined, tmp_path):
    """It reads metrics of training that are not logged yet; those of the steps after it come as vectors."""
    run, _ = unjoined
    often = {"logging_steps": 4, "eval_strategy": "steps", "eval_steps": 3, "val_size": 4, "max_steps": 4}
    once, joined = (
        train(run | often | {"output_dir": str(tmp_path / str(budget)), "pref_token_budget": budget})
        for budget in (0, 16384)
    )
    logged = [[entry for entry in log if "rewards/accuracies" in entry] for log in (once, joined)]
    assert len(logged[0]) == len(logged[1]) == 1
    assert logged[1][0]["logps/chosen"] == pytest.approx(logged[0][0]["logps/chosen"], rel=1e-4)


def test_what_cannot_be_joined(tiny_model, data, tmp_path):
    run = options(tiny_model, data, tmp_path / "out", dataset="mixed", pref_token_budget=512, max_steps=1)
    with pytest.raises(UniDPOError, match="`pref_token_budget` is not possible with `pref_forward: upstream`"):
        train(run | {"pref_forward": "upstream"})
    with pytest.raises(UniDPOError, match="`pref_token_budget` is not possible with `pref_bco_weight`"):
        train(run | {"pref_loss": "sigmoid", "pref_bco_weight": 0.5})
    with pytest.raises(UniDPOError, match="`pref_varlen_attention` needs `bf16: true` or `fp16: true` on a GPU"):
        train(run | {"pref_varlen_attention": True})
    model = checkpoint_of("gemma3", tiny_model, tmp_path / "model")
    outcome = recorded_run(run | {"model_name_or_path": str(model), "template": "gemma3"})
    assert outcome.about("pref_token_budget: 512 joins nothing, as response_only has no packed rows.")


STRATEGIES = ("ddp", "fsdp2", "zero1", "zero2", "zero3")


def test_ranks_equal_one_process(tiny_model, tmp_path):
    """Shares are as unequal as they come: one rank has the long pairs of every step, the other the short ones."""
    rows = sorted(make_rows(tmp_path / "data", PAIRS), key=lambda row: len(row["chosen"]))
    for row in rows[PAIRS // 2 :]:
        row["chosen"] += " and so on" * 40
    rows = [row for both in zip(rows[: PAIRS // 2], rows[PAIRS // 2 :], strict=True) for row in both]
    data = write_dataset(tmp_path / "data", rows)
    plans = {}
    for strategy, ranks, budget in (("alone", 0, 0), *((strategy, 2, 600) for strategy in STRATEGIES)):
        folder = tmp_path / strategy
        changes = {"gradient_accumulation_steps": AT_ONCE // max(1, ranks), "per_device_train_batch_size": 1}
        changes |= {"disable_shuffling": True, "max_steps": 3, "pref_token_budget": budget}
        run = options(tiny_model, data, folder, **STEPS | changes)
        plans[strategy] = folder, job(folder, strategy, ranks, run, "Qwen2VLDecoderLayer,Qwen2VLVisionBlock")
    train_jobs([described for _, described in plans.values()])
    alone = course(plans.pop("alone")[0] / "out", PAIRS)
    for strategy, (folder, _) in plans.items():
        assert set(statuses(folder)) == {0}, said(folder)[-3000:]
        loss, weight = course(folder / "out", PAIRS).off(alone)
        assert loss < 2e-4 and weight < 0.1 * RATE, (strategy, loss, weight)
