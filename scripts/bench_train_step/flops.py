"""Operations of a preference step, and so how much faster a variant can be at most.

Counted are multiplications and additions of matrix products: those of the linear layers, and those of attention where
a query may look at a key. Everything else (norms, activations, softmax, copies) is left out, and every operation is
taken to cost the same. A step is the policy's forward and backward and the reference's forward:

- a backward costs two forwards, and with checkpointing the text layers run forward once more;
- an output layer computed in chunks runs forward once more, and Liger's, which makes gradients at once, does not;
- the vision tower is frozen: it runs forward only.
"""

from .models import Sizes
from .shapes import Pair
from .variants import Variant


# LlamaFactory pads rows to multiples of this.
PADDED_TO = 8
PATCH_VALUES = 3 * 2 * 14 * 14
PATCHES = 4  # a token of an image


def operations(
    sizes: Sizes, pairs: tuple[Pair, ...], variant: Variant, chunked: bool = False, padded_to: int = PADDED_TO
) -> float:
    """Count the operations of one step.

    Args:
        sizes: of both models.
        pairs: the batch.
        variant: what is computed how often.
        chunked: whether the output layer works in chunks.
        padded_to: rows of two sequences a pair are padded to a multiple of it.
    """
    tokens, seen = _text(pairs, variant.shares_prompts, padded_to)
    scored = sum(pair.chosen + pair.rejected for pair in pairs) if variant.scores_answers else tokens
    text = linear(sizes) * tokens + 4 * sizes.layers * sizes.hidden * seen
    head = 2 * sizes.hidden * sizes.vocabulary * scored
    policy = (4 if sizes.checkpointing else 3) * text + (4 if chunked else 3) * head
    reference = text + head if variant.runs_reference else 0
    return policy + reference + variant.encodings * sum(encoding(sizes, pair.image_tokens) for pair in pairs)


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
