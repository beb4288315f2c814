"""How large the pairs of a measurement are."""

import math
from dataclasses import dataclass


# Rows and columns of image tokens in the prompts of the default shapes.
IMAGES = {300: (16, 16), 1100: (25, 40)}
# Text around the image of any other prompt, at least.
TEXT_TOKENS = 20


@dataclass(frozen=True)
class Pair:
    """Lengths in tokens of one preference pair whose prompt has one image.

    Attributes:
        prompt: the prompt, image tokens and the markers around them included.
        image: rows and columns of image tokens; a token is made of 2 x 2 patches.
        chosen: the chosen answer.
        rejected: the rejected answer.
    """

    prompt: int
    image: tuple[int, int]
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
    """Read a shape.

    Args:
        shape: `mixed`, or `PROMPT/ANSWER` for one pair with two answers of the same length.

    Raises:
        ValueError: it is neither, or the prompt is too short for an image.
    """
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
