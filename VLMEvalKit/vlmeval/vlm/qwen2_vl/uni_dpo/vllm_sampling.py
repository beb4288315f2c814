"""How vLLM is to choose tokens, so that it chooses as transformers does.

transformers obeys all of a checkpoint's `generation_config.json`. Of it vLLM reads where answers end; what else
changes an answer is said to it here, or refused.
"""

from pathlib import Path
from typing import Any

from ....uni_dpo.errors import UniDPOError
from ....uni_dpo.files import read_json


FILE = "generation_config.json"
NEVER = -100.0  # the lowest bias that vLLM takes
# What changes answers in transformers, by the value that changes nothing, and has no counterpart here.
NOT_IN_VLLM = {
    **dict.fromkeys(("num_beams", "num_beam_groups", "encoder_repetition_penalty", "guidance_scale"), 1),
    **dict.fromkeys(("typical_p", "length_penalty"), 1),
    **dict.fromkeys(("min_length", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"), 0),
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff", "min_p", "penalty_alpha", "diversity_penalty"), 0),
    **dict.fromkeys(("min_new_tokens", "bad_words_ids", "force_words_ids", "sequence_bias"), None),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id", "begin_suppress_tokens"), None),
    **dict.fromkeys(("exponential_decay_length_penalty", "stop_strings", "top_h", "watermarking_config"), None),
}


def sampling_parameters(generation: dict[str, Any], folder: Path, **more: Any) -> Any:
    """Translate transformers' options; greedy is temperature 0.

    Args:
        generation: Options named as for transformers' `generate`.
        folder: The checkpoint, which may have more of them.
        **more: Options that only vLLM has, by its names.

    Raises:
        UniDPOError: It has one that vLLM would not obey.
    """
    from vllm import SamplingParams

    greedy = {} if generation["do_sample"] else {"temperature": 0.0, "top_p": 1.0, "top_k": 0}
    asked = {name: value for name, value in (generation | greedy).items() if name != "do_sample"}
    bans = {token: NEVER for token in banned_tokens(folder)} or None
    return SamplingParams(
        max_tokens=asked.pop("max_new_tokens"), skip_special_tokens=True, logit_bias=bans, **asked, **more
    )


def banned_tokens(folder: Path) -> list[int]:
    """Return the tokens that a checkpoint never writes.

    Raises:
        UniDPOError: It asks for something else that vLLM would not do.
    """
    file = folder / FILE
    known = read_json(file) if file.is_file() else {}
    for name, nothing in NOT_IN_VLLM.items():
        if known.get(name) not in (None, nothing):
            raise UniDPOError(
                f"use_vllm: {file} has {name} {known[name]!r:.60}, which transformers obeys and vLLM does not\n"
                "  take it out of that file, or leave use_vllm out"
            )
    return list(known.get("suppress_tokens") or [])
