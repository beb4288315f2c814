"""Everything that happens to caches between a trainer's making and its first step."""

from ..errors import CachesFilled
from ..training.view import PairTrainer
from .image_pass import fill_images
from .plan import CachePlan, map_splits
from .reference_pass import fill_reference


def fill_caches(plan: CachePlan, trainer: PairTrainer) -> None:
    """Fill what is missing and hand the trainer what is stored.

    Raises:
        CachesFilled: the run was only to fill them.
        UniDPOError: the run cannot use a cache, or cannot fill it.
    """
    splits = {"train_dataset": trainer.train_dataset, "eval_dataset": trainer.eval_dataset}
    splits = {name: split for name, split in splits.items() if split is not None}
    if plan.images is not None:
        fill_images(trainer, splits, plan.images, plan.image_limit)
        trainer.data_collator.read_image = plan.images.read
    if plan.reference is not None:
        fill_reference(trainer, splits, plan)
        for name, split in map_splits(splits, plan.with_reference).items():
            setattr(trainer, name, split)
    if plan.stops:
        raise CachesFilled
