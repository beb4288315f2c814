"""What our options mean for a run, when they are checked, and how they join LlamaFactory's parser."""

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from ....hparams import parser
from ....hparams.finetuning_args import FinetuningArguments
from ..errors import print_errors_plainly
from ..objective.losses import LOSSES, Loss
from ..objective.pairs import SIDES, WEIGHT
from ..upstream.underneath import refuse_stranger
from ..upstream.versions import check_versions
from .checks import (
    LENGTH_NORMALISED_UPSTREAM,
    PreferenceLoss,
    check_loss,
    check_our_loss,
    check_trainer,
)
from .fields import UniDPOArguments
from .types import require_types


# Options of ours that mean something with every loss: those that bring our trainer once they are set at all, ...
SET = ("dpo_average_log_prob", "pref_forward")
# ... and those that do once they are on.
ON = (
    *("pref_token_budget", "pref_varlen_attention", "uni_dpo_reference_cache", "uni_dpo_image_cache"),
    *("pref_pair_weights", "pref_policy_weights", "pref_anchor"),
)
# The same with upstream's losses only.
ON_WITH_OTHERS = ("pref_loss_as_named", "pref_margin_scale")
# What only the engine does, with whatever loss.
NEEDS_ENGINE = ("uni_dpo_image_cache", "pref_token_budget", "pref_varlen_attention")
# Options that mean something beside another one.
BESIDE = {"pref_margin_rate": "pref_margin_scale", "pref_anchor_delta": "pref_anchor"}
# And those that mean something with every loss of ours.
OUR_LOSS = ("uni_dpo_log_pairs", "uni_dpo_image_cache_gb")
SWITCH = (bool, bool | None)


@dataclass
class UniDPOFinetuningArguments(UniDPOArguments, FinetuningArguments):
    """Upstream's fine-tuning options and ours, checked together.

    Attributes:
        SWITCHES: ours that are on or off; on the command line `--NAME` and `--no_NAME` do.
    """

    SWITCHES: ClassVar[list[str]] = [option.name for option in fields(UniDPOArguments) if option.type in SWITCH]
    pref_loss: PreferenceLoss = field(
        default="sigmoid",
        metadata={"help": "The type of DPO loss to use; `uni_dpo` weighs pairs by score and by fit. docs/options.md."},
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
        if self.our_loss is not None:
            check_our_loss(self)
        super().__post_init__()

    @property
    def our_loss(self) -> Loss | None:
        """What this run trains, if that is a loss of ours."""
        return LOSSES.get(self.pref_loss) if self.stage == "dpo" else None

    @property
    def uses_uni_dpo(self) -> bool:
        """Whether this run trains with Uni-DPO's loss."""
        return self.our_loss is LOSSES["uni_dpo"]

    @property
    def uses_our_trainer(self) -> bool:
        """Whether this run trains with our trainer: with our losses always, with others when asked."""
        asked = any(getattr(self, name) is not None for name in SET)
        asked = asked or any(bool(getattr(self, name)) for name in (*ON, *ON_WITH_OTHERS))
        return self.stage == "dpo" and (self.our_loss is not None or asked)

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
        if self.our_loss is not None and self.our_loss.scores:
            return f"pref_loss: {self.pref_loss}"
        return f"pref_margin_scale: {self.pref_margin_scale}" if self.uses_margin else ""

    @property
    def numbers_needed(self) -> dict[str, str]:
        """The numbers that every pair of the data has to carry, each with the option that needs it, for messages."""
        scores = dict.fromkeys(SIDES, self.scores_needed_by) if self.uses_scores else {}
        weighted = self.stage == "dpo" and self.pref_pair_weights
        return scores | ({WEIGHT: "pref_pair_weights: true"} if weighted else {})

    @property
    def logs_pairs(self) -> bool:
        """Whether this run writes a row for each pair."""
        return self.our_loss is not None and self.uni_dpo_log_pairs

    @property
    def uses_caches(self) -> bool:
        """Whether this run keeps reference log-probs or image features."""
        return self.stage == "dpo" and bool(self.uni_dpo_reference_cache or self.uni_dpo_image_cache)

    @property
    def forward_route(self) -> str:
        """How this run computes log-probs: `pref_forward`, or its default for this loss."""
        needs_engine = any(getattr(self, name) for name in NEEDS_ENGINE)
        ours = self.our_loss is not None or needs_engine
        return self.pref_forward or ("auto" if ours else "upstream")

    @property
    def averages_logps(self) -> bool:
        """Whether our trainer has to divide log-probs by response length, upstream's not doing it."""
        if self.stage != "dpo" or self.pref_loss in LENGTH_NORMALISED_UPSTREAM:
            return False
        if self.dpo_average_log_prob is not None:
            return self.dpo_average_log_prob
        return self.our_loss is not None and self.our_loss.means

    @property
    def takes_means(self) -> bool:
        """Whether log-probs are means over response tokens, by whoever takes them."""
        return self.averages_logps or self.pref_loss in LENGTH_NORMALISED_UPSTREAM

    def to_dict(self) -> dict[str, Any]:
        """Report our options only where they mean something, so that other runs are reported as upstream does."""
        defaults = {option.name: option.default for option in fields(UniDPOArguments)}
        kept = {name for name in (*SET, *ON, *ON_WITH_OTHERS) if getattr(self, name) != defaults[name]}
        if self.our_loss is not None:
            kept |= {*SET, *ON, *OUR_LOSS, *self.our_loss.options.values()}
        kept |= {name for name, other in BESIDE.items() if self.stage == "dpo" and getattr(self, other)}
        return {name: value for name, value in super().to_dict().items() if name not in defaults.keys() - kept}


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
