"""What is compared, on pairs of which lengths, and how many operations a step takes, which bounds what can be gained.

Every variant is a configuration of the engine that trains, not a second implementation of it.

Counted are multiplications and additions of matrix products: those of the linear layers, and those of attention where
a query may look at a key. Everything else (norms, activations, softmax, copies) is left out, and every operation is
taken to cost the same. A step is the policy's forward and backward and the reference's forward:

- a backward costs two forwards, and with checkpointing the text layers run forward once more;
- an output layer computed in chunks runs forward once more, and Liger's, which makes gradients at once, does not;
- the vision tower is frozen: it runs forward only.
"""

import math
from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True)
class Sizes:
    """Sizes of a Qwen2-VL."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocabulary: int
    vision_hidden: int
    vision_layers: int
    vision_heads: int
    tied: bool = True
    checkpointing: bool = True


SIZES = {
    # Qwen2-VL-2B's text model, output layer and vision tower have 1.31, 0.233 and 0.665 billion weights; these have
    # 8.0, 1.43 and 4.8 million, and of a step with 256 image tokens each has the same share of operations.
    "small": Sizes(320, 5, 5, 1, 1408, 4480, 320, 2, 4),
    # For memory: nearly all of it is the output layer, of any vocabulary.
    "wide": Sizes(256, 4, 4, 2, 1024, 151936, 128, 4, 4, checkpointing=False),
    "2b": Sizes(1536, 28, 12, 2, 8960, 151936, 1280, 32, 16),
    "7b": Sizes(3584, 28, 28, 4, 18944, 152064, 1280, 32, 16, tied=False),
}

# How often an image is encoded in a step: for every row of both models, once a pair and model, once a pair, never.
ENCODINGS = {"row": 4, "model": 2, "once": 1, "cached": 0}


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
    return {} if find_spec("liger_kernel") else {"liger": "liger-kernel is not installed"}


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


def describe(pairs: tuple[Pair, ...]) -> str:
    """Return the sizes of the pairs as text."""
    each = [f"{p.prompt} ({p.image_tokens} of an image) + {p.chosen} | {p.rejected}" for p in pairs]
    return f"{len(pairs)} pair{'s' if len(pairs) > 1 else ''}: " + "; ".join(each)


# LlamaFactory pads rows to multiples of this.
PADDED_TO = 8
PATCH_VALUES = 3 * 2 * 14 * 14
PATCHES = 4  # a token of an image


def operations(
    sizes: Sizes, pairs: tuple[Pair, ...], variant: Variant, chunked: bool = False, padded_to: int = PADDED_TO
) -> float:
    """Count the operations of one step; `chunked` is whether the output layer works in chunks."""
    tokens, seen = _text(pairs, variant.shares_prompts, padded_to)
    scored = sum(pair.chosen + pair.rejected for pair in pairs) if variant.scores_answers else tokens
    text = linear(sizes) * tokens + 4 * sizes.layers * sizes.hidden * seen
    head = 2 * sizes.hidden * sizes.vocabulary * scored
    policy = (4 if sizes.checkpointing else 3) * text + (4 if chunked else 3) * head
    reference = text + head if variant.runs_reference else 0
    return policy + reference + ENCODINGS[variant.images] * sum(encoding(sizes, pair.image_tokens) for pair in pairs)


def linear(sizes: Sizes) -> int:
    """Count what the linear layers of the text model cost a token."""
    head_size = sizes.hidden // sizes.heads
    attention = 2 * sizes.hidden**2 + 2 * sizes.hidden * sizes.kv_heads * head_size
    return 2 * sizes.layers * (attention + 3 * sizes.hidden * sizes.mlp)


def encoding(sizes: Sizes, tokens: int) -> int:
    """Count what the vision tower costs an image of so many tokens; all its patches see each other."""
    width, patches = sizes.vision_hidden, PATCHES * tokens
    blocks = sizes.vision_layers * (12 * width**2 * 2 + 4 * width * patches)
    merger = (PATCHES * width) ** 2 + PATCHES * width * sizes.hidden
    return patches * (2 * PATCH_VALUES * width + blocks) + 2 * tokens * merger


def _text(pairs: tuple[Pair, ...], shares_prompts: bool, padded_to: int) -> tuple[int, float]:
    """Count tokens that run through the text model, and pairs of a query and a key that it may look at."""
    if shares_prompts:
        seen = [
            _causal(pair.prompt + pair.chosen) + _causal(pair.rejected) + pair.prompt * pair.rejected for pair in pairs
        ]
        return sum(pair.prompt + pair.chosen + pair.rejected for pair in pairs), sum(seen)
    longest = max(pair.prompt + max(pair.chosen, pair.rejected) for pair in pairs)
    length = -(-longest // padded_to) * padded_to
    return 2 * len(pairs) * length, 2 * len(pairs) * _causal(length)


def _causal(length: int) -> float:
    return length * (length + 1) / 2
