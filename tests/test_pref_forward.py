"""Whole training runs by every route of `pref_forward`: the same losses, metrics, gradient norms and weights.

Float32 bounds are some ten times what the order of additions was seen to do over 20 steps; a wrong mask, position or
image moves the very first loss or gradient by a hundred times as much.
"""

import functools
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch
from accelerate.state import AcceleratorState
from pairs import ALPACA, mixed, options, train, write_dataset
from recorded import Outcome, recorded_run
from safetensors.torch import load_file
from tiny_models import text_model
from torch.profiler import ProfilerActivity, profile, record_function

from llamafactory.train.uni_dpo.data.collate import PairCollator
from llamafactory.train.uni_dpo.training import self_check
from llamafactory.train.uni_dpo.training.trainer import UniDPOTrainer


# Small steps and a weak beta: a loss that vanishes would hide differences.
SLOW = {"learning_rate": 1e-4, "gradient_accumulation_steps": 1, "pref_beta": 0.5}
THAWED = {"freeze_vision_tower": False, "freeze_multi_modal_projector": False}
LORA = {"finetuning_type": "lora", "lora_rank": 4, "learning_rate": 1e-3}

CASES = {
    "sigmoid": {"pref_loss": "sigmoid"},
    "ipo": {"pref_loss": "ipo"},
    "simpo": {"pref_loss": "simpo"},
    "orpo": {"pref_loss": "orpo"},
    "ld_alpha and pref_ftx": {"pref_loss": "sigmoid", "ld_alpha": 0.3, "pref_ftx": 0.5},
    "pref_bco_weight and accumulation": {
        "pref_loss": "sigmoid",
        "pref_bco_weight": 0.5,
        "gradient_accumulation_steps": 2,
    },
    "lora on the tower too": LORA | {"freeze_vision_tower": False},
    "trainable tower without checkpointing": THAWED | {"disable_gradient_checkpointing": True},
    "an explicit mask": {"flash_attn": "disabled"},
}
LATER = {"hinge": {"pref_loss": "hinge"}, "lora": LORA, "trainable tower": THAWED}
TRIED = [pytest.param(case, id=name) for name, case in CASES.items()]
TRIED += [pytest.param(case, id=name, marks=pytest.mark.long) for name, case in LATER.items()]


@pytest.fixture(scope="module")
def data(rows, pair_data) -> Path:
    """Pairs without a picture, with one and with two."""
    return write_dataset(pair_data, mixed(rows), name="mixed")


def both(run: dict, output: Path, *routes: str) -> list[Outcome]:
    return [recorded_run(run | {"pref_forward": route, "output_dir": str(output / route)}) for route in routes]


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


