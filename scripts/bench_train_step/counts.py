"""How many operations a step takes, which bounds what can be gained.

Counted are multiplications and additions of matrix products: those of the linear layers, those of attention where a
query may look at a key, and those of layers that carry a state. Everything else (norms, activations, softmax, copies,
and what images of Gemma see ahead of them) is left out, and every operation is taken to cost the same. A step is the
policy's forward and backward and the reference's forward:

- a backward costs two forwards, and with checkpointing the text layers run forward once more;
- an output layer computed in chunks runs forward once more, and Liger's, which makes gradients at once, does not;
- a frozen vision tower runs forward only; where a part of it trains, gradients go back through all its layers.
"""

from .sizes import KINDS, Sizes
from .variants import Pair, Variant


# LlamaFactory pads rows to multiples of this.
PADDED_TO = 8
DELTA_CHUNK = 64  # tokens that a layer with a state computes at once


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
    text = linear(sizes) * tokens + 4 * sizes.attending * sizes.heads * sizes.head_size * seen
    head = 2 * sizes.hidden * sizes.vocabulary * scored
    policy = (4 if sizes.checkpointing else 3) * text + (4 if chunked else 3) * head
    reference = text + head if variant.runs_reference else 0
    return policy + reference + sum(_media(sizes, variant, pair.image_tokens) for pair in pairs)


def linear(sizes: Sizes) -> int:
    """Count what the text model costs a token whatever it may look at."""
    heads, key_heads, hidden = sizes.heads * sizes.head_size, sizes.kv_heads * sizes.head_size, sizes.hidden
    attention = 2 * hidden * (heads + key_heads) + (hidden * heads if sizes.delta else 0)  # beside states, a gate
    products = sizes.attending * attention + sizes.layers * 3 * hidden * sizes.mlp
    return 2 * (products + (sizes.layers - sizes.attending) * (_delta(sizes) if sizes.delta else 0))


def encoding(sizes: Sizes, tokens: int) -> int:
    """Count what the vision tower costs an image of so many tokens; all its patches see each other."""
    return sum(_tower(sizes, tokens))


def _delta(sizes: Sizes) -> int:
    """Count products a token of a layer with a state: its matrices, its convolution, and the rule, chunk by chunk."""
    key_heads, heads, size = sizes.delta
    keys, values = key_heads * size, heads * size
    matrices = sizes.hidden * (2 * keys + 3 * values + 2 * heads)
    return matrices + 4 * (2 * keys + values) + heads * (3 * size**2 + 5 * DELTA_CHUNK * size)


def _tower(sizes: Sizes, tokens: int) -> tuple[int, int]:
    """Count operations of the tower's matrices and of its attention."""
    kind, width = KINDS[sizes.kind], sizes.vision_hidden
    patches, layers = kind.patches * tokens, sizes.vision_layers
    mlp = (3 if kind.gated else 2) * width * (sizes.vision_mlp or 4 * width)
    values = 3 * kind.frames * kind.patch**2
    matrices = 2 * patches * (values * width + layers * (4 * width**2 + mlp)) + 2 * tokens * kind.merger(sizes)
    return matrices, layers * 4 * width * patches**2


def _media(sizes: Sizes, variant: Variant, tokens: int) -> int:
    """Count what an image costs in a step."""
    matrices, attention = _tower(sizes, tokens)
    policy, reference = variant.encodings
    if not KINDS[sizes.kind].trains_tower:
        return (policy + reference) * (matrices + attention)
    if variant.images == "once":  # the reference encodes for itself
        reference = int(variant.runs_reference)
    trained = 2 * tokens * 4 * sizes.vision_hidden * sizes.hidden  # what makes tokens of patches
    back = matrices + 2 * attention + trained
    return (policy + reference) * (matrices + attention) + policy * back


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
