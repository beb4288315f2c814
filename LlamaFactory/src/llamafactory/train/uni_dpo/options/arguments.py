"""The options of Uni-DPO: their names, help texts and checks, and how they join LlamaFactory's parser."""

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from ....hparams import parser
from ....hparams.finetuning_args import FinetuningArguments
from ..errors import print_errors_plainly
from ..upstream.underneath import OUR_LOSSES, refuse_stranger
from ..upstream.versions import check_versions
from .checks import (
    LENGTH_NORMALISED_UPSTREAM,
    PreferenceLoss,
    check_clashes,
    check_loss,
    check_numbers,
    check_trainer,
)
from .types import require_types


# Options of ours that mean something with every loss, where they are set.
ANY_LOSS = (
    *("dpo_average_log_prob", "pref_forward", "pref_token_budget", "pref_varlen_attention"),
    *("uni_dpo_reference_cache", "uni_dpo_image_cache"),
)
# And those that mean something with upstream's losses only.
OTHER_LOSSES = ("pref_loss_as_named", "pref_margin_scale", "pref_margin_rate")
SWITCH = (bool, bool | None)


@dataclass
class UniDPOArguments:
    """Options of `pref_loss: uni_dpo`; the symbols are those of arXiv 2506.10054."""

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
                "the first of these that the model allows. Unset: auto for uni_dpo, upstream for all else."
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
    dpo_average_log_prob: bool | None = field(
        default=None,
        metadata={
            "help": (
                "Divide response log-probs by their number of tokens. Unset: yes for uni_dpo; every other loss is "
                "left to LlamaFactory entirely (yes for ipo, orpo and simpo, no for the rest). Set, to true or false: "
                "every loss trains with this overlay's trainer (exact resuming, guard against non-finite values)."
            ),
            # transformers lets other switches stand bare, but not one whose default is neither on nor off.
            **{"nargs": "?", "const": True},
        },
    )


@dataclass
class UniDPOFinetuningArguments(UniDPOArguments, FinetuningArguments):
    """Upstream's fine-tuning options and ours, checked together.

    Attributes:
        SWITCHES: ours that are on or off; on the command line `--NAME` and `--no_NAME` do.
    """

    SWITCHES: ClassVar[list[str]] = [option.name for option in fields(UniDPOArguments) if option.type in SWITCH]
    pref_loss: PreferenceLoss = field(
        default="sigmoid",
        metadata={"help": "The type of DPO loss to use; `uni_dpo` weighs pairs by score and by fit."},
    )

    # Whether the user named the checkpoint to go on from; no option of its own.
    names_checkpoint: ClassVar[bool] = False

    def __post_init__(self):
        """Check our options first, so that a clash is told in the user's own terms.

        Raises:
            UniDPOError: an option is out of range or clashes with another, or this LlamaFactory is no clean one.
        """
        if self.stage == "dpo":
            refuse_stranger()
            check_loss(self)
        if self.uses_our_trainer:
            check_versions()
            require_types(UniDPOArguments, self)
            check_trainer(self)
        if self.uses_uni_dpo:
            check_numbers(self)
            check_clashes(self)
        super().__post_init__()

    @property
    def uses_uni_dpo(self) -> bool:
        """Whether this run trains with our loss."""
        return self.stage == "dpo" and self.pref_loss == "uni_dpo"

    @property
    def uses_our_trainer(self) -> bool:
        """Whether this run trains with our trainer: with our loss always, with others when asked."""
        asked = self.dpo_average_log_prob is not None or self.pref_forward is not None or self.uses_caches
        asked = asked or self.uses_margin or bool(self.pref_loss_as_named) or self.uses_engine
        return self.stage == "dpo" and (self.pref_loss in OUR_LOSSES or asked)

    @property
    def uses_margin(self) -> bool:
        """Whether beta grows with the score margin of a pair."""
        return self.stage == "dpo" and bool(self.pref_margin_scale)

    @property
    def uses_scores(self) -> bool:
        """Whether the data have to carry scores."""
        return bool(self.scores_needed_by)

    @property
    def scores_needed_by(self) -> str:
        """The option that needs scores, for messages; empty if none does."""
        if self.uses_uni_dpo:
            return "pref_loss: uni_dpo"
        return f"pref_margin_scale: {self.pref_margin_scale}" if self.uses_margin else ""

    @property
    def uses_caches(self) -> bool:
        """Whether this run keeps reference log-probs or image features."""
        return self.stage == "dpo" and bool(self.uni_dpo_reference_cache or self.uni_dpo_image_cache)

    @property
    def uses_engine(self) -> bool:
        """Whether an option asks for what only the engine does, with whatever loss."""
        return bool(self.pref_token_budget) or self.pref_varlen_attention

    @property
    def forward_route(self) -> str:
        """How this run computes log-probs: `pref_forward`, or its default for this loss."""
        ours = self.uses_uni_dpo or bool(self.uni_dpo_image_cache) or self.uses_engine
        return self.pref_forward or ("auto" if ours else "upstream")

    @property
    def averages_logps(self) -> bool:
        """Whether our trainer has to divide log-probs by response length, upstream's not doing it."""
        if self.stage != "dpo" or self.pref_loss in LENGTH_NORMALISED_UPSTREAM:
            return False
        return self.uses_uni_dpo if self.dpo_average_log_prob is None else self.dpo_average_log_prob

    @property
    def takes_means(self) -> bool:
        """Whether log-probs are means over response tokens, by whoever takes them."""
        return self.averages_logps or self.pref_loss in LENGTH_NORMALISED_UPSTREAM

    def to_dict(self) -> dict[str, Any]:
        """Report our options only where they mean something, so that other runs are reported as upstream does."""
        ours = {option.name: option.default for option in fields(UniDPOArguments)}
        kept = {name for name in (*ANY_LOSS, *OTHER_LOSSES) if getattr(self, name) != ours[name]}
        if self.uses_uni_dpo:
            kept |= ours.keys() - set(OTHER_LOSSES)
        if self.uses_margin:
            kept.add("pref_margin_rate")
        else:
            kept.discard("pref_margin_rate")
        return {name: value for name, value in super().to_dict().items() if name not in ours.keys() - kept}


def register_arguments() -> None:
    """Make LlamaFactory parse our options: put our class where upstream's stands in the parser's lists.

    The lists are read when arguments are parsed, so this must run before that and may run twice.

    Raises:
        AttributeError: this LlamaFactory has no such list.
    """
    if not {FinetuningArguments, UniDPOFinetuningArguments} & set(parser._TRAIN_ARGS):
        raise AttributeError("hparams.parser._TRAIN_ARGS has no FinetuningArguments")
    print_errors_plainly()
    for name, classes in vars(parser).items():
        if name.endswith("_ARGS") and isinstance(classes, list):
            classes[:] = [UniDPOFinetuningArguments if cls is FinetuningArguments else cls for cls in classes]
