"""A training run watched from outside: when each of its parts begins, what it costs, what it holds.

Nothing is put into the run. What it prints says which part it is in; the system says what its processes use.
"""

import os
import re
import resource
import select
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from common import ToolError


LAUNCHER, IMPORTS, TOKENIZER, LOADING, TOKENISING = "launcher", "imports", "tokenizer", "loading data", "tokenising"
MODELS, TRAINER, FIRST, LATER = "models", "trainer", "first step", "later steps"
EVALUATION, SAVING, END = "evaluation", "saving", "end"
STEP = r"'loss': "
MARKS = (  # what is printed when a part begins
    (r"# log: ", IMPORTS),
    (r">> Process rank", TOKENIZER),
    (r">> Loading dataset ", LOADING),
    (r"Running tokenizer on dataset", TOKENISING),
    (r"KV cache is disabled during training", MODELS),
    (r"Created reference model|>> pref_forward: ", TRAINER),
    (r"\*+ Running training \*+", FIRST),
    (STEP, LATER),
    (r"\*+ Running Evaluation \*+", EVALUATION),
    (r"'eval_loss': ", LATER),
    (r"Saving model checkpoint to .*checkpoint-(\d+)", SAVING),
    (r"Training completed|\*+ eval metrics \*+", END),
)
ORDER = (LAUNCHER, *dict.fromkeys(part for _, part in MARKS))
EVERY = 0.2  # seconds between looks at memory
SOON = 0.02  # seconds between looks at whether a checkpoint is there
TAIL = 3000  # bytes kept of what was said


@dataclass
class Part:
    """What one part of a run took: seconds, CPU seconds, bytes at its peak, and how often it was there."""

    seconds: float = 0.0
    cpu: float = 0.0
    peak: int = 0
    times: int = 0


def watch(command: list[str], environment: dict[str, str], output: Path) -> dict[str, Part]:
    """Run a command and return its parts, in order.

    Args:
        command: what to start.
        environment: all its variables.
        output: where checkpoints appear; saving has ended when one is there under its name.

    Raises:
        ToolError: it failed; the message has the end of what it said.
    """
    before = _cpu_of_ended()
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, env=environment, **pipes)
    run, line, tail = _Run(process.pid, output), b"", b""
    while True:
        run.look()
        ready, _, _ = select.select([process.stdout], [], [], SOON if run.part == SAVING else EVERY)
        chunk = os.read(process.stdout.fileno(), 65536) if ready else None
        if chunk == b"":
            break
        *lines, line = re.split(rb"[\r\n]|(?<=/s\])", line + (chunk or b""))  # a progress bar has no end of line
        for each in lines:
            run.read(each.decode(errors="replace"))
        tail = (tail + (chunk or b""))[-TAIL:]
    if process.wait():
        raise ToolError(f"the run ended with exit status {process.returncode}:\n{tail.decode(errors='replace')}")
    return run.close(_cpu_of_ended() - before)


class _Run:
    """Where a run is, and what its parts have taken."""

    def __init__(self, pid: int, output: Path):
        self.part, self.parts = LAUNCHER, {LAUNCHER: Part(times=1)}
        self._pid, self._output, self._checkpoint = pid, output, None
        self._began, self._cpu, self._looked, self._steps = time.monotonic(), 0.0, 0.0, 0

    def read(self, line: str) -> None:
        """Learn from a line of the run's output which part it is in."""
        for mark, part in MARKS:
            found = re.search(mark, line)
            if not found or (END in self.parts and part == LATER):
                continue
            self._steps += mark == STEP
            if part == SAVING:
                self._checkpoint = self._output / f"checkpoint-{found[1]}"
            if part != self.part:
                self._enter(part)

    def look(self) -> None:
        """Look at memory, if it is time, and whether a checkpoint is there by now."""
        if time.monotonic() - self._looked > EVERY:
            self._looked = time.monotonic()
            self.parts[self.part].peak = max(self.parts[self.part].peak, _memory(self._pid))
        if self.part == SAVING and self._checkpoint.is_dir():
            self._enter(LATER)

    def close(self, cpu: float) -> dict[str, Part]:
        """End the last part, with the CPU seconds of the whole run, and return all."""
        self._enter("", cpu)
        self.parts[LATER].times = self._steps - 1
        return {part: self.parts[part] for part in ORDER if part in self.parts}

    def _enter(self, part: str, cpu: float | None = None) -> None:
        now, cpu = time.monotonic(), _cpu(self._pid) if cpu is None else cpu
        self.parts[self.part].seconds += now - self._began
        self.parts[self.part].cpu += cpu - self._cpu
        self._began, self._cpu, self._looked, self.part = now, cpu, 0.0, part
        if part:
            self.parts.setdefault(part, Part()).times += 1


def _tree(pid: int) -> list[psutil.Process]:
    with suppress(psutil.Error):
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    return []


def _cpu(pid: int) -> float:
    """Return the CPU seconds of a process and all that it started; those that ended count with who started them."""
    total = 0.0
    for process in _tree(pid):
        with suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])
    return total


def _cpu_of_ended() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _memory(pid: int) -> int:
    """Return the bytes of a process and its children, each shared page counted once."""
    total = 0
    for process in _tree(pid):
        with suppress(OSError):
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            total += int(re.search(r"^Pss:\s+(\d+) kB", rollup, re.M)[1]) * 1024
    return total
