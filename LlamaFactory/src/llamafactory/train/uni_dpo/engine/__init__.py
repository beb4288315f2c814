"""The fast engine: log-probs of preference pairs, exact, at a half to a third of the usual cost.

A pair's two answers share an image and a prompt, and only the answers' tokens are scored. So the image is encoded
once, the prompt runs through the language model once, and the output layer is applied where a token is scored:

- `layout.py`: two padded rows a pair, as LlamaFactory collates them, become `[prompt | chosen | rejected]`;
- `attention.py`: attention in which the rejected answer sees the prompt but not the chosen answer;
- `logps.py`: log-probs of given tokens from hidden states, without the logits of a whole batch in memory;
- `model.py`: a transformers model that takes a layout and returns log-probs, through its own `forward`;
- `families/`: what is known of each family of models, so that the rest knows no name;
- `own_forward.py`: log-probs of responses for every other model, through a forward that we do not know;
- `choice.py`: which of this a model allows, and why not more.

It knows torch and transformers, and nothing of LlamaFactory.
"""

from .attention import has_varlen
from .choice import ROUTES, Choice, choose, misses_attention, plain_model
from .families import placeholder_ids, tower_of
from .layout import PairLayout, join, lay_out
from .model import PairLogps, attach, encode_images, image_width, pair_logps, same_vision_tower


__all__ = [
    "ROUTES",
    "Choice",
    "PairLayout",
    "PairLogps",
    "attach",
    "choose",
    "encode_images",
    "has_varlen",
    "image_width",
    "join",
    "lay_out",
    "misses_attention",
    "pair_logps",
    "placeholder_ids",
    "plain_model",
    "same_vision_tower",
    "tower_of",
]
