"""The pass that computes the reference's log-probs, going on from where an earlier one was interrupted."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset

from ....extras import logging
from ....extras.constants import IGNORE_INDEX
from ..data.columns import CARRIED_DTYPES
from ..ranks import from_main_process
from ..training.self_check import check_engine
from ..training.view import PairTrainer
from .passes import flushing, loader, progress, refuse_under_fsdp, share, whole
from .plan import CachePlan, map_splits


logger = logging.get_logger(__name__)


def fill_reference(trainer: PairTrainer, splits: dict[str, Any], plan: CachePlan) -> None:
    """Compute the log-probs that are missing, then do without a reference model.

    Args:
        trainer: with the reference model, if there is anything to compute.
        splits: data sets by name.
        plan: with the names of their pairs.

    Raises:
        UniDPOError: the engine is wrong about the reference, or the pass is not possible under FSDP.
    """
    if plan.needs_reference_model:
        with _reference_model(trainer) as model:
            check_engine(trainer, model, policy=False)
            map_splits(splits, lambda name, split: _fill_split(trainer, model, split, plan.pairs_of(name), plan))
    else:
        logger.info_rank0("Reference log-probs: all stored already, so no reference model is loaded.")
    _drop_reference_model(trainer)
    trainer.reference_is_stored = True


def _fill_split(trainer: PairTrainer, model: nn.Module, split: Any, pairs: list[str], plan: CachePlan) -> None:
    cache = plan.reference
    missing = from_main_process(list(cache.missing(pairs).items()))
    logger.info_rank0(f"Reference log-probs: {len(missing):,} of {len(pairs):,} pairs to compute.")
    mine = share(trainer, missing)
    size = trainer.args.per_device_eval_batch_size
    batches = loader(trainer, Subset(split, [place for _, place in mine]), size, trainer.data_collator)
    names = (mine[start : start + size] for start in range(0, len(mine), size))
    with flushing(cache) as flush:
        for batch, named in zip(progress(trainer, batches, "Reference log-probs"), names, strict=True):
            batch = trainer._prepare_inputs(batch)
            batch = {name: value for name, value in batch.items() if name not in CARRIED_DTYPES}
            for row in _score(trainer, model, batch, [name for name, _ in named]):
                cache.add(row)
            flush()
    trainer.accelerator.wait_for_everyone()
    cache.load()


@torch.no_grad()
def _score(trainer: PairTrainer, model: nn.Module, batch: dict[str, Any], names: list[str]) -> list[tuple]:
    sides = trainer.compute_reference_log_probs(model, batch)
    lengths = (batch["labels"][:, 1:] != IGNORE_INDEX).sum(-1).chunk(2)
    if trainer.takes_means:  # in float64 the way back loses nothing
        sides = [side.double() * length for side, length in zip(sides, lengths, strict=True)]
    return list(zip(names, *(values.tolist() for values in (*sides, *lengths)), strict=True))


@contextmanager
def _reference_model(trainer: PairTrainer) -> Iterator[nn.Module]:
    """Give upstream's reference model, or the policy, whose adapter the trainer turns off."""
    if trainer.ref_model is not None:
        yield trainer.ref_model
        return
    refuse_under_fsdp(trainer, "uni_dpo_reference_cache")
    with whole(trainer, trainer.model), trainer.accelerator.autocast():  # as the wrapper in training does
        yield trainer.model


def _drop_reference_model(trainer: PairTrainer) -> None:
    reference, trainer.ref_model = trainer.ref_model, None
    if reference is None or trainer.accelerator.unwrap_model(reference) is trainer.accelerator.unwrap_model(
        trainer.model
    ):
        return  # evaluation alone compares a model with itself
    models = trainer.accelerator._models  # keeps what it has prepared
    models[:] = [model for model in models if model is not reference]
    if hasattr(reference, "destroy"):  # DeepSpeed's hooks keep it too
        reference.destroy()
    del reference
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
