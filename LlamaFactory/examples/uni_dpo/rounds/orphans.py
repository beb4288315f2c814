"""Processes that a killed run left at work, which would write into the same files as those of the next one."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from pair_data.errors import DataError


MARK = "UNI_DPO_ROUNDS"  # in the environment of every stage and of all that it starts: the folder of the rounds
WAIT = 30  # seconds until what was killed has gone


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """Let no other run work in a folder, and end what earlier ones left there when they were killed."""
    output.mkdir(parents=True, exist_ok=True)
    with (output / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"another run works in {output}: wait for it, or end it.") from error
        left = [process for process in psutil.process_iter() if _is_left(process, str(output))]
        for process in left:
            print(f"# ending process {process.pid}, which a killed run left at work", flush=True)
            process.kill()
        psutil.wait_procs(left, timeout=WAIT)
        yield


def _is_left(process: psutil.Process, output: str) -> bool:
    if process.pid == os.getpid():
        return False
    try:
        return process.environ().get(MARK) == output
    except (psutil.Error, OSError):  # another user's, or gone
        return False
