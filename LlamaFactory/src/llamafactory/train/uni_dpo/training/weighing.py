"""What is done to the loss of a pair, whichever loss it is: WPO's weights, mDPO's anchor, weights from the data."""

from typing import Any

import torch

from ....extras.constants import IGNORE_INDEX
from ..objective.anchor import anchor
from ..objective.pairs import WEIGHT, Pairs
from ..objective.wpo import policy_weights


def reweighed(
    losses: torch.Tensor, pairs: Pairs, likeness: torch.Tensor | None, args: Any
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Apply `pref_policy_weights` and `pref_anchor` to preference losses.

    Args:
        losses: of each pair, shape (batch,).
        pairs: their log-probs.
        likeness: what WPO compares, of 2n answers, chosen ones first, shape (2 * batch,).
        args: the options of the run.

    Returns:
        The losses, and what is logged of it, each of shape (batch,).
    """
    terms = {}
    if args.pref_policy_weights:
        terms["w_policy"] = policy_weights(*likeness.chunk(2))
        losses = terms["w_policy"] * losses
    if args.pref_anchor:
        pull = anchor(pairs, beta=args.pref_beta, delta=args.pref_anchor_delta)
        terms["anchor"] = pull.detach()
        losses = losses + args.pref_anchor * pull
    return losses, terms


def weighted(
    losses: torch.Tensor, carried: dict[str, torch.Tensor], args: Any
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Apply `pref_pair_weights` to whole losses; returns as `reweighed`."""
    if not args.pref_pair_weights:
        return losses, {}
    return losses * carried[WEIGHT], {WEIGHT: carried[WEIGHT]}


@torch.no_grad()
def likeness_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute what WPO compares from upstream's logits, row by row, as they are large.

    Args:
        logits: shape (rows, length, vocabulary).
        labels: token ids where scored, shape (rows, length).

    Returns:
        The mean over a row's scored tokens of log p(token) - log sum_v p(v)**2, in nats, shape (rows,).
    """
    found = []
    for row, wanted in zip(logits[:, :-1], labels[:, 1:], strict=True):
        scored = wanted != IGNORE_INDEX
        logps = row[scored].float().log_softmax(-1)
        tokens = logps.gather(1, wanted[scored][:, None])[:, 0]
        found.append((tokens - (2 * logps).logsumexp(-1)).mean())
    return torch.stack(found)
