"""The data side and the metrics of the fast forward: each image processed once a pair, and no stalls of the device."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch
from pairs import mixed, options, train, write_dataset
from recorded_runs import watched_run
from torch.profiler import ProfilerActivity, profile, record_function

from llamafactory.train.uni_dpo.data.collate import PairCollator
from llamafactory.train.uni_dpo.training import self_check
from llamafactory.train.uni_dpo.training.trainer import UniDPOTrainer


SLOW = {"learning_rate": 1e-4, "gradient_accumulation_steps": 1, "pref_beta": 0.5}


@pytest.fixture(scope="module")
def data(rows, pair_data) -> Path:
    """Pairs with none, one and two pictures."""
    return write_dataset(pair_data, mixed(rows), name="mixed")


# ---- the collator ----


@contextmanager
def counted_images() -> Iterator[list[int]]:
    """Note for every batch of training how many images were processed for it."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLImageProcessorFast

    batches: list[int] = []
    seen: list[int] = []
    collate, collate_to_check = PairCollator.__call__, self_check._collated

    def watch(self, features):
        seen.clear()
        batch = collate(self, features)
        batches.append(sum(seen))
        return batch

    def uncounted(*args):
        counted = len(batches)
        batch = collate_to_check(*args)
        del batches[counted:]
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
        with mock.patch.object(PairCollator, "__call__", watch), mock.patch.object(self_check, "_collated", uncounted):
            yield batches


@pytest.fixture(scope="module")
def runs(tiny_model, data, tmp_path_factory):
    """Five steps by upstream's forward and by ours: outcomes, and counts of images processed."""
    found = {}
    for route in ("upstream", "shared_prefix"):
        run = options(tiny_model, data, tmp_path_factory.mktemp(route), dataset="mixed", max_steps=5, **SLOW)
        with counted_images() as counts:
            found[route] = watched_run(run | {"pref_forward": route}), list(counts)
    return found


def pictures(outcome, name: str) -> list[torch.Tensor]:
    return [batch[name] for batch in outcome.batches]


def test_every_image_is_processed_once_a_pair(runs):
    """Per batch half of upstream's images; a batch without any gets one stand-in picture from both."""
    theirs, ours = runs["upstream"][1], runs["shared_prefix"][1]
    assert len(theirs) >= 5 and max(theirs) >= 4
    assert ours == [count if count == 1 else count // 2 for count in theirs]


def test_patches_are_halved_and_equal(runs):
    theirs, ours = runs["upstream"][0], runs["shared_prefix"][0]
    halved = 0
    for wanted, found in zip(pictures(theirs, "pixel_values"), pictures(ours, "pixel_values"), strict=True):
        if len(found) < len(wanted):
            halved += 1
            wanted, rejected = wanted.chunk(2)
            assert torch.equal(wanted, rejected)
        assert torch.equal(wanted, found)
    assert halved >= 3


@pytest.mark.parametrize("name", ["input_ids", "attention_mask", "labels", "position_ids"])
def test_everything_else_of_a_batch_is_upstreams(runs, name):
    """Positions above all: they are computed from the sizes of both rows' images."""
    theirs, ours = (pictures(runs[route][0], name) for route in ("upstream", "shared_prefix"))
    assert all(torch.equal(wanted, found) for wanted, found in zip(theirs, ours, strict=True))


# ---- metrics ----


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

    def marked(*args, **kwargs):
        with record_function(TOWER):
            return encode(*args, **kwargs)

    def noted(tensor):  # on the CPU it reads memory, without an operation
        with record_function("tolist"):
            return tolist(tensor)

    with (
        mock.patch.object(trainer, "get_batch_loss_metrics", watch),
        mock.patch.object(Qwen2VLModel, "get_image_features", marked),
        mock.patch.object(torch.Tensor, "tolist", noted),
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

    run = options(tiny_model, data, tmp_path, dataset="mixed", max_steps=4, **SLOW)
    with stalls(UniDPOTrainer) as ours:
        log = train(run | {"output_dir": str(tmp_path / "ours")})
    with stalls(CustomDPOTrainer) as theirs:
        train(run | {"output_dir": str(tmp_path / "theirs"), "pref_loss": "sigmoid"})
    assert ours == [[]] * 3  # the first step has the self-check
    assert {"rewards/margins", "uni_dpo/w_perf", "logits/chosen"} <= log[0].keys()
    assert len(theirs) == 4 and all(step.count("_local_scalar_dense") >= 8 for step in theirs)
