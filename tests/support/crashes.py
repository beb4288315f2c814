"""What a killed training run may leave behind, and what the same command has to make of it."""

import json
import random
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from forked import Ending, Host
from pairs import log_history
from safetensors.torch import load_file

from llamafactory.train.uni_dpo.record.pair_log import PAIR_LOG, read_pair_log


UNFINISHED = ".unfinished"
TIMINGS = ("runtime", "per_second")
KILLED = (signal.SIGKILL, signal.SIGXFSZ)


@dataclass
class Tally:
    """What kills met: how many there were, and how many left something that was being written."""

    kills: int = 0
    writing: int = 0
    resumed: list[int] = field(default_factory=list)


class Training:
    """A run of `llamafactory-cli train` that is killed again and again, beside an undisturbed one.

    Args:
        host: where it runs.
        run: its options, with checkpoints, a pair log and evaluation.
        folder: of this run's own; configurations go there.
        disk: where it writes, as it sees that.
    """

    def __init__(self, host: Host, run: dict[str, Any], folder: Path, disk: Path | None = None):
        """Run it undisturbed once as it is, and once with all its checkpoints kept."""
        self.host, self.run, self.folder, self.disk, self.tally = host, run, folder, disk or folder, Tally()
        self.output, self.all = (host.path(self.disk / name) for name in ("out", "all"))  # as they are seen from here
        self._train({"output_dir": str(self.disk / "all"), "save_total_limit": None})
        self.whole = self._train()
        self.left = self._names()
        self.weights = load_file(self.output / "model.safetensors")
        self.pairs, self.log = self._course()

    def _train(self, changes: dict[str, Any] | None = None) -> Ending:
        ending = self.start(changes)
        assert ending.status == 0, ending.said
        return ending

    def start(self, changes: dict[str, Any] | None = None, **death: Any) -> Ending:
        """Give the command, with changes to its options, and see how it ends."""
        run = self.run | {"output_dir": str(self.disk / "out")} | (changes or {})
        config = self.folder / "run.yaml"
        config.write_text(json.dumps({name: value for name, value in run.items() if value is not None}))
        return self.host.run("llamafactory.cli:main", "train", config, **{"below": self.disk / "out"} | death)

    def afresh(self) -> None:
        """Begin with an empty folder."""
        shutil.rmtree(self.output, ignore_errors=True)

    def kill(self, **death: Any) -> bool:
        """Give the command, kill it, and look at what it left; tell whether it was killed before it was done."""
        ending = self.start(**death)
        if ending.signal is None:
            assert ending.status == 0, ending.said
            return False
        assert ending.signal in KILLED, ending.said
        self.tally.kills += 1
        self.tally.writing += (self.output / UNFINISHED).is_dir()
        self.assert_whatever_has_a_name_is_whole()
        return True

    def finish(self) -> None:
        """Give the command again, and compare the end with that of the undisturbed run."""
        self._train()
        self.assert_as_undisturbed()

    def assert_whatever_has_a_name_is_whole(self) -> None:
        """Compare every checkpoint, and the model, with those of the undisturbed run."""
        for checkpoint in self.output.glob("checkpoint-*"):
            assert_same_checkpoint(checkpoint, self.all / checkpoint.name)
        if (self.output / "model.safetensors").exists():
            assert_same_weights(load_file(self.output / "model.safetensors"), self.weights)
        for name in ("train_results.json", "eval_results.json", "all_results.json", "trainer_state.json"):
            if (self.output / name).exists():
                json.loads((self.output / name).read_text())

    def assert_as_undisturbed(self) -> None:
        """Compare weights to the last bit, pair log, course, and the names of all files."""
        self.assert_whatever_has_a_name_is_whole()
        assert_same_weights(load_file(self.output / "model.safetensors"), self.weights)
        assert self._course() == (self.pairs, self.log)
        assert self._names() == self.left, self._names() ^ self.left

    def _names(self) -> set[str]:
        return {str(path.relative_to(self.output)) for path in self.output.rglob("*")}

    def _course(self) -> tuple[list, list]:
        log = [{k: v for k, v in entry.items() if not k.endswith(TIMINGS)} for entry in log_history(self.output)]
        return read_pair_log(str(self.output / PAIR_LOG)), [entry for entry in log if "train_loss" not in entry]


def moments(training: Training, count: int, kind: str, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Choose moments to kill a run at.

    Args:
        training: the run, which is killed below its output folder.
        count: how many.
        kind: "change", before a change of the file system, these spread evenly over all changes of a run; or "write",
            in the middle of writing a file.
        seed: of what is left to chance.
    """
    rng, changes = random.Random(seed), training.whole.changes
    for number in range(count):
        change = int(changes * (number + rng.random()) / count)
        size = {"size": int(10 ** rng.uniform(0, 6.2))} if kind == "write" else {}
        yield {"change": change} | size


def assert_same_checkpoint(found: Path, whole: Path) -> None:
    """Compare all that a run goes on from; files of settings by their names."""
    assert {path.name for path in found.iterdir()} == {path.name for path in whole.iterdir()}, found
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        if (whole / name).exists():
            assert (found / name).read_bytes() == (whole / name).read_bytes(), found / name
    states = [json.loads((folder / "trainer_state.json").read_text()) for folder in (found, whole)]
    assert states[0]["global_step"] == states[1]["global_step"]


def assert_same_weights(found: dict[str, torch.Tensor], whole: dict[str, torch.Tensor]) -> None:
    """Compare to the last bit."""
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)
