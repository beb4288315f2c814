"""The weight files of a checkpoint, looked at without loading them: are they whole, and of the model in `config.json`?

A config that asks for a billion layers would have transformers build them, and end with the machine's memory.
"""

import re
from pathlib import Path
from typing import Any

from safetensors import safe_open


LAYER = re.compile(r"(?:^|\.)(layers|blocks)\.(\d+)\.")


def weight_shapes(folder: Path) -> dict[str, list[int]]:
    """Return the shape of every weight of a folder's safetensors, by name.

    Raises:
        Exception: Whatever safetensors raises over a file that is not whole.
    """
    shapes = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            shapes |= {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    return shapes


def misfit(config: dict[str, Any], shapes: dict[str, list[int]]) -> str | None:
    """Say in what the sizes that a config states differ from those of the weights; None if they agree.

    Looks at depths, width and vocabulary: from these follow how much is built. What else is wrong, loading tells.
    """
    counted = {kind: 0 for kind in ("layers", "blocks")}
    for name in shapes:
        if found := LAYER.search(name):
            counted[found[1]] = max(counted[found[1]], int(found[2]) + 1)
    text, vision = config.get("text_config") or config, config.get("vision_config") or {}
    embedding = next((shape for name, shape in shapes.items() if name.endswith("embed_tokens.weight")), [None, None])
    there = {
        "num_hidden_layers": (text.get("num_hidden_layers"), counted["layers"]),
        "vision_config.depth": (vision.get("depth"), counted["blocks"]),
        "vocab_size": (text.get("vocab_size"), embedding[0]),
        "hidden_size": (text.get("hidden_size"), embedding[-1]),
    }
    wrong = [f"{name} is {stated!r:.40} and not {found}" for name, (stated, found) in there.items() if stated != found]
    return ", ".join(wrong) or None
