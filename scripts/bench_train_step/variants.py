"""What is compared, on pairs of which lengths.

Every variant is a configuration of the engine that trains, not a second implementation of it.
"""

import math
from dataclasses import dataclass, replace
from importlib.util import find_spec

from .sizes import KINDS


# How often an image is encoded in a step, by policy and by reference: for every row of both models, once a pair and
# model, once a pair, never.
ENCODINGS = {"row": (2, 2), "model": (1, 1), "once": (1, 0), "cached": (0, 0)}


@dataclass(frozen=True)
class Variant:
    """One way to compute a step."""

    about: str  # what it is, for `--help` and pictures
    forward: str  # `upstream`, `liger`, or the layout that the engine is asked for (`rows`, `masked`, `packed`)
    images: str = "row"  # a key of `ENCODINGS`
    # The output layer: over all scored tokens at once (`whole`), 128 by 128 (`chunks`), or as the engine decides.
    head: str = "engine"
    runs_reference: bool = True  # whether the reference's log-probs are computed; else they are given

    @property
    def shares_prompts(self) -> bool:
        """Whether a pair's prompt runs through the text model once."""
        return self.forward in ("masked", "packed")

    @property
    def scores_answers(self) -> bool:
        """Whether the output layer sees answers only."""
        return self.forward not in ("upstream", "liger")

    @property
    def encodings(self) -> tuple[int, int]:
        """How often an image is encoded, by policy and by reference."""
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


# What a model can be compared by whose own forward runs.
OWN_FORWARD = ("response_only", "image_per_pair", "image_once", "everything", "reference_cached", "both_cached")


def variants_of(kind: str) -> dict[str, Variant]:
    """Return what the engine can do with a kind of models; `everything` is the best of it."""
    if not KINDS[kind].shares:
        found = {name: replace(VARIANTS[name], forward="rows") for name in OWN_FORWARD}
        best = replace(found["everything"], about="the engine as it trains: logits of answers only, image once")
        return {UPSTREAM: VARIANTS[UPSTREAM]} | found | {"everything": best}
    return VARIANTS


def obstacles(kind: str = "qwen2_vl") -> dict[str, str]:
    """Return which comparisons cannot run here, and why."""
    found = {name: "the engine knows no shared prompt of such a model" for name in VARIANTS.keys() - variants_of(kind)}
    if kind != "qwen2_vl":
        found["liger"] = "compared with Qwen2-VL only"
    elif not find_spec("liger_kernel"):
        found["liger"] = "liger-kernel is not installed"
    if kind == "qwen3_5":
        found["everything_masked"] = "a mask says nothing to layers that carry a state"
    if KINDS[kind].trains_tower:
        found |= dict.fromkeys(("image_once", "both_cached"), "LlamaFactory trains a part of the vision tower")
    if kind == "llava":
        found["both_cached"] = "its features are a list, which cannot be stored"
    return found


# Rows and columns of image tokens in the prompts of the default shapes.
IMAGES = {300: (16, 16), 1100: (25, 40)}
# Text around the image of any other prompt, at least.
TEXT_TOKENS = 20


@dataclass(frozen=True)
class Pair:
    """Lengths in tokens of one preference pair whose prompt has one image."""

    prompt: int  # image tokens and the markers around them included
    image: tuple[int, int]  # rows and columns of image tokens; a token is made of 2 x 2 patches
    chosen: int
    rejected: int

    @property
    def image_tokens(self) -> int:
        """Tokens that stand for the image in the prompt."""
        return math.prod(self.image)

    @property
    def tokens(self) -> int:
        """Tokens of both sequences, without padding."""
        return 2 * self.prompt + self.chosen + self.rejected


MIXED = "mixed"
MIXED_PAIRS = (
    Pair(300, (16, 16), 30, 100),
    Pair(420, (12, 32), 60, 40),
    Pair(200, (12, 12), 100, 60),
    Pair(600, (23, 23), 250, 120),
)
DEFAULT_SHAPES = ("300/30", "300/100", "300/250", "1100/30", "1100/100", "1100/250", MIXED)


def pairs_of(shape: str) -> tuple[Pair, ...]:
    """Read a shape: `mixed`, or `PROMPT/ANSWER` for one pair with two answers of the same length."""
    if shape == MIXED:
        return MIXED_PAIRS
    try:
        prompt, answer = (int(part) for part in shape.split("/"))
    except ValueError:
        raise ValueError(f"{shape!r} is no shape; write PROMPT/ANSWER in tokens, such as 300/30, or {MIXED}") from None
    side = math.isqrt(max(0, prompt - TEXT_TOKENS))
    if side < 2 or answer < 2:
        raise ValueError(f"{shape!r} is too small: a prompt has at least {TEXT_TOKENS + 4} tokens, an answer 2")
    return (Pair(prompt, IMAGES.get(prompt, (side, side)), answer, answer),)


def shapes_of(kind: str) -> tuple[str, ...]:
    """Return the default shapes of a kind of models; those of the published tables have images of 256 tokens."""
    if kind == "qwen2_vl":
        return DEFAULT_SHAPES
    prompt = (KINDS[kind].tokens or 16) ** 2 + TEXT_TOKENS + 24
    return tuple(f"{prompt}/{answer}" for answer in (30, 100, 250))


def describe(pairs: tuple[Pair, ...]) -> str:
    """Return the sizes of the pairs as text."""
    each = [f"{p.prompt} ({p.image_tokens} of an image) + {p.chosen} | {p.rejected}" for p in pairs]
    return f"{len(pairs)} pair{'s' if len(pairs) > 1 else ''}: " + "; ".join(each)
