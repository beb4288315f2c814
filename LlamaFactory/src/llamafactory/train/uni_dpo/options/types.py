"""Messages for option values that LlamaFactory's parser stumbles over.

Values of a YAML arrive in upstream's option classes as they are, so that a text in place of a number ends in whatever
the first use of it raises. What upstream takes stays taken: only what fails is looked at.
"""

import argparse
import functools
from collections.abc import Callable, Iterable
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ....hparams import parser
from ..errors import UniDPOError, reason_of
from ..upstream.underneath import OUR_LOSSES


def explain_failures() -> None:
    """Let runs with `pref_loss: uni_dpo` be refused in words; calling it twice changes nothing."""
    if not hasattr(parser._parse_args, "__wrapped__"):
        parser._parse_args = _explaining(parser._parse_args)


def _explaining(parse_args: Callable) -> Callable:
    @functools.wraps(parse_args)
    def parsed(hf_parser: Any, args: Any = None, **kwargs: Any) -> tuple:
        args = parser.read_args(args)
        _add_negations(hf_parser)
        if not isinstance(args, dict) or args.get("pref_loss") not in OUR_LOSSES:
            return _remembering(parse_args(hf_parser, args, **kwargs))
        try:
            parsed_args = _remembering(parse_args(hf_parser, args, **kwargs))
        except UniDPOError:
            raise
        except Exception as error:
            suspects = suspicious(hf_parser.dataclass_types, args)
            look = f" Look at {', '.join(suspects)}." if suspects else ""
            raise UniDPOError(f"LlamaFactory does not take these options ({reason_of(error)}).{look}") from error
        _require_seed(args.get("seed", 0))
        return parsed_args

    return parsed


def _remembering(parsed: tuple) -> tuple:
    """Let our options know whether the user named a checkpoint: upstream names the newest one where none is given."""
    named = any(getattr(group, "resume_from_checkpoint", None) for group in parsed)
    for group in parsed:
        if getattr(group, "uses_our_trainer", False):
            group.names_checkpoint = named
    return parsed


def _add_negations(hf_parser: argparse.ArgumentParser) -> None:
    """Add `--no_NAME` for our switches; transformers adds it to those that are on by default, and we have none."""
    names = [name for cls in hf_parser.dataclass_types for name in getattr(cls, "SWITCHES", ())]
    for name in names:
        options = [f"--no_{name}", f"--no-{name.replace('_', '-')}"]
        if not set(options) & hf_parser._option_string_actions.keys():
            # The default is that of NAME itself.
            hf_parser.add_argument(*options, dest=name, action="store_false", default=argparse.SUPPRESS)


def _require_seed(seed: Any) -> None:
    """Refuse what Python, NumPy and torch do not all take: upstream sets it right after parsing."""
    if not (isinstance(seed, int) and 0 <= seed < 2**32):
        raise UniDPOError(f"`seed` is {_short(seed)}, but has to be a whole number from 0 to {2**32 - 1}.")


def suspicious(classes: Iterable[type], options: dict[str, Any]) -> list[str]:
    """Name the options whose values are of another type than their class says, with the values."""
    hints = {}
    for cls in classes:
        known = get_type_hints(cls)
        hints |= {option.name: known[option.name] for option in fields(cls) if option.init}
    return [f"`{name}: {_short(value)}`" for name, value in options.items() if not _fits(value, hints.get(name, Any))]


def require_types(cls: type, args: Any) -> None:
    """Refuse options of ours that are of another type: "false" in quotes is a text, and so as good as true.

    Args:
        cls: the class that describes them.
        args: what has them as attributes.

    Raises:
        UniDPOError: one is.
    """
    hints = get_type_hints(cls)
    for name, hint in hints.items():
        value = getattr(args, name)
        if not _fits(value, hint) or (isinstance(value, str) and "\0" in value):
            what = getattr(hint, "__name__", str(hint)).replace("typing.", "")
            raise UniDPOError(f"`{name}` is {_short(value)}, but has to be {what}.")


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a value may be of a type; of types that YAML has not, anything may."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return not isinstance(hint, type) or hint not in (str, bool, list, dict, NoneType) or isinstance(value, hint)


def _short(value: Any, length: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= length else text[:length] + " ..."
