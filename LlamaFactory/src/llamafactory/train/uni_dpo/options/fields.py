"""The options of ours: their names, defaults and help texts."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class UniDPOArguments:
    """Options of `pref_loss: uni_dpo`, whose symbols are those of arXiv 2506.10054, and of all other losses."""

    uni_dpo_qual_eta: float = field(
        default=0.7,
        metadata={"help": "eta: steepness of the quality weight sigmoid(eta * (score_chosen - score_rejected))."},
    )
    uni_dpo_tau_ref: float = field(
        default=2.0,
        metadata={"help": "tau_ref: shift of the performance weight; stands in for the reference margin."},
    )
    uni_dpo_perf_gamma: float = field(
        default=3.0,
        metadata={"help": "gamma: focus of the performance weight on pairs not fitted yet; 0 turns it off."},
    )
    uni_dpo_nll_lambda: float = field(
        default=0.001,
        metadata={"help": "lambda: weight of the calibrated NLL term on chosen responses; 0 turns it off."},
    )
    uni_dpo_tau_good: float = field(
        default=2.5,
        metadata={"help": "tau_good: chosen responses that score at least this much may get the NLL term."},
    )
    uni_dpo_perf_detached: bool = field(
        default=False,
        metadata={"help": "Ablation: let no gradient flow through the performance weight, unlike the paper."},
    )
    uni_dpo_log_pairs: bool = field(
        default=False,
        metadata={"help": "Write one row per pair and step to `uni_dpo_pairs.jsonl` in the output folder."},
    )
    pref_forward: Literal["auto", "shared_prefix", "response_only", "upstream"] | None = field(
        default=None,
        metadata={
            "help": (
                "How log-probs of pairs are computed, with the same result: `shared_prefix` (image and prompt once a "
                "pair, response log-probs only), `response_only`, `upstream` (LlamaFactory's own forward), or `auto`, "
                "the first of these that the model allows. Unset: auto for our losses, upstream for others."
            )
        },
    )
    pref_token_budget: int = field(
        default=0,
        metadata={
            "help": (
                "Join the micro-batches of a step until a call of the model has about this many tokens (prompts "
                "counted once), with the same result. 0: one call for each micro-batch. Needs `shared_prefix`."
            )
        },
    )
    pref_varlen_attention: bool = field(
        default=False,
        metadata={
            "help": (
                "Attention of `shared_prefix` by one call of torch's variable-length FlashAttention a layer instead "
                "of two a pair. For half precision on a GPU; no GPU has tried it yet, the self-check does."
            )
        },
    )
    uni_dpo_reference_cache: str | None = field(
        default=None,
        metadata={
            "help": (
                "Folder for log-probs of the reference model. They are computed once, and later runs over the same "
                "pairs, with any learning rate or option of the loss, need no reference model."
            )
        },
    )
    uni_dpo_image_cache: str | None = field(
        default=None,
        metadata={
            "help": (
                "Folder for image features of a frozen vision tower. They are computed once, and later epochs and "
                "runs neither process nor encode these images."
            )
        },
    )
    uni_dpo_image_cache_gb: float = field(
        default=50.0,
        metadata={"help": "Stop, before anything is encoded, if the image cache would need more gigabytes than this."},
    )
    pref_loss_as_named: bool = field(
        default=False,
        metadata={
            "help": (
                "Let `hinge` and `ipo` train what their names say. LlamaFactory does not pass the name on to trl, "
                "which then trains the sigmoid loss."
            )
        },
    )
    pref_margin_scale: float = field(
        default=0.0,
        metadata={
            "help": (
                "w of MM-RLHF's margin-scaled DPO, for `pref_loss: sigmoid`: the beta of a pair is pref_beta * (1 + w "
                "* (1 - exp(-k * max(0, score_chosen - score_rejected)))). 0 turns it off."
            )
        },
    )
    pref_margin_rate: float = field(
        default=0.5,
        metadata={"help": "k of `pref_margin_scale`: how fast beta grows with the score margin."},
    )
    pref_flip_rate: float = field(
        default=0.1,
        metadata={
            "help": "For `pref_loss: robust_dpo`: the share of labels that are thought to be exchanged, below 0.5."
        },
    )
    pref_offset_alpha: float = field(
        default=1.0,
        metadata={"help": "alpha of `pref_loss: odpo`: how much of the score margin the reward margin has to reach."},
    )
    pref_offset_scaling: Literal["log", "identity"] = field(
        default="log",
        metadata={"help": "f of `pref_loss: odpo`: its offset is alpha * log(score margin), or alpha * score margin."},
    )
    pref_reward_scale: float = field(
        default=1.0,
        metadata={
            "help": (
                "For `pref_loss: rpo_sq`, `rpo_bwd_kl` and `rpo_fwd_kl`: the reward margin that a score margin of 1 "
                "stands for."
            )
        },
    )
    pref_pair_weights: bool = field(
        default=False,
        metadata={
            "help": (
                "With any loss: multiply the whole loss of a pair by its column `weight`, a number of zero or more. A "
                "weight of 2 is as if the pair stood there twice in its batch."
            )
        },
    )
    pref_policy_weights: bool = field(
        default=False,
        metadata={
            "help": "With any loss: WPO's weights, which are larger for answers that the policy itself would write."
        },
    )
    pref_anchor: float = field(
        default=0.0,
        metadata={
            "help": (
                "With any loss that has a reference: weight of mDPO's anchor -log sigmoid(beta * (logp(chosen) - "
                "logp_ref(chosen)) - delta), against chosen answers that become unlikelier. 0 turns it off."
            )
        },
    )
    pref_anchor_delta: float = field(
        default=0.0,
        metadata={"help": "delta of `pref_anchor`: the implicit reward that chosen answers are to reach."},
    )
    dpo_average_log_prob: bool | None = field(
        default=None,
        metadata={
            "help": (
                "Divide response log-probs by their number of tokens. Unset: yes for uni_dpo, no for the other losses "
                "of ours; the rest is left to LlamaFactory (yes for ipo, orpo and simpo). Set, to true or false: "
                "every loss trains with this overlay's trainer (exact resuming, guard against non-finite values)."
            ),
            # transformers lets other switches stand bare, but not one whose default is neither on nor off.
            **{"nargs": "?", "const": True},
        },
    )
