"""The trainer's forward: which route computes the log-probs of a run, and a check of it against upstream's."""

import itertools
from typing import TYPE_CHECKING, Any

import torch

from ...extras import logging
from ...extras.constants import IGNORE_INDEX
from .collate import CARRIED_DTYPES, MEDIA_KEYS
from .engine import Choice, attach, choose, pair_logps, same_vision_tower
from .errors import UniDPOError


if TYPE_CHECKING:
    from .trainer import UniDPOTrainer

logger = logging.get_logger(__name__)

# The self-check looks for a pair with an image among the first rows of the data set.
LOOKED_AT = 32


class PairForward:
    """Log-probs of batches of pairs by the engine, for as long as it agrees with upstream's forward.

    Attributes:
        choice: what the engine does in this run; `upstream` when it does nothing.
    """

    def __init__(self, model: torch.nn.Module, reference: torch.nn.Module | None, route: str):
        """Choose, and prepare both models, before anything wraps them.

        Args:
            model: the policy.
            reference: the reference model; None if there is none, or if it is the policy without its adapter.
            route: the option `pref_forward`.

        Raises:
            UniDPOError: `route` asks for more than the models allow.
        """
        self.choice = _choice(model, reference, route)
        for part in (model, reference):
            if part is not None:
                attach(part, self.choice)
        self.checked = self.choice.layout is None
        self.shares_features = self.choice.layout is not None and same_vision_tower(model, reference)
        self._features: dict[str, torch.Tensor] = {}

    def agree(self, trainer: "UniDPOTrainer") -> None:
        """Share image features between policy and reference only if every rank can: all must do the same work."""
        self.shares_features = not _any_rank(trainer, not self.shares_features)

    def serves(self, batch: dict[str, Any]) -> bool:
        """Tell whether the engine computes this batch."""
        return self.choice.layout is not None and "pair_layout" in batch

    def run(
        self, model: torch.nn.Module, batch: dict[str, Any], is_ref_model: bool, ld_alpha: float | None
    ) -> dict[str, torch.Tensor]:
        """Compute sums of log-probs, lengths and mean logits of 2n sequences.

        The policy's call comes first; the image features of its frozen tower serve the reference's call too.
        """
        layout, media = batch["pair_layout"], {name: batch.get(name) for name in MEDIA_KEYS}
        given = self._features if is_ref_model and self.shares_features else {}
        self._features = {}
        output = pair_logps(model, layout, media, batch.get("media_features", given), ld_alpha)
        if not is_ref_model and self.shares_features:
            self._features = output.features
        return {"logps": output.logps, "lengths": output.lengths, "logits": output.logits}

    def check(self, trainer: "UniDPOTrainer", model: torch.nn.Module) -> None:
        """Compare one pair with upstream's forward, once, and leave everything to upstream if they differ."""
        self.checked = True
        pair = _pair_to_check(trainer)
        if _any_rank(trainer, _too_large_for_upstream(pair, trainer)):
            logger.info_rank0("No self-check of pref_forward: upstream's forward of one pair does not fit in memory.")
            return
        chosen, upstream, training = self.choice, Choice("upstream"), model.training
        model.eval()  # dropout, of which attention may have its own, would make any two forwards differ
        ours = _logps_of(trainer, model, pair)
        self.choice = upstream
        theirs = _logps_of(trainer, model, pair)
        model.train(training)
        half = trainer.args.bf16 or trainer.args.fp16 or trainer.model.dtype in (torch.bfloat16, torch.float16)
        # Sums over an answer: in half precision every route, upstream's too, is some hundredths off the truth.
        bound = (0.5 if half else 0.01) + (0.01 if half else 1e-4) * theirs.abs()
        off = (ours - theirs).abs()
        if _any_rank(trainer, not bool((off <= bound).all())):  # also where one of them is NaN
            logger.warning_rank0(
                f"pref_forward: {chosen.route} differs from upstream's forward by up to {off.max():.3g} nats on the "
                "first pair, so this run goes on with upstream's forward. Please report the model and this message."
            )
        else:
            self.choice = chosen
            logger.info_rank0(f"Self-check of pref_forward: within {off.max():.1e} nats of upstream's forward.")


def _choice(model: torch.nn.Module, reference: torch.nn.Module | None, route: str) -> Choice:
    if route == "upstream":
        return Choice("upstream")
    best = choose(model, reference)
    if route == "response_only" and best.route == "shared_prefix":
        best = Choice("response_only", "rows")
    elif route not in ("auto", best.route):
        raise UniDPOError(f"`pref_forward: {route}` is not possible: {best.obstacle}. Use `auto` or `{best.route}`.")
    logger.info_rank0(f"pref_forward: {best.route}" + (f" ({best.obstacle})." if best.obstacle else "."))
    return best


def _any_rank(trainer: "UniDPOTrainer", flag: bool) -> bool:
    return bool(trainer.accelerator.reduce(torch.tensor(int(flag), device=trainer.args.device), "sum") > 0)


def _pair_to_check(trainer: "UniDPOTrainer") -> dict[str, Any]:
    """Collate the shortest pair with an image among the first rows."""
    dataset = trainer.train_dataset if trainer.train_dataset is not None else trainer.eval_dataset
    if isinstance(dataset, dict):
        dataset = next(iter(dataset.values()))
    rows = itertools.islice(iter(dataset), LOOKED_AT)
    pair = min(rows, key=lambda row: (not row.get("images"), len(row["chosen_input_ids"])))
    batch = trainer._prepare_inputs(trainer.data_collator([pair]))
    return {name: value for name, value in batch.items() if name not in CARRIED_DTYPES}


def _too_large_for_upstream(pair: dict[str, Any], trainer: "UniDPOTrainer") -> bool:
    if trainer.args.device.type != "cuda":
        return False
    logits = pair["input_ids"].numel() * trainer.model.config.get_text_config().vocab_size
    return 3 * 4 * logits > torch.cuda.mem_get_info(trainer.args.device)[0]  # three copies in float32


@torch.no_grad()
def _logps_of(trainer: "UniDPOTrainer", model: torch.nn.Module, pair: dict[str, Any]) -> torch.Tensor:
    """Sum up log-probs of one pair under policy and reference, shape (4,), or (2,) without a reference."""
    output = trainer.concatenated_forward(model, dict(pair))
    sides = [output["chosen_logps"], output["rejected_logps"]]
    sides += [side for side in trainer.compute_reference_log_probs(model, dict(pair)) if side is not None]
    lengths = (pair["labels"][:, 1:] != IGNORE_INDEX).sum(-1).repeat(len(sides) // 2)
    return torch.cat(sides) * (lengths if trainer.takes_means else 1)
