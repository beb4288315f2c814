"""The upstream contract: what our sources touch is listed, and what is listed is where and as we expect it."""

import os
import subprocess
import sys
from pathlib import Path

import contract
import contract_list
import eval_tree
import other_tree
import pytest
import upstream_names
from figures import LONG
from forked import Host
from pairs import ROOT
from upstream import TREES, overlaid, path_of


LISTED = contract.spread(contract_list.TRAINING) | contract.spread(contract_list.EVALUATION)


@pytest.fixture(scope="module")
def touched():
    return upstream_names.touched()


@pytest.fixture(scope="module")
def patched(tmp_path_factory):
    """A function that copies a LlamaFactory and lays the overlay over it."""
    return lambda tree: overlaid(tree, tmp_path_factory.mktemp("patched"))


def look(part: str, tree: Path, host: Host) -> subprocess.CompletedProcess[str]:
    """Look at the contract with what is in `tree`; in a fork, if its LlamaFactory goes with our transformers."""
    if part == "training" and path_of(tree) == [str(tree)]:
        os.environ["DISABLE_VERSION_CHECK"] = "1"
        return other_tree.run(host, [tree], "contract:command", part)
    environment = eval_tree.environment(tree, DISABLE_VERSION_CHECK="1")
    if part == "training":
        environment["PYTHONPATH"] = os.pathsep.join(path_of(tree))
    command = [sys.executable, str(ROOT / "tests" / "support" / "contract.py"), part]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def names_looked_at(done: subprocess.CompletedProcess[str]) -> int:
    """Read the last line; libraries may have had their say before it."""
    return int(done.stdout.splitlines()[-1].removesuffix(" names as expected"))


def test_every_name_that_we_touch_is_listed(touched):
    assert {name: place for name, place in touched.items() if name not in LISTED} == {}


def test_every_listed_name_is_touched(touched):
    """Nothing stays in the list that no source of ours asks for any more."""
    defined = {f"{base}.{name}" for base, names in upstream_names.overrides().items() for name in names}
    # A class named twice: by the package that offers it, and by the module that has it.
    assert {name for name in LISTED if name not in touched and name not in defined} == set()


def test_every_name_has_a_reason():
    reasons = LISTED | contract.spread(contract_list.REACHED)
    assert all(len(reason) > 3 for reason in reasons.values())
    known = reasons.keys() | {f"transformers.Trainer.{name}" for name in ("_prepare_inputs", "_load_best_model")}
    strange = {name.rpartition(".")[0] for name in contract_list.SIGNATURES} - {n.rpartition(".")[0] for n in known}
    assert strange <= {"llamafactory.data.converter.SharegptDatasetConverter"} | {
        "llamafactory.data.converter.OpenAIDatasetConverter"
    }


@pytest.mark.parametrize("tree", TREES if LONG else TREES[1:], ids=str)
def test_llamafactory_keeps_it(host, tree, patched, figure):
    done = look("training", patched(tree), host)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    count = names_looked_at(done)
    assert count > 190
    what = tree if isinstance(tree, str) else f"checkout {tree.name}"
    figure("4 contract", f"names we touch, llamafactory {what}", count, "all there, with the signatures we expect")


@pytest.mark.parametrize("tree", eval_tree.TREES, ids=str)
def test_vlmevalkit_keeps_it(host, tree, tmp_path, figure):
    done = look("evaluation", eval_tree.overlaid(tree, tmp_path / "tree"), host)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    what = "ms-vlmeval" if isinstance(tree, str) else f"VLMEvalKit checkout {tree.name}"
    figure("4 contract", f"names we touch, {what}", names_looked_at(done), "all there")


def test_a_change_upstream_is_noticed(host, patched):
    """One name gone, one signature changed, one import moved, one method more: each is said with the reason."""
    tree = patched("0.9.5")
    edit(tree / "llamafactory/data/loader.py", "_load_single_dataset", "_load_one_dataset")
    edit(tree / "llamafactory/train/dpo/trainer.py", "train_eval: Literal", "phase: Literal")
    edit(
        tree / "llamafactory/data/processor/pairwise.py",
        "class Pairwise",
        "class Base:\n    place = 1\n\n\nclass Pairwise",
    )
    edit(
        tree / "llamafactory/data/processor/pairwise.py",
        "Processor(DatasetProcessor)",
        "Processor(DatasetProcessor, Base)",
    )
    edit(tree / "llamafactory/train/dpo/workflow.py", "import CustomDPOTrainer", "import CustomDPOTrainer as Trainer")
    edit(tree / "llamafactory/train/dpo/workflow.py", "= CustomDPOTrainer(", "= Trainer(")
    done = look("training", tree, host)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("missing", "signature", "not listed"))]
    assert done.returncode == 1 and len(lines) == 3, done.stdout + done.stderr[-2000:]
    assert lines[0].startswith("missing: llamafactory.data.loader._load_single_dataset (the loader takes")
    assert lines[1].startswith("signature: llamafactory.train.dpo.trainer.CustomDPOTrainer.get_batch_loss_metrics")
    assert lines[2] == "not listed: llamafactory.data.processor.PairwiseDatasetProcessor.place, which ours overrides"


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


SAMPLE = """
import functools
from transformers import Trainer as T, utils
from ...extras import misc
from ..dpo.trainer import CustomDPOTrainer
from .loss import uni_dpo_loss


class Ours(CustomDPOTrainer):
    def step(self, model_args, trainer):
        super().training_step()
        uni_dpo_loss(self.label_pad_token_id, self.step, model_args.hub_token)
        return misc.get_device_count(), utils.logging.info, trainer.lr_scheduler

    def lookup(self):
        loader = upstream_module("data.loader")
        with _swapped("hparams.parser", HfArgumentParser=1):
            return loader.get_dataset, hasattr(misc, "torch_gc"), functools.partial
"""


def test_names_are_found_in_sources(tmp_path, monkeypatch):
    (tmp_path / "sample.py").write_text(SAMPLE)
    monkeypatch.setattr(upstream_names, "OURS", {"llamafactory.train.uni_dpo": tmp_path})
    monkeypatch.setattr(upstream_names, "ROOT", tmp_path)
    monkeypatch.setattr(upstream_names, "REPLACED", {})
    trainer = "llamafactory.train.dpo.trainer.CustomDPOTrainer"
    assert set(upstream_names.touched()) == {
        "transformers.Trainer",
        "transformers.utils",
        "transformers.utils.logging",
        "transformers.utils.logging.info",
        "llamafactory.extras.misc",
        "llamafactory.extras.misc.get_device_count",
        "llamafactory.extras.misc.torch_gc",
        "llamafactory.data.loader.get_dataset",
        "llamafactory.hparams.parser.HfArgumentParser",
        "llamafactory.hparams.ModelArguments.hub_token",
        trainer,
        f"{trainer}.training_step",
        f"{trainer}.label_pad_token_id",
        f"{trainer}.lr_scheduler",
    }
    assert upstream_names.overrides() == {trainer: {"step", "lookup"}}
    assert os.path.basename(upstream_names.touched()["transformers.Trainer"]) == "sample.py:3"
