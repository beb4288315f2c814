"""Two pairs through the engine and through upstream's forward, before a run relies on the engine."""

import itertools
from typing import TYPE_CHECKING, Any

import torch

from ...extras import logging
from ...extras.constants import IGNORE_INDEX
from .collate import CARRIED_DTYPES
from .engine import Choice
from .errors import UniDPOError
from .forward import any_rank


if TYPE_CHECKING:
    from .trainer import UniDPOTrainer

logger = logging.get_logger(__name__)

# Short pairs with images are looked for among the first rows of the data set.
LOOKED_AT = 32

# Sums of log-probs may differ by this many nats and this part of them. In half precision every route, upstream's too,
# is some hundredths of a nat off the truth.
BOUND, BOUND_IN_HALF = (0.01, 1e-4), (0.5, 0.01)


def check_engine(trainer: "UniDPOTrainer", model: torch.nn.Module, policy: bool = True) -> None:
    """Compare, and leave everything to upstream if the two differ on any rank.

    Args:
        trainer: with the data, and with the reference if there is one.
        model: the policy.
        policy: false if only the reference can be called yet; the policy is then checked later.

    Raises:
        UniDPOError: they differ, and this run has stored features that upstream's forward has no use for, or is about
            to store log-probs.
    """
    forward = trainer.pair_forward
    if forward.checked or forward.choice.layout is None:
        return
    forward.checked = policy
    collator, rows = trainer.data_collator, _some_rows(trainer)
    pairs = _collated(trainer, rows)
    if any_rank(trainer, _too_large_for_upstream(trainer, pairs)):
        logger.info_rank0("No self-check of pref_forward: upstream's forward of two pairs does not fit in memory.")
        return
    training = model.training
    model.eval()  # dropout, of which attention may have its own, would make any two forwards differ
    ours = _logps(trainer, model, pairs, policy)
    chosen, forward.choice = forward.choice, Choice("upstream")
    stored, collator.images = collator.images, None
    theirs = _logps(trainer, model, _collated(trainer, rows), policy)
    collator.images = stored
    model.train(training)
    half = trainer.args.bf16 or trainer.args.fp16 or trainer.model.dtype in (torch.bfloat16, torch.float16)
    absolute, relative = BOUND_IN_HALF if half else BOUND
    off = (ours - theirs).abs()
    within = bool((off <= absolute + relative * theirs.abs()).all())  # false for NaN
    worst = float(off.max()) if len(off) else 0.0
    if not any_rank(trainer, not within):
        forward.choice = chosen
        logger.info_rank0(f"Self-check of pref_forward: within {worst:.1e} nats of upstream's forward.")
        return
    what = f"pref_forward: {chosen.route} differs from upstream's forward by up to {worst:.3g} nats on the first pairs"
    if stored is not None:
        raise UniDPOError(f"{what}. Remove `uni_dpo_image_cache`, or delete its folder if its images have changed.")
    if not policy:
        raise UniDPOError(f"{what}, so the reference's log-probs are not stored. Set `pref_forward: upstream`.")
    logger.warning_rank0(f"{what}, so this run goes on with upstream's forward. Please report the model and this.")


def _some_rows(trainer: "UniDPOTrainer") -> list[dict[str, Any]]:
    """Take the two shortest pairs among the first rows of the data, those with an image before those without."""
    dataset = trainer.train_dataset if trainer.train_dataset is not None else trainer.eval_dataset
    if isinstance(dataset, dict):
        dataset = next(iter(dataset.values()))
    rows = list(itertools.islice(iter(dataset), LOOKED_AT))
    return sorted(rows, key=lambda row: (not row.get("images"), len(row["chosen_input_ids"])))[:2]


def _collated(trainer: "UniDPOTrainer", rows: list[dict[str, Any]]) -> dict[str, Any]:
    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    return {name: value for name, value in batch.items() if name not in CARRIED_DTYPES}


def _too_large_for_upstream(trainer: "UniDPOTrainer", pairs: dict[str, Any]) -> bool:
    if trainer.args.device.type != "cuda":
        return False
    logits = pairs["input_ids"].numel() * trainer.model.config.get_text_config().vocab_size
    return 3 * 4 * logits > torch.cuda.mem_get_info(trainer.args.device)[0]  # three copies in float32


@torch.no_grad()
def _logps(trainer: "UniDPOTrainer", model: torch.nn.Module, pairs: dict[str, Any], policy: bool) -> torch.Tensor:
    """Sum up log-probs of all sequences under the policy and the reference, as far as they can be called."""
    sides = []
    if policy:
        output = trainer.concatenated_forward(model, dict(pairs))
        sides += [output["chosen_logps"], output["rejected_logps"]]
    if not trainer.reference_is_stored:
        sides += [side for side in trainer.compute_reference_log_probs(model, dict(pairs)) if side is not None]
    lengths = (pairs["labels"][:, 1:] != IGNORE_INDEX).sum(-1).repeat(len(sides) // 2)
    return torch.cat(sides) * (lengths if trainer.takes_means else 1) if sides else torch.zeros(0)
