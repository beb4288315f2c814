"""The options of `UniDPOVLM`: what each is, its default, and what it may be.

A config is JSON, where a number may be a text by mistake.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ....uni_dpo.errors import UniDPOError


LIKELIEST = 0.01  # at such a temperature, or of so small a share of tokens, the likeliest one is taken

Rule = tuple[Callable[[Any], bool], str]


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
PATH: Rule = (lambda it: isinstance(it, str) and it.isprintable() and it != "", "the path of a checkpoint")
SWITCH: Rule = (lambda it: isinstance(it, bool), "true or false")
POSITIVE = _between(1e9, "a number above 0")
NOT_NEGATIVE: Rule = (lambda it: type(it) in (int, float) and 0 <= it <= 1e9, "a number, 0 or more")
SHARE = _between(1, "a number above 0 and not above 1")

# Name: default and rule. What has None as its default may be null in a config, and is then left to us.
OPTIONS: dict[str, tuple[Any, Rule]] = {
    # A checkpoint folder, a LoRA output folder of LlamaFactory, or a name on the hub; variables as "$MODEL" are filled
    # in from the environment. For a LoRA folder `base_path` is the full model, if it has moved since training.
    "model_path": (..., PATH),
    "base_path": (None, TEXT),
    # Questions worded as the model's authors do, where VLMEvalKit has that, or by the data set itself; the system
    # prompt (null: that of training, "": none, with role markup); the markup around both: "auto", "template", "roles"
    # or "flat", see `prompt.py`.
    "use_custom_prompt": (True, SWITCH),
    "system_prompt": (None, TEXT),
    "markup": ("auto", TEXT),
    # Images are scaled up or down to these (null: the checkpoint's limits). Training's limit is `image_max_pixels`.
    "min_pixels": (None, _whole(1)),
    "max_pixels": (None, _whole(1)),
    # Frames to take from each second of a video (null: of qwen_vl_utils' choice), or from all of it.
    "fps": (2.0, (lambda it: it is None or POSITIVE[0](it), POSITIVE[1])),
    "nframe": (None, _whole(1)),
    # The longest answer, in tokens; how tokens are chosen (top_k 0: from all; repetition_penalty 1: none); whether to
    # keep no more of an answer than is in its last LaTeX box, if it has one.
    "max_new_tokens": (2048, _whole(1)),
    "do_sample": (False, SWITCH),
    "temperature": (1.0, NOT_NEGATIVE),
    "top_p": (1.0, SHARE),
    "top_k": (0, _whole(0)),
    "repetition_penalty": (1.0, POSITIVE),
    "post_process": (False, SWITCH),
    # Whether answers keep what the model thought first, up to "</think>"; data sets score what comes after it.
    "keep_thoughts": (False, SWITCH),
    # "auto" spreads one model over several GPUs; null takes what is there, and what is fastest on it.
    "device": (None, (_is_device, 'a device of torch such as "cuda:1", or "auto"')),
    "dtype": (None, _one_of("bfloat16", "float16", "float32")),
    "attention": (None, _one_of("flash_attention_2", "sdpa", "eager")),
    # vLLM instead of transformers: GPUs to split the model over (null: as many as fit), prompt and answer together in
    # tokens (null: the model's limit), share of each GPU's memory to use.
    "use_vllm": (False, SWITCH),
    "tensor_parallel_size": (None, _whole(1)),
    "max_model_len": (None, _whole(1)),
    "gpu_memory_utilization": (0.9, SHARE),
    # Print prompts and answers.
    "verbose": (False, SWITCH),
}
SAMPLING = ("temperature", "top_p", "top_k")

# Options of VLMEvalKit's Qwen2VLChat that are called otherwise here, and those that are not here: the value that asks
# for nothing, and what to do about another one.
RENAMED = {"gpu_utils": "gpu_memory_utilization"}
NOT_HERE = {
    "use_lmdeploy": (False, 'leave it out, or write "use_vllm": true'),
    "use_audio_in_video": (False, "leave it out: these models do not hear"),
    "total_pixels": (None, 'leave it out, and limit each image and frame with "max_pixels"'),
}


def chosen_options(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options with their values, those that go by their names in `Qwen2VLChat` included.

    Raises:
        UniDPOError: One is unknown, comes under two names, cannot be what it is, or would mean something else than it
            says.
    """
    chosen: dict[str, Any] = {}
    for given, value in asked.items():
        name = RENAMED.get(given, given)
        if given in NOT_HERE:
            nothing, advice = NOT_HERE[given]
            if value not in (nothing, None):
                raise UniDPOError(f"UniDPOVLM does not do {given}: {value!r:.100}; {advice}")
            continue
        if name in chosen:
            raise UniDPOError(f"UniDPOVLM has {name} under two names; leave {given} out")
        if name not in OPTIONS:
            raise UniDPOError(f"UniDPOVLM has no option {name!r}; it has {', '.join(OPTIONS)}")
        default, (fits, words) = OPTIONS[name]
        if not (value is None and default is None) and not fits(value):
            raise UniDPOError(f"option {name} of UniDPOVLM is {value!r:.100}, and must be {words}")
        chosen[name] = value
    chosen = {name: default for name, (default, _) in OPTIONS.items()} | chosen
    least, most = chosen["min_pixels"], chosen["max_pixels"]
    if least and most and least > most:
        raise UniDPOError(f"option min_pixels of UniDPOVLM is {least}, above max_pixels, which is {most}")
    greedy = chosen["temperature"] <= LIKELIEST or chosen["top_p"] <= LIKELIEST or chosen["top_k"] == 1
    unused = [name for name in SAMPLING if chosen[name] != OPTIONS[name][0]]
    if unused and not chosen["do_sample"] and not greedy:
        raise UniDPOError(
            f"option {unused[0]} of UniDPOVLM is for sampling\n"
            '  add "do_sample": true, or leave it out to have the likeliest token taken'
        )
    return chosen
