"""Commands as processes of their own: how long, how much memory, how much output."""

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil


EVERY = 0.05  # seconds between looks at memory
TAIL = 2000  # characters kept of what a command that failed said


@dataclass(frozen=True)
class Measured:
    """One finished command.

    Attributes:
        status: its exit status; negative if a signal ended it.
        seconds: from start to end.
        cpu_seconds: of all its processes together.
        peak_bytes: the most resident memory of all its processes together, pages they share counted for each.
        said: the end of its output, if it failed.
    """

    status: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    said: str


def run(command: list[str], folder: Path) -> Measured:
    """Run a command in a folder and measure it.

    This process should be small: the system counts its memory as that of what it starts, until that is loaded.
    """
    log = folder / "log.txt"
    with log.open("wb") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        peak = 0
        while True:
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            seconds = time.perf_counter() - start
            if ended:
                break
            peak = max(peak, _memory(process.pid))
            time.sleep(EVERY)
    process.returncode = os.waitstatus_to_exitcode(status)
    said = log.read_text(errors="replace")[-TAIL:] if process.returncode else ""
    log.unlink()
    # The system's own peak is of the largest process alone, but misses nothing between two looks.
    peak = max(peak, usage.ru_maxrss * 1024)
    return Measured(process.returncode, seconds, usage.ru_utime + usage.ru_stime, peak, said)


def size_of(path: Path) -> int:
    """Return the bytes of a file or of all files in a folder, 0 if there is none."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _memory(process: int) -> int:
    total = 0
    try:
        first = psutil.Process(process)
        for each in (first, *first.children(recursive=True)):
            total += each.memory_info().rss
    except psutil.Error:  # one of them ended while we looked
        pass
    return total
