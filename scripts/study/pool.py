"""Work on all cores or GPUs: a process for each, which imports everything once and runs one cell after another."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common import ToolError

from .plan import Cell
from .results import Result, Results, locked, write_about
from .seeds import LAST_PART


@dataclass(frozen=True)
class Pool:
    """Where and with how many processes.

    Attributes:
        out: the study's folder.
        size: how large it is.
        model: the checkpoint that start checkpoints are made from.
        jobs: processes at once.
        gpus: the names of GPUs to share out, as in CUDA_VISIBLE_DEVICES; empty for the CPU.
        world: the package whose `seeds.prepare` and `cells.run_cell` do the work.
    """

    out: Path
    size: Any
    model: Path
    jobs: int
    gpus: tuple[str, ...]
    world: str = __package__

    def prepare(self, seeds: Sequence[int]) -> list[str]:
        """Make what every seed begins with; return what failed, in words."""
        tasks = {
            f"seed {seed}": (_prepare, self.world, self._home(seed), seed, self.size, self.model)
            for seed in seeds
            if not (self._home(seed) / LAST_PART / "done").exists()
        }
        return self._work("seeds", tasks, lambda *_: None)

    def run(self, name: str, cells: Sequence[Cell], results: Results) -> list[str]:
        """Run those of the cells that are not done; return what failed, in words."""
        todo = {cell.key: cell for cell in cells if cell not in results}
        tasks = {
            key: (_run, self.world, cell, self._home(cell.seed), self.size, self.out) for key, cell in todo.items()
        }
        return self._work(name, tasks, lambda key, measured: results.add(todo[key], measured))

    def run_again(self, seed: int, shared: dict[str, Any], cells: Sequence[Cell]) -> Result:
        """Run one cell whether it is known or not, and return its result.

        Args:
            seed: its seed.
            shared: see `results.describe`.
            cells: the cell.

        Raises:
            ToolError: it failed, or the folder holds another study.
        """
        with locked(self.out):
            write_about(self.out, shared, self.gpus, len(Results(self.out / "cells")))
            require_done(self.prepare([seed]))
            shutil.rmtree(self.out / "repeated", ignore_errors=True)  # an old run is no repetition
            repeated = Results(self.out / "repeated")
            require_done(self.run("again", cells, repeated))
        return repeated.of(cells)[0]

    def _home(self, seed: int) -> Path:
        return self.out / "seeds" / str(seed)

    def _work(self, name: str, tasks: dict[str, tuple], keep: Callable[[str, dict], None]) -> list[str]:
        if not tasks:
            return []
        context, failed = multiprocessing.get_context("spawn"), []
        numbers = context.Queue()
        for number in range(self.jobs):
            numbers.put(number)
        (self.out / "logs").mkdir(parents=True, exist_ok=True)
        executor = ProcessPoolExecutor(self.jobs, context, _begin, (numbers, self.gpus, self.out / "logs"))
        try:
            futures = {executor.submit(*task): key for key, task in tasks.items()}
            for future in tqdm(as_completed(futures), name, len(futures), unit="run"):
                try:
                    keep(futures[future], future.result())
                except BrokenExecutor:
                    raise ToolError(
                        f"a process of `{name}` was ended from outside, for want of memory perhaps"
                    ) from None
                except Exception as error:
                    failed.append(f"{futures[future]}: {type(error).__name__}: {error}")
                    tqdm.write(f"failed: {failed[-1]}", file=sys.stderr)
        except BaseException:  # Ctrl-C as well: nobody is waiting for what is still in hand
            for worker in list(executor._processes):
                for end in (os.killpg, os.kill):  # its group, and itself if it has none of its own yet
                    with suppress(ProcessLookupError):
                        end(worker, signal.SIGKILL)
            executor.shutdown(wait=False, cancel_futures=True)
            raise
        executor.shutdown()
        return failed


def require_done(failed: list[str]) -> None:
    """Refuse to go on after failures (ToolError: there are some)."""
    if failed:
        raise ToolError("; ".join(failed))


def _begin(numbers: "multiprocessing.Queue[int]", gpus: tuple[str, ...], logs: Path) -> None:
    """Choose a device, before CUDA is touched, and write to a log; in each worker first."""
    number = numbers.get()
    os.setpgid(0, 0)  # with whatever it starts
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    log = os.open(logs / f"worker-{number}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # VLMEvalKit scores with a pool of its own, each process of which would import everything anew if spawned.
    multiprocessing.set_start_method("fork", force=True)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    """End this worker when the study was killed."""
    parent.join()
    os.killpg(0, signal.SIGKILL)


def _prepare(world: str, home: Path, seed: int, size: Any, model: Path) -> None:
    prepare = import_module(f"{world}.seeds").prepare
    _logged(f"seed {seed}", prepare, home, seed, size, model)


def _run(world: str, cell: Cell, home: Path, size: Any, out: Path) -> dict:
    run_cell = import_module(f"{world}.cells").run_cell
    title = f"{cell.key}: seed {cell.seed}, {cell.condition}, {json.dumps(dict(cell.options))}"
    return _logged(title, _measured, run_cell, cell, home, size, out / "scratch" / cell.key)


def _measured(run_cell: Callable[..., Result], cell: Cell, home: Path, size: Any, scratch: Path) -> Result:
    """Run a cell in a folder of its own; one that ended in numbers that are not finite is {"diverged": why}."""
    from llamafactory.train.uni_dpo.errors import NonFiniteError

    started = time.perf_counter()
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        measured = run_cell(cell, home, size, scratch)
    except NonFiniteError as error:
        measured = {"diverged": str(error).split(". ")[0]}
    finally:
        shutil.rmtree(scratch)
    return {**measured, "seconds": round(time.perf_counter() - started, 1)}


def _logged(title: str, work: Callable, *arguments):
    """Leave the traceback in the log; what reaches the parent is one line."""
    print(f"\n==== {title}", flush=True)
    try:
        return work(*arguments)
    except Exception as error:
        traceback.print_exc()
        raise RuntimeError(f"{error} (see the end of the log of its worker)") from None
