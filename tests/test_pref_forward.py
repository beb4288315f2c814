"""Whole training runs by every route of `pref_forward`: the same losses, metrics, gradient norms and weights.

Float32 bounds are some ten times what the order of additions was seen to do over 20 steps; a wrong mask, position or
image moves the very first loss or gradient by a hundred times as much.
"""

import os
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from pairs import ALPACA, mixed, options, write_dataset
from recorded_runs import Outcome, watched_run
from safetensors.torch import load_file
from tiny_models import text_model


# Small steps and a weak beta: a loss that vanishes would hide differences.
SLOW = {"learning_rate": 1e-4, "gradient_accumulation_steps": 1, "pref_beta": 0.5}
THAWED = {"freeze_vision_tower": False, "freeze_multi_modal_projector": False}
LORA = {"finetuning_type": "lora", "lora_rank": 4, "learning_rate": 1e-3}

CASES = {
    "sigmoid": {"pref_loss": "sigmoid", "max_steps": 20},
    "hinge": {"pref_loss": "hinge"},
    "ipo": {"pref_loss": "ipo"},
    "simpo": {"pref_loss": "simpo"},
    "orpo": {"pref_loss": "orpo"},
    "ld_alpha": {"pref_loss": "sigmoid", "ld_alpha": 0.3},
    "pref_ftx": {"pref_loss": "sigmoid", "pref_ftx": 0.5},
    "pref_bco_weight": {"pref_loss": "sigmoid", "pref_bco_weight": 0.5},
    "lora": LORA,
    "lora on the tower too": LORA | {"freeze_vision_tower": False},
    "trainable tower": THAWED,
    "trainable tower without checkpointing": THAWED | {"disable_gradient_checkpointing": True},
    "an explicit mask": {"flash_attn": "disabled"},
    "accumulation": {"gradient_accumulation_steps": 2, "max_steps": 3},
}


@pytest.fixture(scope="module")
def data(rows, pair_data) -> Path:
    """Pairs without a picture, with one and with two."""
    return write_dataset(pair_data, mixed(rows), name="mixed")


def both(run: dict, output: Path, *routes: str) -> list[Outcome]:
    return [watched_run(run | {"pref_forward": route, "output_dir": str(output / route)}) for route in routes]


def assert_same(theirs: Outcome, ours: Outcome, model: Path, bound: float = 1e-4):
    """Compare all that two runs logged, and their weights relative to how far training moved them."""
    assert len(theirs.losses) == len(ours.losses) > 0
    assert ours.losses == pytest.approx(theirs.losses, rel=bound, abs=bound / 10)
    for wanted, found in zip(theirs.log, ours.log, strict=True):
        assert wanted.keys() == found.keys()
        for name in wanted.keys() - {"loss", "eval_loss", "train_loss"}:
            if "logits/" not in name:  # means over all positions upstream, and over scored ones here
                assert found[name] == pytest.approx(wanted[name], rel=bound, abs=bound), name
    start = load_file(model / "model.safetensors")
    assert theirs.weights.keys() == ours.weights.keys()
    moved = distance(theirs.weights, {name: start.get(name, torch.zeros(())) for name in theirs.weights})
    assert distance(theirs.weights, ours.weights) < 20 * bound * moved


def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    return sum((first[name].double() - second[name].double()).square().sum().item() for name in first) ** 0.5


def assert_agrees(outcome: Outcome, route: str):
    """The engine really served the run: its route was announced, and its self-check passed."""
    assert outcome.about(f"pref_forward: {route}") and outcome.about("Self-check of pref_forward: within")


def test_twenty_steps_of_uni_dpo(tiny_model, data, tmp_path):
    """Three routes, with evaluations on the way, over pairs and whole batches with and without pictures."""
    watching = {"val_size": 4, "eval_strategy": "steps", "eval_steps": 10, "max_steps": 20}
    run = options(tiny_model, data, tmp_path, dataset="mixed", **SLOW, **watching)
    theirs, rows, shared = both(run, tmp_path, "upstream", "response_only", "shared_prefix")
    assert not theirs.about("pref_forward") and max(theirs.losses[-5:]) > 1e-2
    assert len(theirs.curve("loss")) == 20 and len(theirs.curve("eval_loss")) == 2
    for ours, route in ((rows, "response_only"), (shared, "shared_prefix")):
        assert_agrees(ours, route)
        assert_same(theirs, ours, tiny_model)
    pictures = [visible(batch, tiny_model) for batch in theirs.batches]
    assert 0 in pictures and max(pictures) > 0


