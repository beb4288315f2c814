r"""DPO with an offset (ODPO): the better the chosen answer scores, the larger the margin that is asked for.

Source: Direct Preference Optimization with an Offset, arXiv 2402.10571 (Findings of ACL 2024); its authors' code,
rycolab/odpo, for f = log and alpha = 1 as the default.

With z DPO's logit and scores S of the chosen (w) and the rejected (l) response:

    offset = alpha * f(S_w - S_l)                               f: log, or the margin itself
    loss   = -log sigmoid(beta * z - offset)

The offset is a constant of the pair. With the logarithm a margin below 1 lowers what is asked for, and the loss of a
pair is log(1 + (S_w - S_l)**alpha * exp(-beta * z)).

Departure: the authors' pairs are sorted by score, and a margin of zero or less has no logarithm. By the formula above
nothing is left of such a pair's loss as its margin goes to zero, so it is not learned from.
"""

import torch
import torch.nn.functional as F

from .pairs import Outcome, Pairs


SCALINGS = ("log", "identity")


def odpo(pairs: Pairs, *, beta: float, alpha: float, scaling: str) -> Outcome:
    """Compute ODPO's loss of a batch of pairs.

    Args:
        pairs: log-probs, of which the paper takes sums over response tokens, and scores.
        beta: scale of the implicit reward.
        alpha: how much of the score margin is asked for; 0 is DPO.
        scaling: f, one of `SCALINGS`.
    """
    margin = pairs.score_margin
    scaled = margin if scaling == "identity" else margin.clamp(min=torch.finfo(margin.dtype).tiny).log()
    offset = alpha * scaled
    losses = -F.logsigmoid(beta * pairs.logits - offset)
    asks = (margin > 0) | (scaling == "identity") | (alpha == 0)
    return Outcome(losses * asks, {"offset": offset})
