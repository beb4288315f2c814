r"""Robust DPO (rDPO): a loss whose mean over wrong labels is DPO's on the right ones.

Source: Provably Robust DPO: Aligning Language Models with Noisy Feedback, arXiv 2403.00409.

With z DPO's logit and e the share of labels that are thought to be exchanged:

    loss(z)     = -log sigmoid(beta * z)
    robust loss = ((1 - e) * loss(z) - e * loss(-z)) / (1 - 2 e)

If a share e of the labels is exchanged at random, the expected robust loss is DPO's loss on the right labels. Label
smoothing, which adds e * loss(-z) where this takes it off, only makes the loss less sure of every label. The loss has
no lower bound: a pair that is fitted well goes on falling by e / (1 - 2 e) * beta for each nat of z.
"""

import torch.nn.functional as F

from .pairs import Outcome, Pairs


def robust_dpo(pairs: Pairs, *, beta: float, flip_rate: float) -> Outcome:
    """Compute robust DPO's loss of a batch of pairs.

    Args:
        pairs: log-probs; the paper takes sums over response tokens. Scores are not looked at.
        beta: scale of the implicit reward.
        flip_rate: e, the share of exchanged labels, from 0 (then this is DPO) to below 0.5.
    """
    reward_margin = beta * pairs.logits
    kept, exchanged = -F.logsigmoid(reward_margin), -F.logsigmoid(-reward_margin)
    return Outcome(((1 - flip_rate) * kept - flip_rate * exchanged) / (1 - 2 * flip_rate))
