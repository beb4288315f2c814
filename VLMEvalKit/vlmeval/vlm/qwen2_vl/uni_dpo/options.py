"""What the options of `UniDPOQwen2VL` may be: a config is JSON, where a number may be a text by mistake."""

from collections.abc import Callable, Mapping
from typing import Any

import torch


LIKELIEST = 0.01  # at such a temperature, or of so small a share of tokens, the likeliest one is taken

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
NOT_NEGATIVE: Rule = (lambda it: type(it) in (int, float) and 0 <= it <= 1e9, "a number, 0 or more")
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
    "temperature": NOT_NEGATIVE,
    "top_p": SHARE,
    "top_k": _whole(0),
    "repetition_penalty": POSITIVE,
    "device": (_is_device, 'a device of torch such as "cuda:1", or "auto"'),
    "dtype": _one_of("bfloat16", "float16", "float32"),
    "attention": _one_of("flash_attention_2", "sdpa", "eager"),
    "post_process": SWITCH,
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


# Options of VLMEvalKit's Qwen2VLChat that are called otherwise here, and those that are not here: the value that asks
# for nothing, and what to do about another one.
RENAMED = {"gpu_utils": "gpu_memory_utilization"}
NOT_HERE = {
    "use_lmdeploy": (False, 'leave it out, or write "use_vllm": true'),
    "use_audio_in_video": (False, "leave it out: Qwen2-VL does not hear"),
    "total_pixels": (None, 'leave it out, and limit each image and frame with "max_pixels"'),
}


def translated(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of either class as options of `UniDPOQwen2VL`.

    Raises:
        OptionError: One asks for what this class does not do, or comes under two names.
    """
    known: dict[str, Any] = {}
    for name, value in options.items():
        if name in NOT_HERE:
            nothing, advice = NOT_HERE[name]
            if value not in (nothing, None):
                raise OptionError(f"UniDPOQwen2VL does not do {name}: {value!r:.100}; {advice}")
        elif RENAMED.get(name, name) in known:
            raise OptionError(f"UniDPOQwen2VL has {RENAMED.get(name, name)} under two names; leave {name} out")
        else:
            known[RENAMED.get(name, name)] = value
    return known


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
    if not options.get("do_sample"):
        _require_no_sampling(options)


def _require_no_sampling(options: Mapping[str, Any]) -> None:
    """Refuse options of sampling without sampling, unless they come to taking the likeliest token anyway.

    Raises:
        OptionError: There are some.
    """
    default = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    asked = {name: value for name, value in options.items() if name in default and value != default[name]}
    greedy = asked.get("temperature", 1) <= LIKELIEST or asked.get("top_p", 1) <= LIKELIEST or asked.get("top_k") == 1
    if asked and not greedy:
        raise OptionError(
            f"option {next(iter(asked))} of UniDPOQwen2VL is for sampling\n"
            '  add "do_sample": true, or leave it out to have the likeliest token taken'
        )