def visible(batch: dict[str, torch.Tensor], model: Path) -> int:
    """Count image placeholders that attention sees; upstream hides those of its stand-in picture."""
    from transformers import AutoConfig

    token = AutoConfig.from_pretrained(model).image_token_id
    return int((batch["input_ids"][batch["attention_mask"].bool()] == token).sum())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_other_losses_and_settings(tiny_model, data, tmp_path, case):
    run = options(tiny_model, data, tmp_path, dataset="mixed", **{"max_steps": 6} | SLOW | case)
    theirs, ours = both(run, tmp_path, "upstream", "shared_prefix")
    assert_agrees(ours, "shared_prefix")
    assert_same(theirs, ours, tiny_model)


@pytest.fixture
def precision(monkeypatch):
    """Let a run change the precision of this process, which transformers and accelerate would keep for later runs."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_autocast_to_bfloat16(precision, tiny_model, data, tmp_path):
    """All routes round, each in its own order, so that they only stay close to each other and to float32."""
    run = options(tiny_model, data, tmp_path, dataset="mixed", use_cpu=True, max_steps=6, **SLOW)
    (exact,) = both(run, tmp_path / "exact", "upstream")
    theirs, rows, shared = both(run | {"bf16": True}, tmp_path, "upstream", "response_only", "shared_prefix")
    assert theirs.losses != exact.losses
    for route, outcome in (("upstream", theirs), ("response_only", rows), ("shared_prefix", shared)):
        assert outcome.losses == pytest.approx(exact.losses, rel=0.03), route
        assert outcome.curve("grad_norm") == pytest.approx(exact.curve("grad_norm"), rel=0.1), route
    assert_agrees(rows, "response_only")
    assert_agrees(shared, "shared_prefix")


@pytest.mark.parametrize("kind, attention", [("llama", "auto"), ("qwen2", "disabled")])
def test_a_model_of_text(tiny_model, rows, pair_data, tmp_path, kind, attention):
    """Positions that the model counts itself, and no media at all; eager attention takes an explicit mask."""
    model = text_model(tiny_model, tmp_path / "model", kind)
    texts = [row | {"instruction": row["instruction"].removeprefix("<image>")} for row in rows]
    columns = {name: column for name, column in ALPACA.items() if name != "images"}
    write_dataset(pair_data, texts, name="texts", columns=columns)
    changes = {"dataset": "texts", "template": "qwen", "flash_attn": attention, "max_steps": 6}
    run = options(model, pair_data, tmp_path, **SLOW, **changes)
    theirs, ours = both(run, tmp_path, "upstream", "shared_prefix")
    assert_agrees(ours, "shared_prefix")
    assert_same(theirs, ours, model)


def test_videos(tiny_model, data, rows, video, tmp_path):
    """A video alone, beside a picture, and absent, in one data set; positions in time come from the video's rate."""
    films = [
        row
        | {"instruction": "<video>" * (i % 3 != 0) + row["instruction"].removeprefix("<image>" * (i % 3 != 2))}
        | {"images": row["images"] * (i % 3 == 2), "videos": [os.fspath(video)] * (i % 3 != 0)}
        for i, row in enumerate(rows)
    ]
    write_dataset(data, films, name="films", columns=ALPACA | {"videos": "videos"})
    run = options(tiny_model, data, tmp_path, dataset="films", video_maxlen=4, max_steps=6, **SLOW)
    theirs, ours = both(run, tmp_path, "upstream", "shared_prefix")
    assert_agrees(ours, "shared_prefix")
    assert_same(theirs, ours, tiny_model)
    patches = [len(batch["pixel_values_videos"]) for batch in theirs.batches if "pixel_values_videos" in batch]
    assert (
        patches and [2 * len(b["pixel_values_videos"]) for b in ours.batches if "pixel_values_videos" in b] == patches
    )
