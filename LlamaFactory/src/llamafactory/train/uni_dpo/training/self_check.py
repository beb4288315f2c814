"""A pair through the engine and through upstream's forward, before a run relies on the engine.

It costs next to nothing: the pair is a short one, its answers end soon after they part, upstream's logits are made
where they are scored, and a kind of run that has passed (`passed.py`) is not looked at again.
"""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from ....extras import logging
from ....extras.constants import IGNORE_INDEX
from ..data.columns import CARRIED_DTYPES
from ..engine import Choice, plain_model
from ..errors import UniDPOError
from ..ranks import any_rank
from . import passed
from .rounding import rounded_again, rounds
from .view import PairTrainer


logger = logging.get_logger(__name__)

# A short pair with images is looked for among the first rows of the data set, ...
LOOKED_AT = 32
# ... and its answers end this many tokens after the first in which they differ: in float32 a mistake shows in any
# token, in lower precision it has to stand out from the rounding. Most of what the check costs are these logits.
KEPT, KEPT_WHERE_ROUNDED = 4, 16

# Sums of log-probs may differ by this many nats and this part of them, for the order of additions in float32, ...
BOUND = (0.01, 1e-4)
# ... and in lower precision by this many times what one more rounding of everything moves upstream's own. Rounding
# alone was seen to reach 1.9 in bfloat16 and 2.5 in float16: no false alarm in 60 random models of each
# (`python tests/support/rounding_rates.py 60`).
ROUNDINGS = 6.0

# What a row has of each answer.
TOKENS = ("ids", "mask", "labels")


def check_engine(trainer: PairTrainer, model: torch.nn.Module, policy: bool = True) -> None:
    """Compare, and end the run if the two differ on any rank: it cannot tell which of them is right.

    The engine gets the pair twice, the second time with its answers exchanged, so that upstream's forward of one pair
    says what both are.

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
    rounded = rounds(trainer.model, trainer.args)
    row = _short_pair(trainer, KEPT_WHERE_ROUNDED if rounded else KEPT)
    kind = passed.kind_of_run(trainer, policy, row)
    if not any_rank(trainer.accelerator, not passed.is_known(kind)):
        logger.info_rank0("Self-check of pref_forward: passed by an earlier run of this kind.")
        return
    training = model.training
    model.eval()  # dropout, of which attention may have its own, would make any two forwards differ
    ours, lengths = _logps(trainer, model, _collated(trainer, [row, _exchanged(row)]), policy)
    with _by_upstream(trainer):
        batch = _collated(trainer, [row])
        theirs = moved = _both_ways(_upstream_logps(trainer, model, batch, policy))
        if rounded:
            with rounded_again(model, trainer.ref_model):
                moved = _both_ways(_upstream_logps(trainer, model, batch, policy))
    model.train(training)
    off, bound = (ours - theirs).abs(), bounds(theirs, moved, lengths)
    wrong = ~((off <= bound) & bound.isfinite())  # true for NaN
    if any_rank(trainer.accelerator, bool(wrong.any())):
        who = ["policy"] * policy + ["reference"]
        raise UniDPOError(_disagreement(trainer, who, ours, theirs, wrong))
    worst = float(off.max()) if off.numel() else 0.0
    logger.info_rank0(f"Self-check of pref_forward: within {worst:.1e} nats of upstream's forward.")
    passed.remember(kind)


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
        f"known to be right, so nothing was trained. Their sums in nats of one pair, the second time with its answers "
        f"exchanged, {route} first:\n"
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


def _short_pair(trainer: PairTrainer, kept: int) -> dict[str, Any]:
    """Take the shortest pair among the first rows of the data, one with an image before those without, and cut it.

    Both answers keep so many tokens from where they part, as before that they are one.
    """
    dataset = trainer.train_dataset if trainer.train_dataset is not None else trainer.eval_dataset
    if isinstance(dataset, dict):
        dataset = next(iter(dataset.values()))
    rows = itertools.islice(iter(dataset), LOOKED_AT)
    row = dict(min(rows, key=lambda row: (not row.get("images"), len(row["chosen_input_ids"]))))
    both = zip(row["chosen_input_ids"], row["rejected_input_ids"], strict=False)
    parted = next((place for place, (chosen, rejected) in enumerate(both) if chosen != rejected), 0)
    if parted:
        cut = [name for name in row if name.startswith(("chosen_", "rejected_")) and name.rpartition("_")[2] in TOKENS]
        row |= {name: row[name][: parted + kept] for name in cut}
    return row


def _exchanged(row: dict[str, Any]) -> dict[str, Any]:
    other = {"chosen": "rejected", "rejected": "chosen"}
    sides = [(*name.partition("_"), value) for name, value in row.items()]
    return {other.get(side, side) + dash + rest: value for side, dash, rest, value in sides}


def _both_ways(values: torch.Tensor) -> torch.Tensor:
    """Repeat values of shape (sides, 1) for the pair with its answers exchanged."""
    return torch.cat([values, values.view(-1, 2).flip(1).reshape(-1, 1)], 1)


def _collated(trainer: PairTrainer, rows: list[dict[str, Any]]) -> dict[str, Any]:
    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    return {name: value for name, value in batch.items() if name not in CARRIED_DTYPES}


def _upstream_logps(trainer: PairTrainer, model: torch.nn.Module, batch: dict[str, Any], policy: bool) -> torch.Tensor:
    """Compute `_logps` with logits from the first scored token on, as those of a whole pair fill the memory."""
    scored = (batch["labels"] != IGNORE_INDEX).any(0).nonzero()
    kept = batch["labels"].shape[1] - int(scored[0]) + 1 if len(scored) else 2
    with ExitStack() as hooks:
        for part in (trainer.model, trainer.ref_model):
            if part is not None:
                hooks.enter_context(_last_logits(plain_model(part), kept))
        return _logps(trainer, model, batch | {"labels": batch["labels"][:, -kept:]}, policy)[0]


@contextmanager
def _last_logits(model: torch.nn.Module, kept: int) -> Iterator[None]:
    """Let a model return the logits of its last positions only, and compute no other if its head is one module."""

    def cut_hidden(head: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (inputs[0][:, -kept:], *inputs[1:])

    def cut_logits(whole: torch.nn.Module, inputs: Any, output: Any) -> None:
        output.logits = output.logits[:, -kept:]

    head = model.get_output_embeddings()
    hooks = [model.register_forward_hook(cut_logits)]
    if head is not None:
        hooks.append(head.register_forward_pre_hook(cut_hidden))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


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
