"""What the options of `UniDPOQwen2VL` may be: a config is JSON, where a number may be a text by mistake."""

from collections.abc import Callable, Mapping
from typing import Any

import torch


Rule = tuple[Callable[[Any], bool], str]


class OptionError(ValueError):
    """An option of a config that cannot be used as it is; the message names it and says what it may be."""


def _whole(least: int) -> Rule:
    return lambda it: type(it) is int and least <= it < 2**31, f"a whole number, {least} or more"


def _between(most: float, words: str) -> Rule:
    return lambda it: type(it) in (int, float) and 0 < it <= most, words


def _one_of(*names: str) -> Rule:
    return lambda it: it in names, f"one of {', '.join(names)}"


def _is_device(it: Any) -> bool:
    try:
        return isinstance(it, str) and (it == "auto" or bool(torch.device(it)))
    except RuntimeError:
        return False


TEXT: Rule = (lambda it: isinstance(it, str), "a text")
SWITCH: Rule = (lambda it: isinstance(it, bool), "true or false")
POSITIVE = _between(1e9, "a number above 0")
SHARE = _between(1, "a number above 0 and not above 1")
RULES: dict[str, Rule] = {
    "model_path": (lambda it: isinstance(it, str) and it.isprintable() and it != "", "the path of a checkpoint"),
    "base_path": TEXT,
    "use_custom_prompt": SWITCH,
    "system_prompt": TEXT,
    "markup": TEXT,
    "min_pixels": _whole(1),
    "max_pixels": _whole(1),
    "fps": POSITIVE,
    "nframe": _whole(1),
    "max_new_tokens": _whole(1),
    "do_sample": SWITCH,
    "temperature": POSITIVE,
    "top_p": SHARE,
    "top_k": _whole(0),
    "repetition_penalty": POSITIVE,
    "device": (_is_device, 'a device of torch such as "cuda:1", or "auto"'),
    "dtype": _one_of("bfloat16", "float16", "float32"),
    "attention": _one_of("flash_attention_2", "sdpa", "eager"),
    "use_vllm": SWITCH,
    "tensor_parallel_size": _whole(1),
    "max_model_len": _whole(1),
    "gpu_memory_utilization": SHARE,
    "verbose": SWITCH,
}
# `null` in a config leaves these to us.
MAY_BE_NONE = {
    *("base_path", "system_prompt", "min_pixels", "max_pixels", "fps", "nframe", "device", "dtype", "attention"),
    *("tensor_parallel_size", "max_model_len"),
}


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that would fail later, or mean something else than they say.

    Raises:
        OptionError: There is one that is unknown, or has a value that it cannot have.
    """
    for name, value in options.items():
        if name not in RULES:
            raise OptionError(f"UniDPOQwen2VL has no option {name!r}; it has {', '.join(RULES)}")
        fits, words = RULES[name]
        if not (value is None and name in MAY_BE_NONE) and not fits(value):
            raise OptionError(f"option {name} of UniDPOQwen2VL is {value!r:.100}, and must be {words}")
    least, most = options.get("min_pixels"), options.get("max_pixels")
    if least and most and least > most:
        raise OptionError(f"option min_pixels of UniDPOQwen2VL is {least}, above max_pixels, which is {most}")
