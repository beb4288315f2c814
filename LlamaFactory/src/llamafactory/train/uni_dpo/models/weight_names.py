"""Names of weights that every reader knows.

transformers 5.5.4 saves some models under names that nobody has but itself: of InternVL, Gemma 3 and LLaVA the names
of an older layout inside those of a newer one (`model.language_model.model.`), of Qwen3.5 the vision tower inside the
language model (`model.language_model.visual.`). It reads them again; transformers 4 takes random weights in their
place, and vLLM refuses them. The right names are shorter, so a file is changed at its head only, whatever its size.
"""

import json
import os
from pathlib import Path


ONLY_THERE = {
    "model.language_model.model.": "model.language_model.",
    "model.language_model.visual.": "model.visual.",
}
HEAD = ("language_model.lm_head.", "lm_head.")  # beside those of the first kind
INDEX = "model.safetensors.index.json"
LENGTH = 8  # bytes that say how long the description is with which a file begins


def mend_names(folder: str | os.PathLike) -> None:
    """Give the weights of a model that has just been saved the names that they have in transformers' model.

    Args:
        folder: where it is; nobody reads it yet. Names that are right stay, and so does an adapter.
    """
    if not misnamed(folder):
        return
    for file, head in _descriptions(folder).items():
        _describe(file, {_mended(name): what for name, what in head.items()})
    index = Path(folder) / INDEX
    if index.is_file():
        content = json.loads(index.read_text(encoding="utf-8"))
        content["weight_map"] = {_mended(name): file for name, file in content["weight_map"].items()}
        index.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def misnamed(folder: str | os.PathLike) -> bool:
    """Tell whether a model's weights have names that only transformers 5 reads."""
    return any(name.startswith(tuple(ONLY_THERE)) for name in names(folder))


def names(folder: str | os.PathLike) -> set[str]:
    """Return the names of a model's weights."""
    return {name for head in _descriptions(folder).values() for name in head}


def _mended(name: str) -> str:
    for wrong, right in (*ONLY_THERE.items(), HEAD):
        if name.startswith(wrong):
            return right + name.removeprefix(wrong)
    return name


def _descriptions(folder: str | os.PathLike) -> dict[Path, dict]:
    found = {}
    for file in sorted(Path(folder).glob("model*.safetensors")):
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(LENGTH), "little")
            found[file] = json.loads(stream.read(length))
    return found


def _describe(file: Path, description: dict) -> None:
    """Write the description of a file anew, filled up with spaces, as the format allows, to the old one's length."""
    text = json.dumps(description, separators=(",", ":"), ensure_ascii=False).encode()
    with file.open("r+b") as stream:
        length = int.from_bytes(stream.read(LENGTH), "little")
        stream.write(text.ljust(length))
