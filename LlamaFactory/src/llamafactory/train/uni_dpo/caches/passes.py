"""How a pass over pairs or images is done: dealt to all ranks, with progress, and never losing much."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers.integrations import is_deepspeed_zero3_enabled

from ..errors import UniDPOError
from ..training.view import PairTrainer


# What a pass that is killed may lose.
FLUSH_SECONDS = 30.0


def refuse_under_fsdp(trainer: PairTrainer, option: str) -> None:
    """Refuse a pass through a model that is not wrapped yet.

    Raises:
        UniDPOError: under FSDP, where only the main process need have loaded its weights.
    """
    if trainer.is_fsdp_enabled:
        raise UniDPOError(
            f"`{option}` cannot be filled under FSDP. Fill it before, without FSDP: "
            "`python -m llamafactory.train.uni_dpo.caches CONFIG.yaml`; then this run uses it."
        )


def share(trainer: PairTrainer, work: list) -> list:
    """Deal work to this rank: as much as to any other, as sharded models need all ranks at every call."""
    rank, ranks = trainer.accelerator.process_index, trainer.accelerator.num_processes
    most = -(-len(work) // ranks)
    return [work[(place * ranks + rank) % len(work)] for place in range(most)] if work else []


def loader(trainer: PairTrainer, items: Any, size: int, collate: Callable) -> DataLoader:
    """Read `items` in order, `size` at a time, with the workers of the run."""
    workers = trainer.args.dataloader_num_workers
    return DataLoader(items, batch_size=size, collate_fn=collate, num_workers=workers)


def progress(trainer: PairTrainer, batches: DataLoader, what: str) -> Iterator[Any]:
    """Show progress on the main process, unless the run is quiet."""
    quiet = trainer.args.disable_tqdm or not trainer.is_world_process_zero()
    return tqdm(batches, desc=what, disable=quiet)


@contextmanager
def flushing(cache: Any) -> Iterator[Callable[[], None]]:
    """Write what has gathered now and then, and when the pass ends in whatever way."""
    written = time.monotonic()

    def flush() -> None:
        nonlocal written
        if time.monotonic() - written > FLUSH_SECONDS:
            cache.flush()
            written = time.monotonic()

    try:
        yield flush
    finally:
        cache.flush()


@contextmanager
def whole(trainer: PairTrainer, module: nn.Module) -> Iterator[None]:
    """Have a module that is not wrapped yet whole and on the device, in evaluation mode."""
    weight = next(module.parameters())
    home, training = weight.device, module.training
    with ExitStack() as stack:
        if is_deepspeed_zero3_enabled():
            import deepspeed

            stack.enter_context(deepspeed.zero.GatheredParameters(list(module.parameters())))
        else:
            module.to(trainer.args.device)
        module.eval()
        try:
            yield
        finally:
            module.train(training)
            if not is_deepspeed_zero3_enabled():
                module.to(home)
