r"""The Uni-DPO objective.

Source: Uni-DPO: A Unified Paradigm for Dynamic Preference Optimization of LLMs, arXiv 2506.10054 (ICLR 2026).

With mean log-probs over response tokens and scores S, for a pair of a chosen (w) and a rejected (l) response:

    m      = logp(w) - logp(l)                                   policy margin
    m_ref  = the same under the reference
    z      = beta * (m - m_ref)                                  implicit reward margin, DPO's logit
    w_qual = sigmoid(eta * (S_w - S_l))                          quality of the pair
    w_perf = (1 - sigmoid(beta * m - tau_ref)) ** gamma          how far the policy still is from fitting it
    nll    = lambda * 1[logp_ref(w) > logp(w)] * 1[S_w >= tau_good]
    loss   = -w_qual * w_perf * log sigmoid(z) - nll * logp(w)

Gradients flow through `w_perf`; `w_qual` and `nll` are constants of the pair. In `w_perf` the reference margin is
replaced by the constant `tau_ref`, as in the paper. `perf_detached`, for ablations, makes `w_perf` a constant too.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .pairs import at_least_float32, bounded


@dataclass(frozen=True)
class UniDPOLoss:
    """The terms of a batch of pairs, each of shape (batch,); only `losses` carries a graph.

    Attributes:
        losses: the objective of each pair, in nats.
        w_qual: quality weight, in (0, 1); one half for a tie in scores.
        w_perf: performance weight, in [0, 1].
        nll_weight: lambda where the calibrated NLL term is on, else 0.
        chosen_rewards: beta * (policy - reference log-prob) of the chosen response.
        rejected_rewards: the same for the rejected response.
    """

    losses: torch.Tensor
    w_qual: torch.Tensor
    w_perf: torch.Tensor
    nll_weight: torch.Tensor
    chosen_rewards: torch.Tensor
    rejected_rewards: torch.Tensor


def uni_dpo_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    reference_chosen_logps: torch.Tensor,
    reference_rejected_logps: torch.Tensor,
    score_chosen: torch.Tensor,
    score_rejected: torch.Tensor,
    *,
    beta: float,
    qual_eta: float,
    tau_ref: float,
    perf_gamma: float,
    nll_lambda: float,
    tau_good: float,
    perf_detached: bool = False,
) -> UniDPOLoss:
    """Compute the Uni-DPO loss of a batch of pairs.

    Args:
        policy_chosen_logps: log-probs of the chosen responses under the policy, in nats, shape (batch,); the paper
            takes means over response tokens, and so does every default of this project.
        policy_rejected_logps: the same for the rejected responses.
        reference_chosen_logps: log-probs of the chosen responses under the reference; treated as constants.
        reference_rejected_logps: the same for the rejected responses.
        score_chosen: quality scores of the chosen responses, on any scale, shape (batch,).
        score_rejected: quality scores of the rejected responses.
        beta: scale of the implicit reward.
        qual_eta: eta, steepness of `w_qual` in score units.
        tau_ref: shift of `w_perf` that stands in for the reference margin.
        perf_gamma: gamma, focus of `w_perf`; 0 turns it off.
        nll_lambda: lambda, weight of the calibrated NLL term.
        tau_good: score from which (inclusive) a chosen response is worth imitating.
        perf_detached: whether no gradient flows through `w_perf`, which departs from the paper; values stay the same.

    Returns:
        The loss and its terms. bfloat16 and float16 inputs are computed in float32, others in their own precision.
        Everything is finite, gradients included, whenever the inputs are.
    """
    policy_chosen = at_least_float32(policy_chosen_logps)
    policy_rejected = at_least_float32(policy_rejected_logps)
    reference_chosen = at_least_float32(reference_chosen_logps.detach())
    reference_rejected = at_least_float32(reference_rejected_logps.detach())
    policy_margin = bounded(policy_chosen - policy_rejected)
    reference_margin = bounded(reference_chosen - reference_rejected)
    reward_margin = beta * (policy_margin - reference_margin)

    # Scores keep a precision of their own: 2.495 rounded to bfloat16 would pass tau_good = 2.5.
    score_chosen, score_rejected = at_least_float32(score_chosen), at_least_float32(score_rejected)
    w_qual = torch.sigmoid(qual_eta * bounded(score_chosen - score_rejected)).to(policy_chosen.dtype)
    # (1 - sigmoid(u))**gamma in log space: the power itself has an infinite derivative where sigmoid saturates.
    w_perf = torch.exp(perf_gamma * F.logsigmoid(tau_ref - beta * policy_margin))
    w_perf = w_perf.detach() if perf_detached else w_perf
    below_reference = reference_chosen > policy_chosen.detach()
    nll_weight = nll_lambda * (below_reference & (score_chosen >= tau_good)).to(policy_chosen.dtype)

    losses = -w_qual * w_perf * F.logsigmoid(reward_margin) - nll_weight * policy_chosen
    return UniDPOLoss(
        losses=losses,
        w_qual=w_qual.detach(),
        w_perf=w_perf.detach(),
        nll_weight=nll_weight,
        chosen_rewards=(beta * bounded(policy_chosen - reference_chosen)).detach(),
        rejected_rewards=(beta * bounded(policy_rejected - reference_rejected)).detach(),
    )
