"""Two pairs through the engine and through upstream's forward, before a run relies on the engine."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ....extras import logging
from ....extras.constants import IGNORE_INDEX
from ..data.columns import CARRIED_DTYPES
from ..engine import Choice
from ..errors import UniDPOError
from ..ranks import any_rank
from .rounding import rounded_again, rounds
from .view import PairTrainer


logger = logging.get_logger(__name__)

# Short pairs with images are looked for among the first rows of the data set.
LOOKED_AT = 32

# Sums of log-probs may differ by this many nats and this part of them, for the order of additions in float32, ...
BOUND = (0.01, 1e-4)
# ... and in lower precision by this many times what one more rounding of everything moves upstream's own. Rounding
# alone was seen to reach 1.4 in bfloat16, and in float16, where the constant is as large, 4.7: no false alarm in 60
# random models of each (`python tests/support/rounding_rates.py 60`).
ROUNDINGS = 6.0


def check_engine(trainer: PairTrainer, model: torch.nn.Module, policy: bool = True) -> None:
    """Compare, and end the run if the two differ on any rank: it cannot tell which of them is right.

    Args:
        trainer: with the data, and with the reference if there is one.
        model: the policy.
        policy: false if only the reference can be called yet; the policy is then checked later.

    Raises:
        UniDPOError: they differ; it gives both values of every sequence.
    """
    forward = trainer.pair_forward
    if forward.checked or forward.choice.layout is None:
        return
    forward.checked = policy
    rows = _some_rows(trainer)
    if any_rank(trainer.accelerator, _too_large_for_upstream(trainer, rows)):
        logger.info_rank0("No self-check of pref_forward: upstream's forward of a pair does not fit in memory.")
        return
    training = model.training
    model.eval()  # dropout, of which attention may have its own, would make any two forwards differ
    ours, _ = _logps(trainer, model, _collated(trainer, rows), policy)
    with _by_upstream(trainer):
        theirs, lengths = _one_by_one(trainer, model, rows, policy)
        moved = theirs
        if rounds(trainer.model, trainer.args):
            with rounded_again(model, trainer.ref_model):
                moved, _ = _one_by_one(trainer, model, rows, policy)
    model.train(training)
    off, bound = (ours - theirs).abs(), bounds(theirs, moved, lengths)
    wrong = ~((off <= bound) & bound.isfinite())  # true for NaN
    if any_rank(trainer.accelerator, bool(wrong.any())):
        who = ["policy"] * policy + ["reference"]
        raise UniDPOError(_disagreement(trainer, who, ours, theirs, wrong))
    worst = float(off.max()) if off.numel() else 0.0
    logger.info_rank0(f"Self-check of pref_forward: within {worst:.1e} nats of upstream's forward.")


def bounds(theirs: torch.Tensor, moved: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Say how far from upstream's sums another way to compute them may be, in nats.

    Args:
        theirs: sums of log-probs by upstream's forward, any shape.
        moved: the same after one more rounding of every layer's output; what that did to a token counts as one size
            for all of them, as a single sum may have been lucky.
        lengths: scored tokens, the same shape.
    """
    if not theirs.numel():
        return theirs
    by_token = ((moved - theirs).double().square() / lengths).mean().sqrt()
    return BOUND[0] + BOUND[1] * theirs.abs() + (ROUNDINGS * by_token * lengths.sqrt()).to(theirs.dtype)


