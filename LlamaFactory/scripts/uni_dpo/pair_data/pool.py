"""Processes that do a job for every item, and outlive an item that ends or hangs one of them.

The standard executors lose the items of all processes when one dies, and cannot stop one that hangs. pebble's pool
can, but gives up when its only process dies before a busy main thread has seen that it took an item.
"""

import itertools
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

from .errors import DataError


START = 300  # seconds that a process may take to start, on a busy machine
DIED, HUNG = "died", "hung"  # instead of the result of an item that ended its process, or was not done in time
_STARTED = "started"  # the first message of a process


class WorkerPool:
    """A number of processes that run one function."""

    def __init__(
        self,
        work: Callable[[Any], Any],
        size: int,
        patience: float = 120,
        before: Callable[[], Any] | None = None,
    ):
        """Run `work`, a function of a module, in `size` processes.

        Args:
            work: gets an item and returns its result.
            size: how many processes.
            patience: seconds that an item may take.
            before: called in each process before its first item, outside of that item's time.
        """
        self.size, self.start = size, partial(_Worker, work, patience, before)

    def map(self, items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Yield (item, result) for every item, in the order in which they are done.

        A result is `DIED` or `HUNG` where there is none. An item is taken when a process is free for it.
        """
        items, idle, busy = iter(items), [], []
        try:
            while True:
                for item in itertools.islice(items, self.size - len(busy)):
                    busy.append(idle.pop() if idle else self.start())
                    busy[-1].give(item)
                if not busy:
                    return
                left = min(worker.deadline for worker in busy) - time.monotonic()
                ready = wait([worker.connection for worker in busy], timeout=max(0.0, left))
                for worker in [one for one in busy if one.connection in ready or one.deadline < time.monotonic()]:
                    result = worker.receive() if worker.connection in ready else worker.stop(HUNG)
                    if result is _STARTED:
                        continue
                    busy.remove(worker)
                    if result not in (DIED, HUNG):
                        idle.append(worker)
                    yield worker.item, result
        finally:
            for worker in [*busy, *idle]:
                worker.stop()


class _Worker:
    """A process, and the item it has."""

    def __init__(self, work: Callable[[Any], Any], patience: float, before: Callable[[], Any] | None):
        context = multiprocessing.get_context("spawn")  # forking a process with threads may hang
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(work, before, theirs), daemon=True)
        # Ctrl-C reaches all processes; this one inherits to ignore it, and the parent leaves with one message.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.process.start()
        finally:
            signal.signal(signal.SIGINT, before)
        theirs.close()
        self.patience, self.started, self.item = patience, False, None

    def give(self, item: Any) -> None:
        self.item, self.deadline = item, time.monotonic() + (self.patience if self.started else START)
        try:
            self.connection.send(item)
        except OSError:
            pass  # it has died, which shows when its result is read

    def receive(self) -> Any:
        try:
            result = self.connection.recv()
        except (EOFError, OSError):
            return self.stop(DIED)
        if not self.started:
            self.started, self.deadline = True, time.monotonic() + self.patience
            return _STARTED
        return result

    def stop(self, result: str | None = None) -> str | None:
        self.process.kill()
        self.process.join()
        self.connection.close()
        if result and not self.started:
            raise DataError("cannot start processes: see above. Is there memory left? Try --workers 1.")
        return result


def _serve(work: Callable[[Any], Any], before: Callable[[], Any] | None, connection: Connection) -> None:
    if before:
        before()
    connection.send(_STARTED)
    while True:
        try:
            item = connection.recv()
        except (EOFError, OSError):  # the parent has gone
            return
        connection.send(work(item))
