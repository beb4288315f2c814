"""Kinds of models and their sizes: those of real ones, and small ones that spend their operations as the real do."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model.

    Attributes:
        head: numbers of an attention head; 0: the width by the number of heads.
        vision_mlp: inner width of the tower's MLP; 0: four times the tower's.
        delta: heads of keys and of values, and numbers of each, of layers that carry a state: three of four; empty
            where all layers attend.
        deep: layers of the tower whose output goes to the text model too.
        kind: a key of `KINDS`.
    """

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
    head: int = 0
    vision_mlp: int = 0
    delta: tuple[int, ...] = ()
    deep: int = 0
    kind: str = "qwen2_vl"

    @property
    def head_size(self) -> int:
        """Numbers of an attention head."""
        return self.head or self.hidden // self.heads

    @property
    def attending(self) -> int:
        """Layers of the text model that attend."""
        return self.layers // 4 if self.delta else self.layers


def _qwen_merger(sizes: Sizes) -> int:
    width = 4 * sizes.vision_hidden
    return (1 + sizes.deep) * (width**2 + width * sizes.hidden)


def _glm_merger(sizes: Sizes) -> int:
    hidden = sizes.hidden
    return 4 * sizes.vision_hidden * hidden + hidden**2 + 3 * hidden * sizes.mlp


@dataclass(frozen=True)
class Kind:
    """What sizes alone do not tell of a kind of models.

    Attributes:
        template: LlamaFactory's, whose plugin makes batches.
        merger: products of an image token after the tower's layers.
        patch: pixels along the side of a patch.
        patches: of an image token.
        frames: how often an image is repeated in a patch.
        tokens: of an image along its side, where all images have the same number; 0: each has its own.
        gated: whether the tower's MLP has a third matrix.
        shares: whether the engine knows a shared prompt; else the model's own forward runs.
        trains_tower: whether LlamaFactory trains a part of a frozen tower, so that gradients go through all of it, and
            the reference sees images otherwise than the policy.
    """

    template: str
    merger: Callable[[Sizes], int]
    patch: int = 14
    patches: int = 4
    frames: int = 1
    tokens: int = 0
    gated: bool = False
    shares: bool = True
    trains_tower: bool = False


KINDS = {
    "qwen2_vl": Kind("qwen2_vl", _qwen_merger, frames=2),
    "qwen3_vl": Kind("qwen3_vl_nothink", _qwen_merger, patch=16, frames=2),
    "qwen3_5": Kind("qwen3_5_nothink", _qwen_merger, patch=16, frames=2),
    "internvl": Kind("intern_vl", lambda it: 4 * it.vision_hidden * it.hidden + it.hidden**2, tokens=16),
    "glm4v": Kind("glm4v", _glm_merger, frames=2, gated=True, trains_tower=True),
    "gemma3": Kind("gemma3", lambda it: it.vision_hidden * it.hidden, patches=16, tokens=16, shares=False),
    "llava": Kind("llava", lambda it: it.vision_hidden * it.hidden + it.hidden**2, patches=1, tokens=24, shares=False),
}

# By kind, then by name; "small" is for a CPU and for as many image tokens as the default shapes have, where each part
# of the small model has the same share of operations as of the first one after it.
SIZES = {
    "qwen2_vl": {
        "small": Sizes(320, 5, 5, 1, 1408, 4480, 320, 2, 4),
        "2b": Sizes(1536, 28, 12, 2, 8960, 151936, 1280, 32, 16),
        "7b": Sizes(3584, 28, 28, 4, 18944, 152064, 1280, 32, 16, tied=False),
    },
    "qwen3_vl": {
        "small": Sizes(320, 5, 8, 2, 1216, 2528, 80, 2, 4, head=40, deep=1, kind="qwen3_vl"),
        "4b": Sizes(2560, 36, 32, 8, 9728, 151936, 1024, 24, 16, head=128, deep=3, kind="qwen3_vl"),
    },
    "qwen3_5": {
        "small": Sizes(
            *(320, 4, 5, 1, 960, 2648, 80, 1, 4, False),
            **{"head": 64, "vision_mlp": 304, "delta": (5, 10, 32), "kind": "qwen3_5"},
        ),
        "9b": Sizes(
            *(4096, 32, 16, 4, 12288, 248320, 1152, 27, 16, False),
            **{"head": 256, "vision_mlp": 4304, "delta": (16, 32, 128), "kind": "qwen3_5"},
        ),
    },
    "internvl": {
        "small": Sizes(320, 5, 5, 1, 1696, 2600, 80, 2, 4, False, kind="internvl"),
        "8b": Sizes(3584, 28, 28, 4, 18944, 151674, 1024, 24, 16, False, kind="internvl"),
    },
    "glm4v": {
        "small": Sizes(320, 5, 8, 1, 1072, 1640, 80, 1, 4, False, vision_mlp=320, kind="glm4v"),
        "9b": Sizes(4096, 40, 32, 2, 13696, 151552, 1536, 24, 12, False, vision_mlp=4096, kind="glm4v"),
    },
    "gemma3": {
        "small": Sizes(320, 6, 4, 2, 1280, 6072, 176, 1, 4, head=64, vision_mlp=656, kind="gemma3"),
        "4b": Sizes(2560, 34, 8, 4, 10240, 262208, 1152, 27, 16, head=256, vision_mlp=4304, kind="gemma3"),
    },
    "llava": {
        "small": Sizes(320, 8, 5, 5, 864, 1200, 96, 2, 4, False, kind="llava"),
        "7b": Sizes(4096, 32, 32, 32, 11008, 32064, 1024, 24, 16, False, kind="llava"),
    },
}
# For memory: nearly all of it is the output layer, of any vocabulary.
WIDE = Sizes(256, 4, 4, 2, 1024, 151936, 128, 4, 4, checkpointing=False)