def _disagreement(
    trainer: PairTrainer, models: list[str], ours: torch.Tensor, theirs: torch.Tensor, wrong: torch.Tensor
) -> str:
    route, stored = trainer.pair_forward.choice.route, trainer.data_collator.read_image is not None
    sides = [f"{model} {side}" for model in models for side in ("chosen", "rejected")]
    lines = [
        f"  pair {pair + 1}, {sides[side]}: {ours[side, pair]:.6g} and {theirs[side, pair]:.6g}"
        + (", too far apart" if wrong[side, pair] else "")
        for pair in range(ours.shape[1])
        for side in range(len(ours))
    ]
    return (
        f"Self-check: `pref_forward: {route}` and LlamaFactory's own forward give different log-probs, and neither is "
        f"known to be right, so nothing was trained. Their sums in nats, {route} first:\n"
        + "\n".join(lines if wrong.any() else ["  (equal here, different in another process)"])
        + "\n`python scripts/install_overlay.py status` tells whether this LlamaFactory was edited. "
        + ("If images have changed, delete the folder of `uni_dpo_image_cache`. " if stored else "")
        + "`pref_forward: upstream` trains by LlamaFactory's forward, if that is the one you trust. Please report the "
        "model and these lines."
    )


@contextmanager
def _by_upstream(trainer: PairTrainer) -> Iterator[None]:
    """Compute log-probs by upstream's forward, from images as they are."""
    forward, collator = trainer.pair_forward, trainer.data_collator
    chosen, stored = forward.choice, collator.read_image
    forward.choice, collator.read_image = Choice("upstream"), None
    try:
        yield
    finally:
        forward.choice, collator.read_image = chosen, stored


def _some_rows(trainer: PairTrainer) -> list[dict[str, Any]]:
    """Take the two shortest pairs among the first rows of the data, those with an image before those without.

    There are always two, if one twice: every rank has to call the model equally often.
    """
    dataset = trainer.train_dataset if trainer.train_dataset is not None else trainer.eval_dataset
    if isinstance(dataset, dict):
        dataset = next(iter(dataset.values()))
    rows = list(itertools.islice(iter(dataset), LOOKED_AT))
    short = sorted(rows, key=lambda row: (not row.get("images"), len(row["chosen_input_ids"])))[:2]
    return (short * 2)[:2]


def _collated(trainer: PairTrainer, rows: list[dict[str, Any]]) -> dict[str, Any]:
    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    return {name: value for name, value in batch.items() if name not in CARRIED_DTYPES}


def _too_large_for_upstream(trainer: PairTrainer, rows: list[dict[str, Any]]) -> bool:
    if trainer.args.device.type != "cuda":
        return False
    longest = max(len(row[f"{side}_input_ids"]) for row in rows for side in ("chosen", "rejected"))
    logits = 2 * longest * trainer.model.config.get_text_config().vocab_size
    return 3 * 4 * logits > torch.cuda.mem_get_info(trainer.args.device)[0]  # three copies in float32


def _one_by_one(
    trainer: PairTrainer, model: torch.nn.Module, rows: list[dict[str, Any]], policy: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `_logps` of each pair alone, which needs the least memory."""
    parts = [_logps(trainer, model, _collated(trainer, [row]), policy) for row in rows]
    return torch.cat([logps for logps, _ in parts], 1), torch.cat([lengths for _, lengths in parts], 1)


@torch.no_grad()
def _logps(
    trainer: PairTrainer, model: torch.nn.Module, pairs: dict[str, Any], policy: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum up log-probs under the policy and the reference, as far as they can be called.

    Returns:
        Sums in nats and lengths, both of shape (sides, pairs); sides are chosen and rejected under the policy, then
        under the reference.
    """
    sides = []
    if policy:
        output = trainer.concatenated_forward(model, dict(pairs))
        sides += [output["chosen_logps"], output["rejected_logps"]]
    if not trainer.reference_is_stored:
        sides += [side for side in trainer.compute_reference_log_probs(model, dict(pairs)) if side is not None]
    lengths = (pairs["labels"][:, 1:] != IGNORE_INDEX).sum(-1).view(2, -1)
    lengths = lengths.repeat(len(sides) // 2, 1)
    sums = torch.stack(sides) if sides else lengths.new_zeros(lengths.shape, dtype=torch.float32)
    return sums * lengths if trainer.takes_means else sums, lengths
