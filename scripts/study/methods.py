"""The methods, as options of LlamaFactory, and the grid that every one of them is tuned on.

Betas of losses over sums and over means of log-probs differ by the length of an answer, so the grid spans both: it is
the same twelve points for every method.
"""

from typing import Any


Options = dict[str, Any]

LEARNING_RATES = (5e-5, 1e-4, 2e-4, 4e-4)
BETAS = (0.1, 0.5, 2.0)
# What comes after an edge of the grid, if a method is best there.
BEYOND = {5e-5: 2.5e-5, 4e-4: 8e-4, 0.1: 0.02, 2.0: 8.0}

# As in examples/uni_dpo/demo_uni_dpo.yaml: eta and tau_good follow the scale of the scores, the rest is as published.
UNI_DPO = {
    "pref_loss": "uni_dpo",
    "uni_dpo_qual_eta": 0.3,
    "uni_dpo_tau_ref": 2.0,
    "uni_dpo_perf_gamma": 3.0,
    "uni_dpo_nll_lambda": 0.001,
    "uni_dpo_tau_good": 8.0,
}

METHODS: dict[str, Options] = {
    "dpo": {"pref_loss": "sigmoid"},
    "ln_dpo": {"pref_loss": "sigmoid", "dpo_average_log_prob": True},
    "simpo": {"pref_loss": "simpo"},
    "ipo": {"pref_loss": "ipo", "pref_loss_as_named": True},
    # Its rate k follows the scale of the scores, as Uni-DPO's eta does.
    "mm_dpo": {"pref_loss": "sigmoid", "pref_margin_scale": 0.5, "pref_margin_rate": 0.3},
    "uni_dpo": UNI_DPO,
    # Simpler losses that look at scores. What is a number in the unit of scores is Uni-DPO's eta, where there is one.
    "w_qual": {**UNI_DPO, "uni_dpo_perf_gamma": 0.0, "uni_dpo_nll_lambda": 0.0},
    "filtered": {"pref_loss": "sigmoid", "pref_pair_weights": True},  # DPO without pairs whose scores deny the label
    "odpo": {"pref_loss": "odpo"},
    "rpo": {"pref_loss": "rpo_bwd_kl", "pref_reward_scale": 0.3},
    # And others that do not; robust DPO is told how many labels the base condition exchanges.
    "robust_dpo": {"pref_loss": "robust_dpo", "pref_flip_rate": 0.08},
    "wpo": {"pref_loss": "sigmoid", "pref_policy_weights": True},
    "anchor": {"pref_loss": "sigmoid", "pref_anchor": 1.0},
    "mpo": {"pref_loss": "sigmoid", "pref_bco_weight": 0.25, "pref_ftx": 1.0},
}
SEE_SCORES = ("mm_dpo", "uni_dpo", "w_qual", "filtered", "odpo", "rpo")

# Each removes one term of Uni-DPO and leaves the rest as tuned.
ABLATIONS: dict[str, Options] = {
    "no w_qual": {"uni_dpo_qual_eta": 0.0},
    "no w_perf": {"uni_dpo_perf_gamma": 0.0},
    "no c-NLL": {"uni_dpo_nll_lambda": 0.0},
    "no LN": {"dpo_average_log_prob": False},
    "no LN, beta / 10": {"dpo_average_log_prob": False, "beta_factor": 0.1},
    "w_perf detached": {"uni_dpo_perf_detached": True},
}

# The published beta. Where tuning prefers a smaller one, beta * m stays far below tau_ref and w_perf is nearly
# constant, so what the terms do as published is asked at this beta too.
PUBLISHED_BETA = 2.0
ABLATED_AS_PUBLISHED = ("no w_qual", "no w_perf", "no LN", "w_perf detached")

# One at a time; the value in `UNI_DPO` belongs to each row too.
SWEEPS: dict[str, tuple[float, ...]] = {
    "uni_dpo_qual_eta": (0.1, 1.0, 3.0),
    "uni_dpo_perf_gamma": (1.0, 6.0),
    "uni_dpo_tau_ref": (0.0, 1.0, 4.0),
    "uni_dpo_nll_lambda": (0.03, 0.3),
}
# What w_qual can do where scores know better than labels.
ETAS_AGAINST_LABELS = (0.0, 1.0, 3.0)
# At the published lambda no threshold could show: it is swept where the term is strong.
TAU_GOOD = (6.0, 8.0, 9.5)
TAU_GOOD_LAMBDA = 0.3


def grid(method: str) -> list[Options]:
    """All points of the grid for one method."""
    return [with_grid_point(method, rate, beta) for rate in LEARNING_RATES for beta in BETAS]


def with_grid_point(method: str, learning_rate: float, beta: float) -> Options:
    """The options of a method at one point of the grid."""
    options = {**METHODS[method], "learning_rate": learning_rate, "pref_beta": beta}
    # The published ratio for SimPO, 1.0 to 2.0.
    return options | ({"simpo_gamma": beta / 2} if method == "simpo" else {})


def wider(method: str, best: Options) -> list[Options]:
    """The points beyond the edges of the grid at which a method was best: a row or a column of it, or both."""
    rate, beta = best["learning_rate"], best["pref_beta"]
    rows = [(rate, BEYOND[beta]) for rate in LEARNING_RATES if beta in BEYOND]
    columns = [(BEYOND[rate], beta) for beta in BETAS if rate in BEYOND]
    return [with_grid_point(method, *point) for point in (*rows, *columns)]


def told(options: Options, wrong: float) -> Options:
    """Options of a method that knows what share of the labels is wrong: robust DPO, which has to be told."""
    return options | ({"pref_flip_rate": min(wrong, 0.45)} if "pref_flip_rate" in options else {})


def ablated(tuned: Options, name: str) -> Options:
    """Tuned Uni-DPO without one of its parts; a factor of beta is applied to the tuned one."""
    options = {**tuned, **ABLATIONS[name]}
    options["pref_beta"] *= options.pop("beta_factor", 1.0)
    return options
