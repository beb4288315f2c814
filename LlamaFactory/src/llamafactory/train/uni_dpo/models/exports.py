"""`llamafactory-cli export` of what our runs trained: merged as it was trained, with its prompt and its record.

Upstream exports the tokenizer and the chat template of the base, which lacks our record, and leaves
`tie_word_embeddings: true` beside an output layer that was trained by itself; transformers 5.5 names the weights of
some models as no other program does (`weight_names.py`). All other exports stay upstream's own.
"""

import functools
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .history import RECORD, check_chain, training_record
from .weight_names import mend_names


TUNER = "llamafactory.train.tuner"
CHAT_TEMPLATE = "chat_template.jinja"


def mend_exports() -> None:
    """Have upstream's exports load through us; calling it twice changes nothing.

    Upstream's module uses these two names for nothing but exports. It is being imported right now, unless somebody
    asked for `train.dpo` alone.
    """
    tuner = sys.modules.get(TUNER) or importlib.import_module(TUNER)
    if not hasattr(tuner.load_model, "__wrapped__"):
        tuner.load_tokenizer = _with_chat_template(tuner.load_tokenizer)
        tuner.load_model = _with_record(tuner.load_model)


def _record_of(model_args: Any) -> dict[str, Any] | None:
    """Return the record of the adapter to be merged, if it is ours.

    Raises:
        UniDPOError: it was trained on top of other adapters than are given.
    """
    adapters = model_args.adapter_name_or_path or []
    if not adapters or training_record(adapters[-1]) is None:
        return None
    check_chain("adapter_name_or_path", adapters)
    return training_record(adapters[-1])


def _with_chat_template(load_tokenizer: Callable) -> Callable:
    @functools.wraps(load_tokenizer)
    def loaded(model_args: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        parts = load_tokenizer(model_args, *args, **kwargs)
        if _record_of(model_args):
            saved = Path(model_args.adapter_name_or_path[-1]) / CHAT_TEMPLATE
            if saved.is_file():
                for part in filter(None, parts.values()):
                    part.chat_template = saved.read_text(encoding="utf-8")
        return parts

    return loaded


def _with_record(load_model: Callable) -> Callable:
    @functools.wraps(load_model)
    def loaded(tokenizer: Any, model_args: Any, *args: Any, **kwargs: Any) -> Any:
        model = load_model(tokenizer, model_args, *args, **kwargs)
        if record := _record_of(model_args):
            setattr(model.config, RECORD, {name: value for name, value in record.items() if name != "adapters"})
            head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
            if head is not None and head.weight.data_ptr() != embeddings.weight.data_ptr():
                for part in (model.config, model.config.get_text_config()):
                    part.tie_word_embeddings = False
            model.save_pretrained = _with_names(model.save_pretrained)
        return model

    return loaded


def _with_names(save_pretrained: Callable) -> Callable:
    @functools.wraps(save_pretrained)
    def saved(save_directory: str, *args: Any, **kwargs: Any) -> None:
        save_pretrained(save_directory, *args, **kwargs)
        mend_names(save_directory)

    return saved
