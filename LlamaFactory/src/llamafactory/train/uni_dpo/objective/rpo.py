r"""Reward-aware preference optimization (RPO): the implicit reward's gap is to match the scores' gap.

Source: Reward-aware Preference Optimization: A Unified Mathematical Framework for Model Alignment, arXiv 2502.00203;
NeMo-Aligner, docs/user-guide/dpo.rst and megatron_gpt_dpo_model.py, for the three distances and their names.

With z DPO's logit, r = beta * z the gap of implicit rewards and t = scale * (S_w - S_l) the gap of scores, and with
Bernoulli distributions q = sigmoid(r) and p = sigmoid(t) of the chosen response being the better one:

    rpo_sq     = (r - t)**2                                      d / dr = 2 (r - t)
    rpo_bwd_kl = KL(p || q)                                      d / dr = q - p
    rpo_fwd_kl = KL(q || p)                                      d / dr = q (1 - q) (r - t)

All three are zero where r = t, on whichever side: a pair whose scores contradict its label is learned the other way
round, and one that is fitted already is pulled back. `rpo_bwd_kl` differs by a constant from cross-entropy with p as a
soft label. p is a constant of the pair.

NeMo-Aligner fills in rewards for data without any; here such rows are refused, as everywhere.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from .pairs import Outcome, Pairs


def _squared(reward_gap: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (reward_gap - target) ** 2


def _divergence(of: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
    """Compute KL(sigmoid(of) || sigmoid(to)) in nats, in log space, so that nothing is 0 * infinity."""
    sides = [(F.logsigmoid(sign * of), F.logsigmoid(sign * to)) for sign in (1, -1)]
    return sum(log_p.exp() * (log_p - log_q) for log_p, log_q in sides)


def _backward(reward_gap: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return _divergence(target, reward_gap)


DISTANCES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "rpo_sq": _squared,
    "rpo_bwd_kl": _backward,
    "rpo_fwd_kl": _divergence,
}


def rpo(pairs: Pairs, distance: str, *, beta: float, scale: float) -> Outcome:
    """Compute the distance of the two gaps for a batch of pairs.

    Args:
        pairs: log-probs, of which the paper takes sums over response tokens, and scores.
        distance: a name in `DISTANCES`.
        beta: scale of the implicit reward.
        scale: how much a point of score is worth as reward.
    """
    target = scale * pairs.score_margin
    return Outcome(DISTANCES[distance](beta * pairs.logits, target), {"target": target})