@contextmanager
def counted_images() -> Iterator[list[int]]:
    """List for every batch of training and evaluation how many images were processed for it."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLImageProcessorFast

    batches: list[int] = []
    seen: list[int] = []
    collate, collate_to_check = PairCollator.__call__, self_check._collated

    def counted(self, features):
        seen.clear()
        batch = collate(self, features)
        batches.append(sum(seen))
        return batch

    def uncounted(*args):
        known = len(batches)
        batch = collate_to_check(*args)
        del batches[known:]
        return batch

    def counting(cls):
        process = cls.__call__

        def call(self, images=None, *args, **kwargs):
            seen.append(len(images))
            return process(self, images, *args, **kwargs)

        return mock.patch.object(cls, "__call__", call)

    with ExitStack() as stack:
        for cls in {Qwen2VLImageProcessor, Qwen2VLImageProcessorFast}:  # one class, in transformers 5
            stack.enter_context(counting(cls))
        stack.enter_context(mock.patch.object(PairCollator, "__call__", counted))
        stack.enter_context(mock.patch.object(self_check, "_collated", uncounted))
        yield batches


@pytest.fixture(scope="module")
def twenty(tiny_model, data, tmp_path_factory):
    """Twenty steps with evaluations on the way, by each route, with the numbers of images processed for each batch."""
    folder, found = tmp_path_factory.mktemp("twenty"), {}
    watching = {"val_size": 4, "eval_strategy": "steps", "eval_steps": 10, "max_steps": 20}
    run = options(tiny_model, data, folder, dataset="mixed", **SLOW, **watching)
    for route in ("upstream", "response_only", "shared_prefix"):
        with counted_images() as counts:
            found[route] = both(run, folder, route)[0], list(counts)
    return found


def test_twenty_steps_of_uni_dpo(tiny_model, twenty):
    """Three routes, over pairs and whole batches with and without pictures."""
    theirs = twenty["upstream"][0]
    assert not theirs.about("pref_forward") and max(theirs.losses[-5:]) > 1e-2
    assert len(theirs.curve("loss")) == 20 and len(theirs.curve("eval_loss")) == 2
    for route in ("response_only", "shared_prefix"):
        assert_agrees(twenty[route][0], route)
        assert_same(theirs, twenty[route][0], tiny_model)
    pictures = [visible(batch, tiny_model) for batch in theirs.batches]
    assert 0 in pictures and max(pictures) > 0


def test_every_image_is_processed_once_a_pair(tiny_model, twenty):
    """Per batch half of upstream's images; both look twice at the stand-in picture of a batch without any."""
    (outcome, theirs), ours = twenty["upstream"], twenty["shared_prefix"][1]
    assert max(theirs) >= 4
    kept = [(wanted, found) for wanted, found in zip(theirs, ours, strict=True) if found != wanted // 2]
    assert set(kept) == {(2, 2)}
    assert len(kept) == [visible(batch, tiny_model) for batch in outcome.batches].count(0)


def test_batches_are_upstreams_with_half_the_patches(twenty):
    """Positions too: they are computed from the sizes of both rows' images."""
    halved = 0
    for wanted, found in zip(twenty["upstream"][0].batches, twenty["shared_prefix"][0].batches, strict=True):
        for name in ("input_ids", "attention_mask", "labels", "position_ids"):
            assert torch.equal(wanted[name], found[name]), name
        patches = wanted["pixel_values"]
        if len(found["pixel_values"]) < len(patches):
            halved += 1
            patches, rejected = patches.chunk(2)
            assert torch.equal(patches, rejected)
        assert torch.equal(patches, found["pixel_values"])
    assert halved >= 3


def visible(batch: dict[str, torch.Tensor], model: Path) -> int:
    """Count image placeholders that attention sees; upstream hides those of its stand-in picture."""
    from transformers import AutoConfig

    token = AutoConfig.from_pretrained(model).image_token_id
    return int((batch["input_ids"][batch["attention_mask"].bool()] == token).sum())


@pytest.mark.parametrize("case", TRIED)
def test_other_losses_and_settings(tiny_model, data, tmp_path, case):
    run = options(tiny_model, data, tmp_path, dataset="mixed", **{"max_steps": 4} | SLOW | case)
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
    run = options(tiny_model, data, tmp_path, dataset="mixed", use_cpu=True, max_steps=4, **SLOW)
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
    changes = {"dataset": "texts", "template": "qwen", "flash_attn": attention, "max_steps": 4}
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
    run = options(tiny_model, data, tmp_path, dataset="films", video_maxlen=4, max_steps=4, **SLOW)
    theirs, ours = both(run, tmp_path, "upstream", "shared_prefix")
    assert_agrees(ours, "shared_prefix")
    assert_same(theirs, ours, tiny_model)
    patches = [len(batch["pixel_values_videos"]) for batch in theirs.batches if "pixel_values_videos" in batch]
    assert (
        patches and [2 * len(b["pixel_values_videos"]) for b in ours.batches if "pixel_values_videos" in b] == patches
    )


# A GPU has to be waited for in these operations, as the host must know a number or a shape.
STALLS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "tolist")
TOWER = "vision tower"


@contextmanager
def stalls(trainer: type) -> Iterator[list[list[str]]]:
    """List for every loss of a batch the stalls in it, without those of the vision tower, which is transformers'."""
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

    steps: list[list[str]] = []
    compute, encode, tolist = trainer.get_batch_loss_metrics, Qwen2VLModel.get_image_features, torch.Tensor.tolist

    def watch(self, model, batch, *args, **kwargs):
        if hasattr(self, "pair_forward") and not self.pair_forward.checked:
            return compute(self, model, batch, *args, **kwargs)  # the self-check may stall, once
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            result = compute(self, model, batch, *args, **kwargs)
        names = [event.name.removeprefix("aten::") for event in profiler.events() if not in_tower(event)]
        steps.append([name for name in names if name in STALLS])
        return result

    @functools.wraps(encode)
    def marked(*args, **kwargs):
        with record_function(TOWER):
            return encode(*args, **kwargs)

    def recorded(tensor):  # on the CPU it reads memory, without an operation
        with record_function("tolist"):
            return tolist(tensor)

    with (
        mock.patch.object(trainer, "get_batch_loss_metrics", watch),
        mock.patch.object(Qwen2VLModel, "get_image_features", marked),
        mock.patch.object(torch.Tensor, "tolist", recorded),
    ):
        yield steps


def in_tower(event) -> bool:
    while event is not None:
        if event.name == TOWER:
            return True
        event = event.cpu_parent
    return False


def test_no_stall_in_a_step_of_ours_and_many_in_upstreams(tiny_model, data, tmp_path):
    """Metrics of ours stay on the device until they are logged, all of them at once."""
    from llamafactory.train.dpo.trainer import CustomDPOTrainer

    run = options(tiny_model, data, tmp_path, dataset="mixed", max_steps=3, **SLOW)
    with stalls(UniDPOTrainer) as ours:
        log = train(run | {"output_dir": str(tmp_path / "ours")})
    with stalls(CustomDPOTrainer) as theirs:
        train(run | {"output_dir": str(tmp_path / "theirs"), "pref_loss": "sigmoid"})
    assert ours == [[]] * 2  # the first step has the self-check
    assert {"rewards/margins", "uni_dpo/w_perf", "logits/chosen"} <= log[0].keys()
    assert len(theirs) == 3 and all(step.count("_local_scalar_dense") >= 8 for step in theirs)
