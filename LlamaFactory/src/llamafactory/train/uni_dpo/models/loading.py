"""Messages for checkpoints that do not load: which one, and what is wrong.

Upstream takes files of a checkpoint as they come, so that a damaged one ends in whatever a library raises over it, and
a `config.json` that asks for a billion layers in the end of the machine's memory.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import UniDPOError, in_context
from .portable import has_own_head
from .whole import under_zero3


ADVICE = "Is every file as it was saved? Copy or download it again."
DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth")
WIDTHS = ("vocab_size", "intermediate_size", "embed_dim", "num_attention_heads", "num_key_value_heads", "head_dim")


def explaining_tokenizer(load_tokenizer: Callable) -> Callable:
    """Wrap upstream's function that loads tokenizer and processor."""

    def loaded(model_args: Any) -> Any:
        check_folder(model_args.model_name_or_path)  # transformers 5 reads the config for a tokenizer, too
        with in_context(f"The tokenizer or image processor of `{model_args.model_name_or_path}`", ADVICE):
            return load_tokenizer(model_args)

    return loaded


def explaining_model(load_model: Callable) -> Callable:
    """Wrap upstream's function that loads the policy."""

    def loaded(tokenizer: Any, model_args: Any, *args: Any, **kwargs: Any) -> Any:
        with in_context(f"The model `{model_args.model_name_or_path}`", ADVICE + under_zero3()):
            return load_model(tokenizer, model_args, *args, **kwargs)

    return loaded


def explaining_reference(create_ref_model: Callable) -> Callable:
    """Wrap upstream's function that loads the reference."""

    def created(model_args: Any, finetuning_args: Any, *args: Any, **kwargs: Any) -> Any:
        path = finetuning_args.ref_model or model_args.model_name_or_path
        if finetuning_args.ref_model:
            check_folder(path)
        with in_context(f"The reference model `{path}`", ADVICE):
            return create_ref_model(model_args, finetuning_args, *args, **kwargs)

    return created


def check_folder(path: str) -> None:
    """Refuse a folder whose config and weights do not belong together, before anything of it is built.

    Names on a hub are not looked at.

    Raises:
        UniDPOError: the config asks for far more than the weights hold, or would have a part of them dropped.
    """
    folder = Path(path)
    files = sorted(folder.glob("*.safetensors"))
    if not files or not (folder / "config.json").is_file():
        return
    with in_context(f"The model `{path}`", ADVICE):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors, size = sum(map(_tensors, files)), sum(map(os.path.getsize, files))
        _refuse_oversized(folder, config, tensors, size)
        if any(part.get("tie_word_embeddings") is True for part in _parts(config)) and has_own_head(folder):
            raise UniDPOError(
                f"{folder} has an output layer (lm_head) of its own, but its config.json says `tie_word_embeddings: "
                "true`, by which it would be dropped: so are exports of LoRA that trains it. Write `false` there, at "
                "the top and in `text_config`."
            )


def _refuse_oversized(folder: Path, config: Any, tensors: int, size: int) -> None:
    """Refuse what cannot be in weights of so many tensors and bytes, whatever the architecture and quantisation.

    A layer has at least one tensor, and a matrix of the hidden size no more elements than two for each byte.
    """
    elements = 2 * size
    for part in _parts(config):
        hidden = part.get("hidden_size") if type(part.get("hidden_size")) is int else 1
        for name, value in part.items():
            too_deep = name in DEPTHS and type(value) is int and value > tensors
            too_wide = name in WIDTHS and type(value) is int and value * abs(hidden) > elements
            if too_deep or too_wide or (name == "hidden_size" and abs(hidden) > elements):
                raise UniDPOError(
                    f"{folder / 'config.json'} says {name}: {value}, for which the weights beside it are too small "
                    f"({tensors} tensors in {size} bytes). {ADVICE}"
                )


def _tensors(file: Path) -> int:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as weights:
        return len(list(weights.keys()))


def _parts(config: Any) -> Iterator[dict[str, Any]]:
    """Yield a config and those within it, such as `vision_config`."""
    if isinstance(config, dict):
        yield config
        for value in config.values():
            yield from _parts(value)
