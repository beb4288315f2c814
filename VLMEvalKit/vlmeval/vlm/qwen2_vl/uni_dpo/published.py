"""The name `Qwen2VLChat` in a config, for checkpoints of our training.

VLMEvalKit's class of that name needs a GPU and FlashAttention, and shows the model nothing when its chat template is
the flat one of a base model. Configs name it all the same. So it makes our class of a folder that carries the record
of our training, and is what it was for everything else.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .history import training_record


PUBLISHED = "Qwen2VLChat"
# What it samples with where nothing is said: in effect the likeliest token.
ITS_SAMPLING = {"temperature": 0.01, "top_p": 0.001, "top_k": 1}


def of_published(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of `Qwen2VLChat` with its own defaults for sampling."""
    return {**(ITS_SAMPLING if options.get("do_sample") else {}), **options}


def carries_record(path: str) -> bool:
    """Tell whether a path leads to a folder on this machine with the record of our training."""
    folder = Path(os.path.expanduser(os.path.expandvars(path)))
    return folder.is_dir() and training_record(folder) is not None


def lead_to_ours(theirs: type, ours: type) -> None:
    """Have a class of VLMEvalKit make ours of checkpoints of our training, and itself of all others.

    The class stays the same object, what it makes are instances of it, and classes derived from it do not change.
    """

    def start(self: Any, model_path: str, *arguments: Any, **options: Any) -> None:
        if arguments:
            raise TypeError(f"{PUBLISHED} of a checkpoint of our training takes its options as NAME=VALUE")
        ours.__init__(self, model_path, **of_published(options))

    both = type(f"Trained{PUBLISHED}", (ours, theirs), {"__init__": start, "__module__": __name__})

    def make(cls: type, *arguments: Any, **options: Any) -> Any:
        path = options.get("model_path", arguments[0] if arguments else None)
        return object.__new__(both if cls is theirs and isinstance(path, str) and carries_record(path) else cls)

    make.__wrapped__ = theirs.__init__  # keeps the signature that is shown
    theirs.__new__ = make
