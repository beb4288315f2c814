"""Processes that do a job for every item, and outlive an item that ends or hangs one of them."""

import itertools
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from ..errors import DataError


BATCH = 16  # items that a process has before it, at most

START = 300  # seconds that a process may take to start, on a busy machine

# Instead of the result of an item that ended its process, or was not done in time.
DIED, HUNG = "died", "hung"
_READY = "ready"  # the first message of a process


class Crew:
    """A number of processes that run one function.

    The standard executors lose all items in flight when a process dies, and cannot stop one that hangs.
    """

    def __init__(self, work: Callable[[Any], Any], size: int, patience: float = 120):
        """Get ready; processes start with the first item.

        Args:
            work: a function of a module, called with an item.
            size: how many processes.
            patience: seconds that an item may take.
        """
        self.work, self.patience = work, patience
        self._members: list[_Member] = []
        self._size = size

    def map(self, items: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """Yield (key, result) for every (key, item), in the order in which they are done.

        A result is `DIED` or `HUNG` where there is none. Few items are taken ahead of the work.

        Raises:
            DataError: processes do not start.
        """
        items = iter(items)
        try:
            while True:
                more = self._hand_out(items)
                busy = [member for member in self._members if member.todo]
                if busy:
                    yield from self._collect(busy)
                elif not more:
                    return
        finally:
            for member in self._members:
                member.dismiss()

    def _hand_out(self, items: Iterator[tuple[Any, Any]]) -> bool:
        for number in range(self._size):
            if number < len(self._members) and len(self._members[number].todo) > BATCH // 2:
                continue
            batch = list(itertools.islice(items, BATCH // 2))
            if not batch:
                return False
            if number == len(self._members):
                self._members.append(_Member(self.work))
            self._members[number].give(batch, self.patience)
        return True

    def _collect(self, busy: list["_Member"]) -> Iterator[tuple[Any, Any]]:
        left = min(member.deadline for member in busy) - time.monotonic()
        ready = wait([member.connection for member in busy], timeout=max(0.0, left))
        for member in busy:
            if member.connection in ready:
                yield from self._receive(member)
            elif time.monotonic() > member.deadline:
                yield self._replace(member), HUNG

    def _receive(self, member: "_Member") -> Iterator[tuple[Any, Any]]:
        try:
            result = member.connection.recv()
        except (EOFError, OSError):
            yield self._replace(member), DIED
            return
        member.deadline = time.monotonic() + self.patience
        if member.started:
            yield member.todo.popleft()[0], result
        member.started = True

    def _replace(self, member: "_Member") -> Any:
        member.dismiss()
        if not member.started:
            raise DataError("cannot start processes to open images: see above. Is there memory left? Try --workers 1.")
        key, _ = member.todo.popleft()
        successor = _Member(self.work)
        self._members[self._members.index(member)] = successor
        if member.todo:
            successor.give(list(member.todo), self.patience)
        return key


@dataclass
class _Member:
    """A process, and the items before it."""

    work: Callable[[Any], Any]
    todo: deque[tuple[Any, Any]] = field(default_factory=deque)
    started: bool = False
    deadline: float = 0.0  # on the monotonic clock: when the next message is due

    def __post_init__(self):
        context = multiprocessing.get_context("spawn")  # forking a process with threads may hang
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(self.work, theirs), daemon=True)
        # Ctrl-C reaches all processes; this one inherits to ignore it, and the parent leaves with one message.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.process.start()
        finally:
            signal.signal(signal.SIGINT, before)
        theirs.close()
        self.deadline = time.monotonic() + START

    def give(self, batch: list[tuple[Any, Any]], patience: float) -> None:
        if self.started and not self.todo:
            self.deadline = time.monotonic() + patience
        self.todo.extend(batch)
        try:
            for _, item in batch:
                self.connection.send(item)
        except OSError:
            pass  # it has died, which shows when its next result is read

    def dismiss(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(work: Callable[[Any], Any], connection: Connection) -> None:
    connection.send(_READY)
    while True:
        try:
            item = connection.recv()
        except (EOFError, OSError):  # the parent has gone
            return
        connection.send(work(item))
