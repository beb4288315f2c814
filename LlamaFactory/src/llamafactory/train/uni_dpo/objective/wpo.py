r"""WPO: weigh a pair by how likely the policy itself would write its two answers.

Source: WPO: Enhancing RLHF with Weighted Preference Optimization, arXiv 2406.11827, with the alignment of weights that
the authors' code (wzhouad/WPO, scripts/run_wpo.py) has: a token counts relative to what one drawn from the policy has
on average, sum over v of p(v)**2, so that an answer of the policy's own has a weight of about 1.

    w(y) = exp( mean over tokens of ( log p(y_t) - log sum_v p(v)**2 ) )
    loss = min(1, w(y_w) * w(y_l)) * loss of the pair

The weight is a constant: no gradient flows through it. The least of 1 and the product is the authors' code's; trl 0.24
has it too, trl 1.16 does not. It multiplies the preference loss, and neither `pref_ftx` nor an anchor.
"""

import torch


def policy_weights(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """Weigh pairs.

    Args:
        chosen: of each chosen response the mean over tokens of log p(token) - log sum_v p(v)**2 under the policy, in
            nats, shape (batch,).
        rejected: the same of the rejected responses.

    Returns:
        Weights in (0, 1], shape (batch,), without gradient.
    """
    return (chosen + rejected).detach().clamp(max=0).exp()
