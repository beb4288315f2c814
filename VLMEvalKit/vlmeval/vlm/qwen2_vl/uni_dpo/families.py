"""The kinds of models that can be evaluated: how pictures stand in a prompt, and what of a picture reaches the model.

To add one, add a line to `FAMILIES`, and a tiny model of it to the table in `tests/test_eval_families.py`, which
compares its prompts with those of training token by token.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ....uni_dpo.errors import UniDPOError
from .history import QUESTION


DEFAULT_SYSTEM = "You are a helpful assistant."  # of LlamaFactory's `template: qwen2_vl`, and of the instruct models
SYSTEM_TURN = "<|im_start|>system\n{system}<|im_end|>\n"
USER_START = f"<|im_start|>user\n{QUESTION}"
USER_TURN = f"{USER_START}<|im_end|>\n<|im_start|>assistant\n"
END_OF_THOUGHTS = "</think>"


@dataclass(frozen=True)
class Family:
    """What evaluation has to know of a kind of models.

    Attributes:
        image: What stands for an image in a prompt, and the processor expands; None if the model sees no pictures.
        video: Likewise for a video; None if videos are not evaluated.
        around: What training writes before and after it.
        roles: The prompt that LlamaFactory trains by default, for a checkpoint that has not recorded its own; None if
            such a checkpoint has to have a chat template.
        wording: Returns the class of VLMEvalKit that words questions as the model's authors do; None to have every
            data set word its own.
        limited: Whether the processor keeps an image between limits of its size. Others make squares of all images,
            which are brought between the limits beforehand, as in training.
        stretches: Whether training stretches images that are small or very thin.
        apart: Whether the processor takes questions without images only apart from those with some.
        recorded: Options of the image processor that training may have set, and recorded.
        timed: Whether a prompt says when each frame of a video was shown.
        end_of_thoughts: What a model writes between its thoughts and its answer.
        looks_ahead: Whether tokens of one image may see each other, which FlashAttention-2 leaves out.
        not_in_vllm: Why vLLM is not asked: it answers otherwise than transformers, or nobody knows.
    """

    image: str | None
    video: str | None = None
    around: tuple[str, str] = ("", "")
    roles: str | None = None
    wording: Callable[[], type] | None = None
    limited: bool = False
    stretches: bool = False
    apart: bool = False
    recorded: tuple[str, ...] = ()
    timed: bool = False
    end_of_thoughts: str = END_OF_THOUGHTS
    looks_ahead: bool = False
    not_in_vllm: str = ""

    @property
    def pictures(self) -> dict[str, str]:
        """What stands for a picture in a prompt, by its kind."""
        known = {"image": self.image, "video": self.video}
        return {kind: placeholder for kind, placeholder in known.items() if placeholder}

    def wording_for(self, asked: bool) -> Any:
        """Return VLMEvalKit's object that words questions, if that is asked for.

        Raises:
            UniDPOError: This VLMEvalKit does not have it.
        """
        if not (asked and self.wording):
            return None
        try:
            return self.wording()(use_custom_prompt=True)
        except ImportError as error:
            raise UniDPOError(
                f"this VLMEvalKit cannot word questions for such a model ({error})\n"
                '  install a newer one, or have data sets word them: "use_custom_prompt": false'
            ) from error


def _wording_of_qwen2_vl() -> type:
    from ..prompt import Qwen2VLPromptMixin

    return Qwen2VLPromptMixin


def _wording_of_qwen3_vl() -> type:
    from ...qwen3_vl.prompt import Qwen3VLPromptMixin  # VLMEvalKit has it since the autumn of 2025

    return Qwen3VLPromptMixin


_QWEN = {
    "image": "<|image_pad|>",
    "video": "<|video_pad|>",
    "around": ("<|vision_start|>", "<|vision_end|>"),
    "limited": True,
    "stretches": True,
}
QWEN2_VL = Family(
    **_QWEN,
    roles=SYSTEM_TURN.format(system=DEFAULT_SYSTEM) + USER_TURN,
    wording=_wording_of_qwen2_vl,
)
QWEN3_VL = Family(**_QWEN, roles=USER_TURN, wording=_wording_of_qwen3_vl, timed=True)
GLM4V = Family("<|image|>", around=("<|begin_of_image|>", "<|end_of_image|>"), stretches=True)
LLAVA = Family("<image>")
_UNTRIED = {"not_in_vllm": "nobody tried it with models of this kind"}
WORDS = Family(None, **_UNTRIED)

FAMILIES: dict[str, Family] = {
    "qwen2_vl": QWEN2_VL,
    "qwen2_5_vl": QWEN2_VL,
    "qwen3_vl": QWEN3_VL,
    "qwen3_vl_moe": replace(QWEN3_VL, **_UNTRIED),
    "qwen3_5": QWEN3_VL,
    "qwen3_5_moe": replace(QWEN3_VL, **_UNTRIED),
    "glm4v": GLM4V,
    "glm4v_moe": replace(GLM4V, **_UNTRIED),
    "internvl": Family("<IMG_CONTEXT>", recorded=("crop_to_patches",)),
    "gemma3": Family(
        "<start_of_image>",
        apart=True,
        recorded=("do_pan_and_scan",),
        looks_ahead=True,
        not_in_vllm="the tokens of a Gemma 3's image see each other, which vLLM leaves out on a CPU and nobody tried "
        "on a GPU",
    ),
    "gemma4": Family("<|image|>", apart=True, end_of_thoughts="<channel|>", looks_ahead=True, **_UNTRIED),
    "llava": LLAVA,
    "llava_next": replace(LLAVA, **_UNTRIED),
    **dict.fromkeys(("llama", "qwen2", "qwen3"), WORDS),
}


def family_of(config: Mapping[str, Any]) -> Family | None:
    """Return the family of the model that a `config.json` describes; None for one that nobody has added."""
    return FAMILIES.get(str(config.get("model_type")))
