"""A full disk and a read-only one: one message that says how to go on, the last good checkpoint as it was."""

import os
import shutil
import subprocess

import pytest
from crashes import UNFINISHED, Training
from forked import TRAINING, Host
from pairs import options

from llamafactory.train.uni_dpo.record.pair_log import PAIR_LOG


SMALL = 24 * 2**20  # bytes of the disk; one checkpoint takes about three
LOADED = "loading weights file"
MOUNT = """mount -t tmpfs -o size=$2 disk "$1" && mkdir "$1/locked" && mount -t tmpfs -o ro locked "$1/locked" || exit
shift 2
exec "$@"
"""


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A host that sees a small disk of its own at a folder, and a read-only one in it."""
    folder = tmp_path_factory.mktemp("disk")
    within = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", MOUNT, "sh"]
    try:
        tried = subprocess.run([*within, folder, "1m", "true"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no `unshare` here to make a small disk with")
    if tried.returncode:
        pytest.skip(f"no small disk can be made here: {tried.stderr.strip()}")
    host = Host(*TRAINING, within=[*within, folder, SMALL])
    yield host, folder
    host.close()


@pytest.fixture(scope="module")
def training(disk, tiny_model, pair_data, tmp_path_factory):
    """Six steps with three checkpoints."""
    host, folder = disk
    saving = {"save_strategy": "steps", "save_steps": 2, "uni_dpo_log_pairs": True}
    run = options(tiny_model, pair_data, folder / "out", max_steps=6, **saving)
    return SmallDisk(host, run, tmp_path_factory.mktemp("small"), folder)


class SmallDisk(Training):
    """A run on the small disk, looked at from outside."""

    @property
    def seen(self):
        """The disk."""
        return self.output.parent

    def afresh(self, *kept):
        """Leave nothing of earlier runs but these checkpoints."""
        for name in ("filling", "out", "ref"):
            path = self.seen / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for name in kept:
            shutil.copytree(self.all / name, self.output / name)
            shutil.copy(self.all / PAIR_LOG, self.output)

    def fill(self, free):
        """Leave so many bytes free."""
        with (self.seen / "filling").open("wb") as file:
            left = os.statvfs(self.seen)
            file.write(bytes(left.f_bavail * left.f_frsize - free))

    def make_room(self):
        """Take the filling out again."""
        (self.seen / "filling").unlink()


def error_in(ending):
    assert ending.signal is None and ending.status == 1, ending.said
    assert "Traceback" not in ending.said, ending.said
    return next(line for line in ending.said.splitlines() if line.startswith("Error: "))


LATER = [pytest.param(free, marks=pytest.mark.long) for free in (40_000, 1_200_000, 1_600_000)]


@pytest.mark.parametrize("free", [400_000, *LATER])
def test_no_room_for_a_checkpoint(training, free, figure):
    """In the settings, in the weights, in the optimizer's state: wherever it ends, there is the checkpoint before."""
    training.afresh("checkpoint-2")
    before = {path.name: path.read_bytes() for path in (training.output / "checkpoint-2").iterdir()}
    training.fill(free)
    error = error_in(training.start())
    assert "checkpoint-4 could not be written: " in error and f"GB free in {training.disk / 'out'}" in error
    assert "What was begun is removed" in error
    assert "the same command goes on from checkpoint-2, which is as it was" in error
    assert sorted(path.name for path in (training.output).glob("checkpoint-*")) == ["checkpoint-2"]
    assert {path.name: path.read_bytes() for path in (training.output / "checkpoint-2").iterdir()} == before
    assert not (training.output / UNFINISHED).exists()
    training.make_room()
    training.finish()
    figure(
        "2 crash", "no room for a checkpoint on a real small disk, then room", 4, "one message; ends as undisturbed"
    )


@pytest.mark.long
def test_no_room_for_the_model(training):
    training.afresh()
    training.fill(600_000)
    error = error_in(training.start(changes={"save_strategy": "no"}))
    assert "The trained model could not be written: " in error and "starts anew" in error
    assert not list((training.output).glob("*.safetensors"))
    training.make_room()
    assert training.start(changes={"save_strategy": "no"}).status == 0


@pytest.mark.long
def test_no_room_for_the_pair_log(training):
    """Forty steps make a log of some ten pages of the disk; what is written of it is not lost."""
    training.afresh("checkpoint-2")
    training.fill(50_000)
    longer = {"max_steps": 60, "resume_from_checkpoint": str(training.disk / "out" / "checkpoint-2")}
    error = error_in(training.start(changes={"save_strategy": "no"} | longer))
    assert "uni_dpo_pairs.jsonl could not be written: No space left on device" in error
    assert "goes on from checkpoint-2" in error
    training.make_room()
    training.finish()


def test_no_room_for_the_reference_cache(training):
    training.afresh()
    training.fill(4096)
    cache = {"uni_dpo_reference_cache": str(training.disk / "ref")}
    error = error_in(training.start(changes=cache))
    assert "`uni_dpo_reference_cache` could not be written: No space left on device (" in error
    assert "the same command goes on behind the parts that are complete" in error
    assert not list((training.seen / "ref").glob("part-*")) and not list((training.seen / "ref").glob(".*"))
    training.make_room()
    assert training.start(changes=cache).status == 0
    assert len(list((training.seen / "ref").glob("part-*.parquet"))) == 1


CACHE = pytest.param("uni_dpo_reference_cache", marks=pytest.mark.long)


@pytest.mark.parametrize("option", ["output_dir", CACHE])
def test_a_read_only_folder_is_refused_before_anything_is_loaded(training, option):
    training.afresh()
    locked = training.disk / "locked" / "here"
    ending = training.start(changes={option: str(locked)})
    assert f"`{option}: {locked}` is a folder that cannot be written to: Read-only file system" in error_in(ending)
    assert LOADED in training.whole.said and LOADED not in ending.said
