"""Two machines, by the example's own script and its variables: equal to one, and neither waits for a lost one.

They are two networks joined by a cable where this machine allows that, else two ends on one network, each with a disk
of its own or with a shared one.
"""

import os
import shutil
import signal
from pathlib import Path

import pytest
from nodes import has_namespaces, script, start, wait_until
from pairs import make_rows, write_dataset
from ranks import course
from safetensors.torch import load_file


COUNT = 24
JOINED = "two network namespaces" if has_namespaces() else "two ends of one network"
SETTINGS = ["adam_epsilon=1e-5", "learning_rate=1e-4", "lr_scheduler_type=constant", "uni_dpo_log_pairs=true"]
SETTINGS += ["num_train_epochs=100"]


class Machines:
    """Two machines, or one, each with a folder for its data and its output.

    Attributes:
        outputs: of both.
    """

    def __init__(self, folder: Path, model: Path, shared: bool = False):
        """Give both the same data; with `shared`, also the same disk for their output."""
        self.folder, self.model = folder, model
        self.data = [folder / f"data{0 if shared else node}" for node in range(2)]
        for data in set(self.data):
            write_dataset(data, make_rows(data, COUNT))
        self.outputs = [folder / f"disk{0 if shared else node}" / "out" for node in range(2)]

    def start(self, *arguments: str, ranks: int = 1, alone: bool = False):
        """Start the script on both, or on the first one alone."""
        scripts = []
        for node in range(2):
            given = {
                "MODEL": self.model,
                "DATA": "pairs",
                "DATASET_DIR": self.data[node],
                "OUTPUT": self.outputs[node],
            }
            given |= {"BATCH": "2", "GLOBAL_BATCH": "8", "PET_RDZV_CONF": "timeout=30"}
            own = {name: str(value) for name, value in given.items()}
            place = self.folder / f"said{node}"
            scripts.append(script(place, None if alone else node, ranks, [*SETTINGS, *arguments], **own))
        if alone:
            scripts[1].write_text("")
        return start(tuple(scripts), self.folder / "statuses")

    def run(self, *arguments: str, **how) -> list[int]:
        """Start and wait; return the exit statuses."""
        return self.end(self.start(*arguments, **how))

    def end(self, running) -> list[int]:
        """Wait for both to end, and fail if they hang."""
        try:
            running.wait(timeout=300)
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
        return [int(status) for status in (self.folder / "statuses").read_text().split()]

    def said(self, node: int) -> str:
        """Return what a machine printed."""
        return (self.folder / f"said{node}" / "said.txt").read_text()


@pytest.fixture(scope="module")
def alone(tiny_model, tmp_path_factory) -> Path:
    """The output of one process."""
    machine = Machines(tmp_path_factory.mktemp("alone"), tiny_model)
    assert machine.run("max_steps=4", alone=True) == [0, 0], machine.said(0)[-3000:]
    return machine.outputs[0]


def assert_equal(machines: Machines, alone: Path, figure, ranks: int, disks: str) -> None:
    loss, weight = course(machines.outputs[0], COUNT).off(course(alone, COUNT))
    assert loss < 2e-4 and weight < 1e-5
    tried = f"two machines ({JOINED}, {disks}) of {ranks} rank{'s' * (ranks > 1)}, by the example's script"
    figure(
        "1 parallel",
        tried,
        4,
        f"as one process: loss and gradient norm within {loss:.1e}, weights within {weight:.1e}",
    )


@pytest.mark.long
def test_each_with_its_own_disk(tiny_model, tmp_path, alone, figure):
    """The first machine has the model; the second one's output folder is its own."""
    machines = Machines(tmp_path, tiny_model)
    assert machines.run("max_steps=4") == [0, 0], machines.said(0)[-3000:] + machines.said(1)[-3000:]
    assert "2 machines x 1 CPU process x 2 pairs x 2 accumulated = 8 pairs a step" in machines.said(1)
    assert not list(machines.outputs[1].rglob("*.safetensors")) and "on the first machine" in machines.said(1)
    assert_equal(machines, alone, figure, 1, "own disks")


@pytest.mark.long
def test_one_disk_and_two_ranks_each(tiny_model, tmp_path, alone, figure):
    machines = Machines(tmp_path, tiny_model, shared=True)
    assert machines.run("max_steps=4", ranks=2) == [0, 0], machines.said(0)[-3000:]
    assert_equal(machines, alone, figure, 2, "a shared disk")
    assert machines.run("max_steps=4", ranks=2) == [0, 0]
    assert all("finished already" in machines.said(node) for node in range(2))


@pytest.mark.long
def test_goes_on_only_if_both_have_the_checkpoint(tiny_model, tmp_path):
    """Without it the second machine would start anew, so an error says what to do, and doing that helps.

    Without the optimizer's state, which upstream cannot load on several ranks of a CPU (test_parallel_upstream.py).
    """
    machines, longer = (
        Machines(tmp_path, tiny_model),
        ("max_steps=6", "save_steps=2", "save_only_model=true", "resume=true"),
    )
    assert machines.run("max_steps=4", "save_steps=2", "save_only_model=true") == [0, 0]
    for _ in range(2):  # the first attempt must not make the run look finished
        assert machines.run(*longer) == [1, 1]
        assert all("Only some ranks find a checkpoint" in machines.said(node) for node in (0, 1))
    shutil.copytree(*(output / "checkpoint-4" for output in machines.outputs), dirs_exist_ok=True)
    assert machines.run(*longer) == [0, 0], machines.said(1)[-3000:]
    steps = {step for step, _ in course(machines.outputs[0], COUNT).losses}
    assert steps == set(range(1, 7)) and (machines.outputs[0] / "checkpoint-6").is_dir()


@pytest.mark.long
def test_a_killed_rank_ends_both(tiny_model, tmp_path, figure):
    """No machine waits for one that is gone, and the last checkpoint is whole."""
    machines = Machines(tmp_path, tiny_model)
    running = machines.start("max_steps=100000", "save_steps=2")
    wait_until(lambda: list(machines.outputs[0].glob("checkpoint-*/trainer_state.json")), running)
    (victim,) = rank_of(1, machines.outputs[1])
    os.kill(victim, signal.SIGKILL)
    statuses = machines.end(running)
    assert all(statuses) and "the same command goes on from checkpoint-" in machines.said(0)
    checkpoints = [path.parent for path in machines.outputs[0].glob("checkpoint-*/trainer_state.json")]
    weights = [load_file(path / "model.safetensors") for path in checkpoints]
    assert weights and all(tensor.isfinite().all() for each in weights for tensor in each.values())
    seen = f"both machines ended, with statuses {statuses}; {len(checkpoints)} whole checkpoint(s)"
    figure("1 parallel", "kill -9 of a rank on the second of two machines", 1, seen)


@pytest.mark.long
def test_a_machine_without_the_pictures_ends_both(tiny_model, tmp_path):
    """It says what is missing; the other one gives up when its time to find it is over (15 minutes by default)."""
    machines = Machines(tmp_path, tiny_model)
    next(machines.data[1].glob("*.png")).unlink()
    first, second = machines.run("max_steps=4")
    assert second == 2 and "needs the image" in machines.said(1)
    assert first not in (0, 2) and not list(machines.outputs[0].rglob("*.safetensors"))


def rank_of(rank: int, output: Path) -> list[int]:
    """Find the process that is this rank of the run with this output."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            variables = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if {f"RANK={rank}".encode(), f"OUTPUT={output}".encode(), b"LOCAL_RANK=0"} <= set(variables):
            found.append(int(process.name))
    return found
