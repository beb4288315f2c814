"""Checkpoints that do not load, told as: which one, what is wrong.

Upstream takes files of a checkpoint as they come, so that a damaged one ends in whatever a library raises over it, and
a `config.json` that asks for a billion layers in the end of the machine's memory.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from .errors import UniDPOError
from .rows import blaming


ADVICE = "Is every file as it was saved? Copy or download it again."
DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth")
WIDTHS = ("vocab_size", "intermediate_size", "embed_dim", "num_attention_heads", "num_key_value_heads", "head_dim")


def explaining_tokenizer(load_tokenizer: Callable) -> Callable:
    """Wrap upstream's function that loads tokenizer and processor."""

    def loaded(model_args: Any) -> Any:
        with blaming(f"The tokenizer or image processor of `{model_args.model_name_or_path}`", ADVICE):
            return load_tokenizer(model_args)

    return loaded


def explaining_model(load_model: Callable) -> Callable:
    """Wrap upstream's function that loads the policy."""

    def loaded(tokenizer: Any, model_args: Any, *args: Any, **kwargs: Any) -> Any:
        refuse_oversized(model_args.model_name_or_path)
        refuse_dropped_head(model_args.model_name_or_path)
        with blaming(f"The model `{model_args.model_name_or_path}`", ADVICE):
            return load_model(tokenizer, model_args, *args, **kwargs)

    return loaded


def explaining_reference(create_ref_model: Callable) -> Callable:
    """Wrap upstream's function that loads the reference."""

    def created(model_args: Any, finetuning_args: Any, *args: Any, **kwargs: Any) -> Any:
        path = finetuning_args.ref_model or model_args.model_name_or_path
        refuse_oversized(path)
        refuse_dropped_head(path)
        with blaming(f"The reference model `{path}`", ADVICE):
            return create_ref_model(model_args, finetuning_args, *args, **kwargs)

    return created


def refuse_oversized(path: str) -> None:
    """Refuse a folder whose config asks for far more than its weight files hold, before anything of it is built.

    Bounds that hold for every architecture and quantisation: a layer has at least one tensor, and a matrix of the
    hidden size has no more elements than two for each byte of the files. Names on a hub are not looked at.

    Raises:
        UniDPOError: it does.
    """
    folder = Path(path)
    files = sorted(folder.glob("*.safetensors"))
    if not files or not (folder / "config.json").is_file():
        return
    with blaming(f"The model `{path}`", ADVICE):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors, elements = sum(map(_tensors, files)), 2 * sum(map(os.path.getsize, files))
    for part in _parts(config):
        hidden = part.get("hidden_size") if type(part.get("hidden_size")) is int else 1
        for name, value in part.items():
            too_deep = name in DEPTHS and type(value) is int and value > tensors
            too_wide = name in WIDTHS and type(value) is int and value * abs(hidden) > elements
            if too_deep or too_wide or (name == "hidden_size" and abs(hidden) > elements):
                raise UniDPOError(
                    f"{folder / 'config.json'} says {name}: {value}, for which the weights beside it are too small "
                    f"({tensors} tensors in {elements // 2} bytes). {ADVICE}"
                )


def refuse_dropped_head(path: str) -> None:
    """Refuse a folder whose output layer was trained by itself, though its config ties it to the embeddings.

    So are exports of LoRA with `additional_target: embed_tokens,lm_head`. transformers 4 and vLLM drop the layer.

    Raises:
        UniDPOError: it is one.
    """
    folder = Path(path)
    files = sorted(folder.glob("*.safetensors"))
    if not files or not (folder / "config.json").is_file():
        return
    with blaming(f"The model `{path}`", ADVICE):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not any(part.get("tie_word_embeddings") is True for part in _parts(config)) or not _has_own_head(files):
            return
    raise UniDPOError(
        f"{folder} has an output layer (lm_head) of its own, but its config.json says `tie_word_embeddings: true`, by "
        "which it would be dropped: so are exports of LoRA that trains it. Write `false` there, at the top and in "
        "`text_config`."
    )


def _has_own_head(files: list[Path], rows_at_once: int = 4096) -> bool:
    """Tell whether files hold an output layer that differs from the embeddings beside it."""
    from safetensors import safe_open

    with ExitStack() as stack:
        opened = [stack.enter_context(safe_open(file, framework="pt")) for file in files]
        names = {name: file for file in opened for name in file.keys()}  # noqa: SIM118
        ends = ("lm_head.weight", "embed_tokens.weight")
        found = [next((names[name].get_slice(name) for name in names if name.endswith(end)), None) for end in ends]
        if None in found:
            return False
        rows = range(0, found[0].get_shape()[0], rows_at_once)
        return any(not torch.equal(*(matrix[i : i + rows_at_once] for matrix in found)) for i in rows)


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
