"""What is compared: LlamaFactory's forward, each part of the engine alone, everything, and Liger's fused loss.

Every variant is a configuration of the engine that trains, not a second implementation of it.
"""

from dataclasses import dataclass
from importlib.util import find_spec


# How often an image is encoded in a step: for every row of both models, once a pair and model, once a pair, never.
ENCODINGS = {"row": 4, "model": 2, "once": 1, "cached": 0}


@dataclass(frozen=True)
class Variant:
    """One way to compute a step.

    Attributes:
        about: what it is, for `--help` and pictures.
        forward: `upstream`, `liger`, or the layout that the engine is asked for (`rows`, `masked`, `packed`).
        images: a key of `ENCODINGS`.
        head: output layer over all scored tokens at once (`whole`), in chunks of 128 tokens (`chunks`), or as the
            engine decides (`engine`).
        runs_reference: whether the reference's log-probs are computed; else they are given.
    """

    about: str
    forward: str
    images: str = "row"
    head: str = "engine"
    runs_reference: bool = True

    @property
    def shares_prompts(self) -> bool:
        """Whether a pair's prompt runs through the text model once."""
        return self.forward in ("masked", "packed")

    @property
    def scores_answers(self) -> bool:
        """Whether the output layer sees answers only."""
        return self.forward not in ("upstream", "liger")

    @property
    def encodings(self) -> int:
        """How often an image is encoded."""
        return ENCODINGS[self.images]


VARIANTS = {
    "upstream": Variant("LlamaFactory's forward", "upstream"),
    "response_only": Variant("padded rows, logits of answers only", "rows", head="whole"),
    "chunked_head": Variant("the same, logits in chunks of 128 tokens", "rows", head="chunks"),
    "image_per_pair": Variant("response_only, image once a pair", "rows", "model", "whole"),
    "image_once": Variant("response_only, image once for policy and reference", "rows", "once", "whole"),
    "shared_prefix": Variant("[prompt | chosen | rejected], image once a pair", "packed", "model", "whole"),
    "everything": Variant("the engine as it trains: shared prompt, image once", "packed", "once"),
    "everything_masked": Variant("the same with a mask of four dimensions", "masked", "once"),
    "reference_cached": Variant("everything, reference log-probs given", "packed", "once", runs_reference=False),
    "both_cached": Variant("everything, image features given too", "packed", "cached", runs_reference=False),
    "liger": Variant("padded rows, Liger's fused linear DPO loss", "liger"),
}
UPSTREAM = "upstream"


def obstacles() -> dict[str, str]:
    """Return which comparisons cannot run here, and why."""
    found = {
        # Its 0.1.1, the newest, replaces functions that transformers 4.52 removed.
        "flash-pref": "needs transformers 4.49 to 4.51, and this LlamaFactory needs a newer one"
    }
    if find_spec("liger_kernel") is None:
        found["liger"] = "liger-kernel is not installed"
    return found
