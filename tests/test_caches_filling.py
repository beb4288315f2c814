"""Filling caches: by a command and by several ranks; `trust/test_crash_caches.py` interrupts it."""

import json
import os

import pytest
from cached import assert_same_course, images_in, log_probs, pairs_in
from pairs import make_rows, options, train, write_dataset
from ranks import job, said, statuses, train_jobs


MAIN = "llamafactory.train.uni_dpo.caches.__main__:main"
NAMES = {"uni_dpo_reference_cache": "ref", "uni_dpo_image_cache": "img"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """12 pairs, one of them without an image."""
    folder = tmp_path_factory.mktemp("data")
    rows = make_rows(folder, 12)
    rows[3] |= {"instruction": "What is it?", "images": []}
    return write_dataset(folder, rows)


@pytest.fixture(scope="module")
def run(tiny_model, data, tmp_path_factory):
    """Options of a run, without caches."""
    changes = {"learning_rate": 1e-4, "max_steps": 2, "per_device_eval_batch_size": 1}
    return options(tiny_model, data, tmp_path_factory.mktemp("run"), **changes)


def caches_in(folder):
    return {name: str(folder / short) for name, short in NAMES.items()}


@pytest.fixture
def fill(host, tmp_path):
    """The command, in a fork of the host."""

    def command(run, status=0):
        (tmp_path / "run.yaml").write_text(json.dumps(run))
        ending = host.run(MAIN, tmp_path / "run.yaml")
        assert ending.status == status, ending.said
        return ending.said

    return command


def test_the_command_fills_and_trains_nothing(run, tmp_path, fill):
    run = run | caches_in(tmp_path) | {"output_dir": str(tmp_path / "out")}
    assert "The caches are complete." in fill(run)
    assert len(set(pairs_in(tmp_path / "ref"))) == 12 and len(set(images_in(tmp_path / "img"))) == 11
    assert not list((tmp_path / "out").glob("*.safetensors"))
    again = fill(run)
    for what in ("Image features: all stored already", "Reference log-probs: all stored already, so no reference"):
        assert what in again
    assert len(pairs_in(tmp_path / "ref")) == 12


def test_the_command_explains_itself(host, run, fill):
    assert "CONFIG.yaml [OPTION=VALUE ...]" in host.run(MAIN, "--help").said
    assert "Error: Nothing to fill" in fill(run, status=1)


def test_the_command_starts_a_rank_for_each_gpu(tmp_path, monkeypatch):
    """As LlamaFactory does, which would refuse to go on in one process."""
    from llamafactory.train.uni_dpo.caches import __main__ as command

    started = []
    monkeypatch.setattr(os, "execv", lambda *call: started.append(call[1][1:]))
    monkeypatch.setattr(command, "__spec__", type("Spec", (), {"parent": "llamafactory.train.uni_dpo.caches"}))
    monkeypatch.setattr("sys.argv", ["fill", "run.yaml", "seed=1"])
    command._start_all_ranks()
    assert not started
    monkeypatch.setenv("FORCE_TORCHRUN", "1")
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    command._start_all_ranks()
    ranks = "-m torch.distributed.run --standalone --nproc_per_node=2"
    assert started == [f"{ranks} -m llamafactory.train.uni_dpo.caches run.yaml seed=1".split()]


@pytest.fixture(scope="module")
def ranks(run, tmp_path_factory):
    """Two ranks have filled caches, as they are and by ZeRO-3 with LoRA, and trained by ZeRO-3, cold and warm."""
    place = tmp_path_factory.mktemp("ranks")
    lora = {"finetuning_type": "lora"}

    def filling(name, strategy, count, changes):
        made = job(place / name, strategy, count, run | caches_in(place / name) | changes)
        (place / name / "run.yaml").write_text(json.dumps(made["options"] | {"use_cpu": True}))
        return made | {"call": MAIN, "argv": [str(place / name / "run.yaml")]}

    jobs = [filling("two", "ddp", 2, {}), filling("sharded", "zero3", 2, lora), filling("alone", "ddp", 0, lora)]
    for name in ("plain", "cold", "warm"):
        caches = {} if name == "plain" else caches_in(place)
        jobs.append(job(place / name, "zero3", 2, run | caches))
    train_jobs(jobs)
    for each in jobs:
        assert set(statuses(place / each["folder"])) == {0}, said(place / each["folder"])[-3000:]
    return place


def test_two_ranks_share_the_work(run, ranks, tmp_path):
    """Uneven shares are filled up with repeats; a run on one rank then trains as without caches."""
    folder = ranks / "two"
    assert len(set(pairs_in(folder / "ref"))) == 12 and len(pairs_in(folder / "ref")) == 12
    assert len(set(images_in(folder / "img"))) == 11 and len(images_in(folder / "img")) == 12
    kept = sorted(path.name for path in folder.glob("*/part-*"))
    for name, caches in (("plain", {}), ("cached", caches_in(folder))):
        train(run | caches | {"output_dir": str(tmp_path / name)})
    assert_same_course(tmp_path / "plain", tmp_path / "cached", rel=1e-3)
    assert sorted(path.name for path in folder.glob("*/part-*")) == kept


def test_sharded_models_train_with_caches(ranks):
    """Under ZeRO-3 no rank has a whole weight: log-probs come from upstream's sharded reference, before it goes."""
    for first, second in (("plain", "cold"), ("cold", "warm")):
        assert_same_course(ranks / first / "out", ranks / second / "out", rel=1e-3, but={"grad_norm"})
    assert len(set(pairs_in(ranks / "ref"))) == 12


def test_sharded_lora_fills(ranks):
    """Under ZeRO-3 the policy is its own reference before it is wrapped: the pass gathers its weights."""
    sharded, whole = (log_probs(ranks / name / "ref") for name in ("sharded", "alone"))
    assert sharded.keys() == whole.keys() and len(whole) == 12
    # DeepSpeed shards weights in float16 where a configuration names no precision.
    assert all(sharded[pair] == pytest.approx(whole[pair], rel=1e-4) for pair in whole)
