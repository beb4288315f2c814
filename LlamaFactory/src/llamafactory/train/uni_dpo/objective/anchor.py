r"""mDPO's anchor: the chosen answer is to become likelier, not just less unlikely than the rejected one.

Source: mDPO: Conditional Preference Optimization for Multimodal Large Language Models, arXiv 2406.11839; the authors'
code (luka-group/mDPO, mdpo_trainer.py) for delta = 0, beta and weight as DPO's term has them.

    anchor = -log sigmoid( beta * (logp(y_w) - logp_ref(y_w)) - delta )
    loss   = loss of the pair + weight * anchor

mDPO's third term, which prefers the image to a corrupted one for the same chosen answer, is not here: it needs a
second picture and a third sequence for each pair.
"""

import torch
import torch.nn.functional as F

from .pairs import Pairs


def anchor(pairs: Pairs, *, beta: float, delta: float) -> torch.Tensor:
    """Compute the anchor of each pair, in nats, shape (batch,).

    Args:
        pairs: log-probs; scores are not looked at.
        beta: scale of the implicit reward.
        delta: the implicit reward of a chosen answer from which on the anchor hardly pulls.
    """
    return -F.logsigmoid(beta * pairs.chosen_logratios - delta)
