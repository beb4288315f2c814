"""What a loss is computed from, and what it gives back."""

from dataclasses import dataclass, field

import torch


# What data may say of a pair in numbers, by the names that batches have for it: scores of both sides, and a weight.
SIDES = ("score_chosen", "score_rejected")
WEIGHT = "weight"


@dataclass(frozen=True)
class Pairs:
    """Log-probs and scores of pairs of a chosen and a rejected response, each of shape (batch,).

    Attributes:
        policy_chosen: log-probs of the chosen responses under the policy, in nats: sums or means over tokens.
        policy_rejected: the same of the rejected responses.
        reference_chosen: the same of the chosen responses under the reference; constants.
        reference_rejected: the same of the rejected responses.
        score_chosen: scores of the chosen responses, on any scale; None where the data have none.
        score_rejected: the same of the rejected responses.
    """

    policy_chosen: torch.Tensor
    policy_rejected: torch.Tensor
    reference_chosen: torch.Tensor
    reference_rejected: torch.Tensor
    score_chosen: torch.Tensor | None = None
    score_rejected: torch.Tensor | None = None

    @property
    def chosen_logratios(self) -> torch.Tensor:
        """The policy's log-probs of the chosen responses less the reference's."""
        return bounded(at_least_float32(self.policy_chosen) - at_least_float32(self.reference_chosen.detach()))

    @property
    def rejected_logratios(self) -> torch.Tensor:
        """The same of the rejected responses."""
        return bounded(at_least_float32(self.policy_rejected) - at_least_float32(self.reference_rejected.detach()))

    @property
    def logits(self) -> torch.Tensor:
        """DPO's logit before beta: the policy's margin less the reference's."""
        policy = at_least_float32(self.policy_chosen) - at_least_float32(self.policy_rejected)
        reference = at_least_float32(self.reference_chosen) - at_least_float32(self.reference_rejected)
        return bounded(policy) - bounded(reference.detach())

    @property
    def score_margin(self) -> torch.Tensor:
        """By how much the chosen response scores higher, in the precision of the log-probs, float32 or more."""
        margin = bounded(at_least_float32(self.score_chosen) - at_least_float32(self.score_rejected))
        return margin.to(at_least_float32(self.policy_chosen).dtype)


@dataclass(frozen=True)
class Outcome:
    """What a loss says of a batch of pairs.

    Attributes:
        losses: the objective of each pair, shape (batch,); only this carries a graph.
        terms: what is logged of it beside the rewards, by name, each of shape (batch,).
    """

    losses: torch.Tensor
    terms: dict[str, torch.Tensor] = field(default_factory=dict)


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Give half precision the range and the digits of float32."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def bounded(differences: torch.Tensor) -> torch.Tensor:
    """Keep a difference of finite numbers, and a product of a few of them, from overflowing to infinity.

    The bound, 1.8e19 in float32, is far outside anything log-probs or scores can mean.
    """
    limit = torch.finfo(differences.dtype).max ** 0.5
    return differences.clamp(-limit, limit)
