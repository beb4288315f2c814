"""Run the training: everything it prints to the screen and to a log, signals passed on, its exit status kept."""

import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pair_data.errors import DataError


@contextmanager
def open_log(path: Path) -> Iterator[BinaryIO]:
    """Open a log for appending; while it is open, no other run can use it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = open(path, "ab", buffering=0)  # noqa: SIM115  (closed below)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error.strerror})\n  set OUTPUT to another place") from error
    with log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"another run is writing to {path}\n  wait for it, or set OUTPUT=...") from error
        yield log


def run_logged(command: list[str], environment: dict[str, str], log: BinaryIO) -> int:
    """Run a command in an environment and return its exit status, 128 + number if a signal ended it.

    SIGINT, SIGTERM and SIGHUP, unless they are ignored, go on to the command and all its processes, which end as they
    see fit; this function then returns. They form a process group of their own, so that Ctrl-C does not reach them
    twice.
    """
    log.write(f"\n=== {time.strftime('%Y-%m-%d %H:%M:%S')} {shlex.join(command)}\n".encode())
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, env=environment, **pipes, process_group=0)

    def pass_on(number: int, _frame: object) -> None:
        if process.poll() is None:
            os.killpg(process.pid, number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # which is what nohup is for
            signal.signal(number, pass_on)
    copy_output(process.stdout, log)
    status = process.wait()
    status = 128 - status if status < 0 else status
    log.write(f"=== {time.strftime('%Y-%m-%d %H:%M:%S')} exit status {status}\n".encode())
    return status


def copy_output(stream: BinaryIO, log: BinaryIO) -> None:
    """Copy a stream to the screen as it comes, and to the log line by line, of a progress bar only the last state."""
    screen, line = sys.stdout.buffer, b""
    while chunk := os.read(stream.fileno(), 65536):
        try:
            screen.write(chunk)
            screen.flush()
        except OSError:  # the terminal is gone, the training need not be
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        *lines, line = (line + chunk).split(b"\n")
        for complete in lines:
            log.write(_last_state(complete) + b"\n")
    if line:
        log.write(_last_state(line) + b"\n")


def _last_state(line: bytes) -> bytes:
    states = [state for state in line.split(b"\r") if state.strip()]
    return states[-1] if states else b""
