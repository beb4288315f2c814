"""Killing a command at random moments (kill -9) and looking at what it leaves behind."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path


LIMIT = 300  # seconds for one run


@dataclass(frozen=True)
class Outcome:
    """What kills met.

    Attributes:
        hit: runs that were killed before they were done.
        writing: of these, runs that left a file they were about to finish.
        done: runs that had put something of their result in place when they were killed, or were done.
    """

    hit: int
    writing: int
    done: int


def survives(folder: Path, command: list[object], kills: int, seed: int = 0, **environment: str) -> Outcome:
    """Run a command to its end once, then kill it again and again, and compare what is there with before and after.

    Args:
        folder: holds what the command reads, and all that it writes; files only, no links.
        command: the command line.
        kills: how often; the moments are spread over the time that a whole run takes, at random within their shares.
        seed: of those moments.
        **environment: variables of the command.

    Raises:
        AssertionError: after a kill a file was neither as before nor complete; or another run did not mend it all.
    """
    moments, before = random.Random(seed), contents(folder)
    usual, after = _run(command, environment), contents(folder)
    assert after != before, "a command that writes nothing shows nothing"
    hit = writing = done = 0
    for number in range(kills):
        _restore(folder, before)
        hit += _kill(command, environment, usual * (number + moments.random()) / kills)
        found = contents(folder)
        parts = {name for name in found if is_part(name)}
        writing += bool(parts)
        done += any(found.get(name) == after[name] != before.get(name) for name in after)
        for name in (found.keys() | before.keys()) - parts:
            allowed = [state.get(name) for state in (before, after)]
            assert found.get(name) in allowed, f"kill {number} of {kills} left {name} neither as before nor complete"
        usual = _run(command, environment)  # measured anew, as other work comes and goes on the machine
        assert contents(folder) == after, f"the run after kill {number} of {kills} did not give the same files"
    return Outcome(hit, writing, done)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def is_part(name: str) -> bool:
    """Tell whether a file is one that was being written, by its name."""
    return Path(name).name.startswith(".") and name.endswith(".part")


def _run(command: list[object], environment: dict[str, str]) -> float:
    """Run a command to its end and return the seconds it took."""
    variables, start = os.environ | environment, time.monotonic()
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=variables, timeout=LIMIT)
    assert done.returncode == 0, done.stdout + done.stderr
    return time.monotonic() - start


def _kill(command: list[object], environment: dict[str, str], delay: float) -> bool:
    """Start a command, kill it after a while, and return whether it was still running."""
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(list(map(str, command)), env=os.environ | environment, start_new_session=True, **silent)
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.kill()
    process.wait()
    with contextlib.suppress(ProcessLookupError):  # its own children, if it had any
        os.killpg(process.pid, signal.SIGKILL)
    return process.returncode == -signal.SIGKILL


def _restore(folder: Path, files: dict[str, bytes]) -> None:
    shutil.rmtree(folder)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
