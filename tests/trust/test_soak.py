"""A long run: the memory of the trainer and of its workers stays flat, and so does the time of a step.

Thousands of steps with everything on that grows or leaks elsewhere: data workers, evaluations, checkpoints with
rotation, the pair log, the reference cache. Memory is read from outside, as an operator would.
"""

import json
import subprocess
import threading
from collections import defaultdict
from pathlib import Path

import numpy as np
import psutil
import pytest
from figures import times
from pairs import CLI, make_rows, options, write_dataset

from llamafactory.train.uni_dpo.record.pair_log import PAIR_LOG, read_pair_log


STEPS = times(0, 4000)
MB = 2**20
# Of each process between the second fifth of the run and its last: allocators breathe by this much.
GROWTH = 8 * MB


class Watch:
    """Samples of a process and of its children, from outside.

    Attributes:
        memory: of each, in bytes, without files: what a worker shares with the process it was forked from counts too.
        cpu: the process's own CPU seconds, with the steps that it had logged by then.
    """

    def __init__(self, process: psutil.Process, log: Path, seconds: float = 1.0):
        """Begin to look at a process every so many seconds; `log` is where the trainer logs its steps."""
        self.memory: dict[str, list[int]] = defaultdict(list)
        self.cpu: list[tuple[int, float]] = []
        self._process, self._log, self._seconds, self._over = process, log, seconds, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(self._seconds):
            try:
                self.memory["trainer"].append(_anonymous(self._process))
                used = self._process.cpu_times()
                workers = [_anonymous(child) for child in self._process.children(recursive=True)]
            except psutil.NoSuchProcess:
                continue  # a worker ended between being listed and being looked at
            if workers:
                self.memory["workers"].append(max(workers))
            if self._log.exists():
                self.cpu.append((len(self._log.read_text().splitlines()), used.user + used.system))

    def cpu_of_lines(self) -> list[float]:
        """Return CPU seconds for each line of the log, in twenty parts of the run."""
        marks = self.cpu[:: max(1, len(self.cpu) // 20)]
        parts = zip(marks, marks[1:], strict=False)
        return [(later[1] - earlier[1]) / max(1, later[0] - earlier[0]) for earlier, later in parts]


def _anonymous(process: psutil.Process) -> int:
    used = process.memory_info()
    return used.rss - used.shared


def fifths(values: list[float]) -> list[float]:
    """Return the medians of the second, third, fourth and last fifth: the first one warms up."""
    return [float(np.median(part)) for part in np.array_split(values, 5)[1:]]


@pytest.mark.long
def test_thousands_of_steps(tiny_model, tmp_path, figure):
    write_dataset(tmp_path / "data", make_rows(tmp_path / "data", 120))
    saving = {"save_strategy": "steps", "save_steps": STEPS // 20, "save_total_limit": 2, "logging_steps": 10}
    asking = {"val_size": 20, "eval_strategy": "steps", "eval_steps": STEPS // 20}
    changes = {"max_steps": STEPS, "dataloader_num_workers": 1, "uni_dpo_log_pairs": True, "learning_rate": 1e-5}
    changes |= {"gradient_accumulation_steps": 1, "uni_dpo_reference_cache": str(tmp_path / "cache")}
    run = options(tiny_model, tmp_path / "data", tmp_path / "out", **saving, **asking, **changes)
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    with open(tmp_path / "output.txt", "w") as output:
        process = subprocess.Popen([*CLI, str(tmp_path / "run.yaml")], stdout=output, stderr=subprocess.STDOUT)
        watch = Watch(psutil.Process(process.pid), tmp_path / "out" / "trainer_log.jsonl")
        process.wait()
        watch.stop()
    assert process.returncode == 0, (tmp_path / "output.txt").read_text()[-3000:]

    assert len(read_pair_log(str(tmp_path / "out" / PAIR_LOG))) == 2 * STEPS
    assert len(list((tmp_path / "out").glob("checkpoint-*"))) == 2
    for who in ("trainer", "workers"):
        medians = fifths(watch.memory[who])
        seen = " to ".join(f"{value / MB:.0f}" for value in (medians[0], medians[-1]))
        figure("7 soak", f"memory of {who} in a run of {STEPS} steps, second to last fifth", 1, f"{seen} MB")
        assert medians[-1] - medians[0] < GROWTH, (who, [value / MB for value in medians])
    seconds = fifths(watch.cpu_of_lines())
    figure(
        "7 soak", "CPU time of a step, last fifth to second (not asserted)", STEPS, f"{seconds[-1] / seconds[0]:.2f}"
    )
