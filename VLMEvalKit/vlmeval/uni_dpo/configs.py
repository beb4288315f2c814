"""What to evaluate: the models and data sets of a config file, or of the command line, or of both."""

import argparse
import os
from pathlib import Path
from typing import Any

from .errors import UniDPOError
from .files import read_json


CLASS = "UniDPOVLM"
CLASSES = (CLASS, "UniDPOQwen2VL", "Qwen2VLChat")  # its first name, and VLMEvalKit's for checkpoints of our training


def read_config(path: str | None) -> dict[str, Any]:
    """Read a config file; without a path, return an empty one.

    Raises:
        UniDPOError: It is missing or not a config.
    """
    if path is None:
        return {}
    config = read_json(Path(path), "--config takes a file as VLMEvalKit's run.py does")
    if not {"model", "data"} <= set(config):
        raise UniDPOError(f'{path} needs the keys "model" and "data", as for VLMEvalKit\'s run.py')
    for part in ("model", "data"):
        listed = config[part]
        if not isinstance(listed, dict) or not all(isinstance(entry, dict) for entry in listed.values()):
            raise UniDPOError(f'{path}: "{part}" must be an object of objects, {{NAME: {{OPTION: VALUE, ...}}, ...}}')
        for name in listed:
            if not is_file_name(name):
                raise UniDPOError(f'{path}: "{part}" has the name {name!r}, which no file can have in its own')
    if not isinstance(config.get("judge"), str | None):
        raise UniDPOError(f'{path}: "judge" is {config["judge"]!r}, and must be the name of a model')
    for name, options in config["model"].items():
        if options.get("class") not in CLASSES:
            raise UniDPOError(
                f'{path}: model {name} must have "class": "{CLASS}"; others go through VLMEvalKit\'s run.py'
            )
    return config


def is_file_name(name: str) -> bool:
    """Tell whether a model's or a data set's name can be part of the names of its files."""
    return 0 < len(name) <= 100 and name.isprintable() and "/" not in name and name not in (".", "..")


def chosen_models(options: argparse.Namespace, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the models to evaluate: name to its class, if it has one, and the arguments of it.

    Raises:
        UniDPOError: There is none, or two of one name.
    """
    listed = config.get("model", {})
    lent = next(iter(listed.values()), {})
    models: dict[str, dict[str, Any]] = {}
    for wish in options.model or listed:
        name, path = _named(wish)
        if wish in listed:
            name, arguments = wish, listed[wish]
        elif os.path.isdir(path) or "=" in wish or "/" in path:
            arguments = lent | {"model_path": path}
        else:
            known = f"; the config has {', '.join(listed)}" if listed else ""
            raise UniDPOError(f"--model {wish}: no such folder, and no such name in a config{known}")
        if not is_file_name(name):
            raise UniDPOError(f"--model {wish}: {name!r} cannot be the name of a folder\n  write NAME={path}")
        if name in models:
            raise UniDPOError(f"--model: two models would be called {name}\n  write NAME={path} for one of them")
        models[name] = arguments | ({"use_vllm": True} if options.use_vllm else {})
    if not models:
        raise UniDPOError("say what to evaluate: --model PATH, or --config FILE")
    return models


def _named(wish: str) -> tuple[str, str]:
    """Split NAME=PATH; without a name, make one of the last folder, or the last two for a `checkpoint-100`."""
    name, equals, path = wish.partition("=")
    if equals:
        return name, path
    parts = Path(os.path.abspath(wish)).parts
    return ("_".join(parts[-2:]) if parts[-1].startswith("checkpoint") else parts[-1]), wish


def chosen_data(options: argparse.Namespace, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the data sets: name to its entry in the config, empty for those that are only named.

    Raises:
        UniDPOError: There is none.
    """
    listed = config.get("data", {})
    names = options.data or list(listed)
    if not names:
        raise UniDPOError("say what to evaluate on: --data NAME ..., or --config FILE")
    return {name: listed.get(name, {}) for name in names}
