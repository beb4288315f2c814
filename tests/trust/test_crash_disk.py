"""A full disk and a read-only one: one message that says how to go on, the last good checkpoint as it was."""

import json
import os
import shutil
import subprocess

import pytest
from crashes import TRAINING, UNFINISHED, Training
from forked import Host
from pairs import options


SMALL = 24 * 2**20  # bytes of the disk; one checkpoint takes about three
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
def training(disk, tiny_model, pair_data):
    """Six steps with three checkpoints."""
    host, folder = disk
    saving = {"save_strategy": "steps", "save_steps": 2, "uni_dpo_log_pairs": True}
    return SmallDisk(host, options(tiny_model, pair_data, folder / "out", max_steps=6, **saving), folder)


class SmallDisk(Training):
    """A run on the small disk, which is looked at from here."""

    def __init__(self, host, run, folder):
        """Run it undisturbed, and keep a copy of what is there after the first checkpoint."""
        self.seen = host.path(folder)
        super().__init__(host, run, folder)

    def afresh(self, *kept):
        """Leave nothing of earlier runs but these checkpoints."""
        for name in ("filling", "out", "ref"):
            path = self.seen / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for name in kept:
            shutil.copytree(self.seen / "all" / name, self.seen / "out" / name)

    def fill(self, free):
        """Leave so many bytes free."""
        with (self.seen / "filling").open("wb") as file:
            left = os.statvfs(self.seen)
            file.write(bytes(left.f_bavail * left.f_frsize - free))

    def clear(self):
        (self.seen / "filling").unlink()


def error_in(ending):
    assert ending.signal is None and ending.status == 1, ending.said
    assert "Traceback" not in ending.said, ending.said
    return next(line for line in ending.said.splitlines() if line.startswith("Error: "))
