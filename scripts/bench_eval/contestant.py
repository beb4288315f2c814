"""A way to answer as seen from outside: what its processes take of the CPU and the memory."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from common import ToolError


class Contestant:
    """A process that answers, with all that it starts, from which on its start is timed.

    Args:
        name: of the way.
        spec: what `worker.py` is told.
        log: takes what is printed.

    Attributes:
        start: Seconds and CPU seconds until the first answer.

    Raises:
        ToolError: It ended before it was ready.
    """

    def __init__(self, name: str, spec: dict[str, Any], log: Path):
        """Start it and wait until it is ready."""
        self.name, self.log = name, log
        command = [sys.executable, str(Path(__file__).with_name("worker.py")), json.dumps(spec)]
        began = time.perf_counter()
        with log.open("w") as file:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=file, text=True)
        self._said()
        self.start = {"seconds": time.perf_counter() - began, "cpu": self.cpu()}

    def turn(self, **told: Any) -> dict[str, Any]:
        """Have rows answered, and return the answers, seconds, and CPU seconds of all processes."""
        before = self.cpu()
        self.process.stdin.write(json.dumps(told) + "\n")
        self.process.stdin.flush()
        found = self._said()
        return found | {"cpu": self.cpu() - before}

    def _said(self) -> Any:
        line = self.process.stdout.readline()
        if not line:
            raise ToolError(
                f"{self.name} ended with exit status {self.process.wait()}:\n{self.log.read_text()[-3000:]}"
            )
        return json.loads(line)

    def _all(self) -> list[psutil.Process]:
        """Return the process and those that it started, and so on."""
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]

    def cpu(self) -> float:
        """Return the CPU seconds of all processes so far, those that have ended included."""
        return sum(sum(process.cpu_times()[:4]) for process in self._all())

    def peak(self) -> float:
        """Return the peaks of resident memory of all processes, added up, in MiB; what they share counts in each."""
        kilobytes = 0
        for process in self._all():
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
        return kilobytes / 1024

    def end(self) -> None:
        """Close its input and wait until it has ended, and its processes with it."""
        self.process.stdin.close()
        self.process.wait()
