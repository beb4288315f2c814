r"""MM-RLHF's margin-scaled DPO: a beta for each pair, larger where the scores are far apart.

Source: MM-RLHF: The Next Step Forward in Multimodal LLM Alignment, arXiv 2502.10391.

With scores S of a pair of a chosen (w) and a rejected (l) response, and z = logp(w) - logp(l) minus the same under the
reference, DPO's logit before beta:

    delta  = max(0, S_w - S_l)                                   score margin
    factor = 1 + scale * (1 - exp(-rate * delta))                in [1, 1 + scale)
    loss   = DPO's, with beta * factor in place of beta; without label smoothing -log sigmoid(beta * factor * z)

`scale` is the paper's w and `rate` its k. The factor is a constant of the pair.

Departure: the margin is cut off at zero. The formula is made for pairs whose chosen answer has the higher score. Below
zero exp(-rate * delta) grows without bound, so that beta would turn negative (for 0.5 and 0.5 at a margin of -2.2) and
the loss teach the rejected answer, ever harder. Cut off at zero, a reversed pair counts as a tie, which is plain DPO.
(The authors' code reads 1 - exp(-k * delta) from the data, ready-made, and keeps beta at 1e-3 or more; its script has
w = 0.1.)

The loss itself stays upstream's, which is called with log-ratios in place of log-probs.
"""

from collections.abc import Sequence

import torch


def margin_factor(
    score_chosen: torch.Tensor, score_rejected: torch.Tensor, *, scale: float, rate: float
) -> torch.Tensor:
    """Compute by how much each pair's beta grows with its score margin.

    Args:
        score_chosen: quality scores of the chosen responses, shape (batch,), in float32 or more.
        score_rejected: the same of the rejected responses.
        scale: w, how much larger beta becomes for a wide margin; 0 leaves it as it is.
        rate: k, how fast it does, per unit of score.

    Returns:
        Factors of shape (batch,), from 1, for ties and for reversed pairs, to 1 + scale.
    """
    delta = (score_chosen - score_rejected).clamp(min=0)
    return 1 + scale * (1 - torch.exp(-rate * delta))


def scaled_logratios(logps: Sequence[torch.Tensor], factor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Make log-probs for which a DPO loss with beta is the one with `beta * factor`.

    Args:
        logps: of the chosen and the rejected responses under the policy, then under the reference, in nats, each of
            shape (batch,).
        factor: shape (batch,).

    Returns:
        The policy's log-ratios to the reference times `factor`, and zeros in place of the reference's log-probs.
    """
    policy_chosen, policy_rejected, reference_chosen, reference_rejected = logps
    chosen = factor * (policy_chosen - reference_chosen)
    rejected = factor * (policy_rejected - reference_rejected)
    return chosen, rejected, torch.zeros_like(chosen), torch.zeros_like(rejected)
