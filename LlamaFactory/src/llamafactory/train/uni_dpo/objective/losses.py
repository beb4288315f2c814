"""The losses of ours by the names that `pref_loss` has for them: the one place that lists them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from .loss import uni_dpo_loss
from .odpo import odpo
from .pairs import Outcome, Pairs
from .robust_dpo import robust_dpo
from .rpo import DISTANCES, rpo


@dataclass(frozen=True)
class Loss:
    """A loss, and what it asks of a run.

    Attributes:
        compute: a function of `Pairs` and of the keywords in `options`.
        options: the keywords of `compute`, each with the option that gives its value.
        scores: whether every pair needs scores.
        means: whether log-probs are means over response tokens unless the user says otherwise; else sums.
    """

    compute: Callable[..., Outcome]
    options: dict[str, str]
    scores: bool = False
    means: bool = False

    def __call__(self, pairs: Pairs, args: Any) -> Outcome:
        """Compute the loss of pairs with the options of a run, `args`."""
        return self.compute(pairs, **{keyword: getattr(args, option) for keyword, option in self.options.items()})


def uni_dpo(pairs: Pairs, **settings: Any) -> Outcome:
    """Compute `uni_dpo_loss` of pairs."""
    logps = (pairs.policy_chosen, pairs.policy_rejected, pairs.reference_chosen, pairs.reference_rejected)
    found = uni_dpo_loss(*logps, pairs.score_chosen, pairs.score_rejected, **settings)
    return Outcome(found.losses, {name: getattr(found, name) for name in ("w_qual", "w_perf", "nll_weight")})


BETA = {"beta": "pref_beta"}
UNI_DPO = ("qual_eta", "tau_ref", "perf_gamma", "nll_lambda", "tau_good", "perf_detached")

LOSSES = {
    "uni_dpo": Loss(uni_dpo, BETA | {name: f"uni_dpo_{name}" for name in UNI_DPO}, scores=True, means=True),
    "robust_dpo": Loss(robust_dpo, BETA | {"flip_rate": "pref_flip_rate"}),
    "odpo": Loss(odpo, BETA | {"alpha": "pref_offset_alpha", "scaling": "pref_offset_scaling"}, scores=True),
    **{
        name: Loss(partial(rpo, distance=name), BETA | {"scale": "pref_reward_scale"}, scores=True)
        for name in DISTANCES
    },
}
