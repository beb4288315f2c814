"""What the engine knows of each family of models; whatever is not here trains by `own_forward.py`.

To add one: a line in `FAMILIES`, a module beside this one if `Family` does not fit as it is, and a tiny model in
`tests/support/engine_models.py`, which the tests of parity then compare with the model's own forward.
"""

from torch import nn

from .family import Family, decoder_of, encode, placeholder_ids, tower_of, tower_weights
from .gated_delta import GatedDelta
from .qwen3_vl import Qwen3VL


_PLAIN, _DEEP, _DELTA = Family(), Qwen3VL(), GatedDelta()

# By `model_type`.
VISION_FAMILIES = {
    "qwen2_vl": _PLAIN,
    "qwen2_5_vl": _PLAIN,
    "qwen3_vl": _DEEP,
    "qwen3_vl_moe": _DEEP,
    "qwen3_5": _DELTA,
    "qwen3_5_moe": _DELTA,
    "glm4v": _PLAIN,
    "glm4v_moe": _PLAIN,
    "internvl": _PLAIN,
}
TEXT_FAMILIES = {
    "gemma": _PLAIN,
    "llama": _PLAIN,
    "mistral": _PLAIN,
    "qwen2": _PLAIN,
    "qwen3": _PLAIN,
    "qwen3_moe": _PLAIN,
    "qwen3_next": _DELTA,
    "qwen3_5_text": _DELTA,
    "qwen3_5_moe_text": _DELTA,
}
FAMILIES = VISION_FAMILIES | TEXT_FAMILIES
# Tokens of one image see each other in these, which transformers' mask for FlashAttention leaves out without a word.
LOOK_AHEAD = ("gemma3", "gemma4")


def family_of(model: nn.Module) -> Family | None:
    """Find a transformers model's family; None for one that the engine does not know."""
    family = FAMILIES.get(getattr(model.config, "model_type", ""))
    head = getattr(model, "lm_head", None)
    return family if head is not None and model.get_output_embeddings() is head else None


__all__ = [
    "FAMILIES",
    "LOOK_AHEAD",
    "TEXT_FAMILIES",
    "VISION_FAMILIES",
    "Family",
    "decoder_of",
    "encode",
    "family_of",
    "placeholder_ids",
    "tower_of",
    "tower_weights",
]
