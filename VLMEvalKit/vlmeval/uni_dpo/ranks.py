"""One process, or several under torchrun, each with a share of the batches and a GPU of its own."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from .errors import UniDPOError


PATIENCE = timedelta(days=2)  # others wait while the first rank scores, perhaps with a slow judge


@dataclass(frozen=True)
class Ranks:
    """This process among those that work together; whatever fails on one of them fails on all.

    Attributes:
        rank: Number of this process, 0 for the one that writes and scores.
        size: How many there are.
    """

    rank: int
    size: int

    @classmethod
    def join(cls) -> "Ranks":
        """Meet the other processes that torchrun started, if it did."""
        ranks = cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
        if ranks.size > 1:
            # Only words are exchanged, no tensors: gloo does for GPUs as well, and takes none of their memory.
            dist.init_process_group("gloo", timeout=PATIENCE)
        return ranks

    def leave(self) -> None:
        """Part from the others."""
        if self.size > 1:
            dist.destroy_process_group()

    def together(self, work: Callable[[], Any]) -> Any:
        """Do the same on all ranks and return this rank's result.

        Raises:
            UniDPOError: Another rank failed. What fails on this rank is raised as it is.
        """
        result, failure = None, None
        try:
            result = work()
        except Exception as error:
            failure = error
        failures = self._gather(failure and f"{type(failure).__name__}: {failure}")
        if failure is not None:
            raise failure
        others = [f"rank {rank}: {text}" for rank, text in enumerate(failures) if text]
        if others:
            raise UniDPOError("\n".join(others))
        return result

    def first(self, work: Callable[[], Any]) -> Any:
        """Let rank 0 do something, wait for it, and return its result (on other ranks None)."""
        return self.together(work if self.rank == 0 else lambda: None)

    def first_before_others(self, work: Callable[[], Any]) -> Any:
        """Do the same on all ranks, rank 0 ahead of the others, which find what it left on the disk."""
        result = self.first(work)
        return self.together((lambda: result) if self.rank == 0 else work)

    def shared(self, value: Any) -> Any:
        """Return rank 0's value on all ranks."""
        return self._gather(value)[0]

    def _gather(self, value: Any) -> list[Any]:
        values: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values
