"""Models and adapters that load whole or not at all, whichever transformers wrote them.

transformers fills weights that a checkpoint lacks with random numbers, drops those that the model has no place for,
and only warns of both. Which ones may lack or be dropped (tied ones, buffers of old versions) it knows by its own
lists; beyond these our runs end.
"""

import copy
import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import transformers
from peft import PeftModel
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from ..errors import UniDPOError
from .portable import readable, written_by


KINDS = {
    "missing_keys": "lacks weights that the model has",
    "unexpected_keys": "has weights that the model has no place for",
    "mismatched_keys": "has weights of other shapes than the model's",
}
# Seen with transformers 5.5.4: there it applies to the whole model what is meant for its language model alone, and
# leaves the weights of experts as an older version stored them, and buffers as they were made.
UNDER_ZERO3 = (
    " Or it is of a kind that transformers loads wrongly under ZeRO-3, as Qwen3.5, the experts of Qwen3-VL, GLM-4.5V "
    "and Gemma 4: train it with ZeRO-2 or FSDP."
)


@contextmanager
def whole_models() -> Iterator[None]:
    """Check every model and adapter that is loaded until this is left.

    Raises:
        UniDPOError: weights are missing, left over or of another shape; raised by what loads.
    """
    models, adapters = PreTrainedModel.from_pretrained.__func__, PeftModel.load_adapter
    try:
        PreTrainedModel.from_pretrained = classmethod(_checked_model(models))
        PeftModel.load_adapter = _checked_adapter(adapters)
        yield
    finally:
        PreTrainedModel.from_pretrained, PeftModel.load_adapter = classmethod(models), adapters


def reading_either(load: Callable) -> Callable:
    """Wrap an upstream function of `model_args` that loads a config or a tokenizer, to read what either saved."""

    @functools.wraps(load)
    def loaded(model_args: Any, *args: Any, **kwargs: Any) -> Any:
        path = model_args.model_name_or_path
        found = readable(path)
        if found == str(path):
            return load(model_args, *args, **kwargs)
        seen = copy.copy(model_args)
        seen.model_name_or_path = found
        return _renamed(load(seen, *args, **kwargs), path)

    return loaded


def _checked_model(original: Callable) -> Callable:
    @functools.wraps(original)
    def from_pretrained(cls: type, path: Any, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        found = path if path is None else readable(path)
        model, report = original(cls, found, *args, output_loading_info=True, **kwargs)
        _refuse_parts(f"The model `{path}`", path, {name: report.get(name) or () for name in KINDS})
        _renamed(model, path)
        return (model, report) if output_loading_info else model

    return from_pretrained


def _checked_adapter(original: Callable) -> Callable:
    @functools.wraps(original)
    def load_adapter(model: PeftModel, path: Any, *args: Any, **kwargs: Any) -> Any:
        report = original(model, path, *args, **kwargs)
        _refuse_parts(f"The adapter `{path}`", path, {name: getattr(report, name, ()) for name in list(KINDS)[:2]})
        return report

    return load_adapter


def _refuse_parts(what: str, path: Any, found: dict[str, Iterable[Any]]) -> None:
    """Refuse a checkpoint that fills a model only in part, or another model.

    Raises:
        UniDPOError: it names the kind, three weights and the versions that wrote and read it.
    """
    for kind, names in found.items():
        if not names:
            continue
        names = sorted(name if isinstance(name, str) else name[0] for name in names)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        writer = written_by(path)
        raise UniDPOError(
            f"{what} {KINDS[kind]}: {', '.join(names[:3])}{more}. transformers would only warn and train something "
            f"else. {f'transformers {writer} wrote it, {transformers.__version__} reads it. ' if writer else ''}"
            "Is it a whole checkpoint, with the config.json that belongs to it? If another version wrote it, load "
            "and save it with that version once more, or train with that version." + under_zero3()
        )


def under_zero3() -> str:
    """Say what else may be wrong with a model that does not load, in a run under ZeRO-3."""
    return UNDER_ZERO3 if is_deepspeed_zero3_enabled() else ""


def _renamed(loaded: Any, path: Any) -> Any:
    """Let what was loaded bear the name that was asked for, as LoRA and the model card write it down."""
    parts = loaded.values() if isinstance(loaded, dict) else (loaded, getattr(loaded, "config", None))
    for part in parts:
        for name in ("name_or_path", "_name_or_path"):
            if isinstance(getattr(part, name, None), str):
                setattr(part, name, str(path))
    return loaded
