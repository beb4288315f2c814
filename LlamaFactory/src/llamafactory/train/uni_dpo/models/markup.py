"""The prompt that a run trains, as a text and as a chat template, for whoever asks the checkpoint afterwards.

LlamaFactory writes prompts by its own `template`, and leaves the chat template of the start model in what it saves.
The base Qwen2-VL-2B has one that renders a message with a role to nothing, so every tool would ask the trained model
in a way that it never saw.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ....extras import logging


# Stands for the question, its pictures included, in a prompt.
QUESTION = "{question}"

logger = logging.get_logger(__name__)

Turn = tuple[str, str]


@dataclass(frozen=True)
class Turns:
    """What a template of LlamaFactory writes before and after the text of each role, and before everything."""

    start: str
    system: Turn
    user: Turn  # with what begins an answer
    assistant: Turn
    default_system: str
    thought: str  # an empty one, where answers are trained to come after it
    system_in_user: bool  # whether the system prompt stands in the turn of the user

    @property
    def prompt(self) -> str:
        """The prompt of a single question, up to where the answer begins."""
        system = self.system[0] + self.default_system + self.system[1] if self.default_system else ""
        before, after = self.user
        opening = before + system if self.system_in_user else system + before
        return self.start + opening + QUESTION + after + self.thought


def turns_of(template: Any, tokenizer: Any) -> Turns | None:
    """Read what a template of LlamaFactory writes; None if it is of a kind that nobody has looked at."""
    kind = type(template).__name__
    if kind not in ("Template", "ReasoningTemplate", "Llama2Template"):
        return None
    thought = template.add_thought() if kind == "ReasoningTemplate" and not template.enable_thinking else ""

    def text(slots: Sequence[Any]) -> str:
        special = {"bos_token": tokenizer.bos_token or "", "eos_token": tokenizer.eos_token or ""}
        parts = [
            slot if isinstance(slot, str) else slot["token"] if isinstance(slot, dict) else None for slot in slots
        ]
        return "".join(
            special[next(iter(slot))] if part is None else part for slot, part in zip(slots, parts, strict=True)
        )

    roles = [template.format_system, template.format_user, template.format_assistant]
    found = [text(role.apply(content=QUESTION, idx="0")).split(QUESTION) for role in roles]
    if any(len(around) != 2 for around in found):
        return None
    start, system = text(template.format_prefix.apply()), template.default_system or ""
    return Turns(start, *map(tuple, found), system, thought, system_in_user=kind == "Llama2Template")


def keep_markup(tokenizer: Any, processor: Any, template: Any) -> str | None:
    """See to it that what is saved has a chat template that writes the prompts of this run.

    One that renders messages with roles stays, so that instruct models keep their tools and all else it can do.

    Args:
        tokenizer: the one that will be saved.
        processor: the one of a vision-language model, or None.
        template: LlamaFactory's.

    Returns:
        The prompt with `QUESTION` in it; None if it depends on more than the question.
    """
    turns = turns_of(template, tokenizer)
    if turns is None:
        return None
    present = getattr(processor, "chat_template", None) or tokenizer.chat_template
    rendered = _rendered(tokenizer, present, QUESTION if processor is None else [{"type": "text", "text": QUESTION}])
    if QUESTION in rendered:
        if rendered != turns.prompt:
            logger.warning_rank0(
                "The chat template of the start model writes another prompt than LlamaFactory's `template`. What is "
                "saved keeps it; our evaluation asks as this run trains, other tools by the chat template."
            )
        return turns.prompt
    pictures = _pictures(template.mm_plugin)
    if (processor is None or pictures) and not turns.system_in_user:
        logger.info_rank0(
            "What is saved gets a chat template that writes the prompts of this run; the base's does not."
        )
        tokenizer.chat_template = chat_template(turns, pictures)
        if processor is not None:
            processor.chat_template = tokenizer.chat_template
    return turns.prompt


def _rendered(tokenizer: Any, chat_template: str | None, content: Any) -> str:
    try:
        return tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=chat_template,
            tokenize=False,
            add_generation_prompt=True,
        )
    except Exception:  # there is none, or it refuses this message; it is a program, and may do so in any way
        return ""


def _pictures(plugin: Any) -> dict[str, str]:
    """Return what stands for an image and a video, where it is known: in the Qwen-VL families."""
    if type(plugin).__name__ not in ("Qwen2VLPlugin", "Qwen3VLPlugin"):
        return {}
    tokens = {"image": plugin.image_token, "video": plugin.video_token}
    return {kind: f"{plugin.vision_bos_token}{token}{plugin.vision_eos_token}" for kind, token in tokens.items()}


def chat_template(turns: Turns, pictures: dict[str, str]) -> str:
    """Write a chat template (Jinja) for messages whose content is a text or a list of items.

    A question opens the answer to it, as in training, whether or not the caller asks for that.
    """

    def literal(text: str) -> str:
        return "{{ " + json.dumps(text, ensure_ascii=False) + " }}" if text else ""

    def by_role(side: int) -> str:
        around = {"system": turns.system[side], "user": turns.user[side], "assistant": turns.assistant[side]}
        choices = [f"if message['role'] == '{role}' %}}{literal(text)}" for role, text in around.items()]
        return "{% " + "{% el".join(choices) + "{% endif %}"

    items = [
        f"if item['type'] == '{kind}' or '{kind}' in item or '{kind}_url' in item %}}{literal(text)}"
        for kind, text in pictures.items()
    ]
    items = "{% " + "{% el".join([*items, "if 'text' in item %}{{ item['text'] }}"]) + "{% endif %}"
    default = literal(turns.system[0] + turns.default_system + turns.system[1]) if turns.default_system else ""
    return "".join(
        [
            literal(turns.start),
            "{% if messages[0]['role'] != 'system' %}" + default + "{% endif %}" if default else "",
            "{% for message in messages %}",
            "{% if message['role'] not in ['system', 'user', 'assistant'] %}",
            "{{ raise_exception('this chat template knows the roles system, user and assistant') }}{% endif %}",
            "{% if message['content'] or message['role'] != 'system' %}",
            by_role(0),
            "{% if message['content'] is string %}{{ message['content'] }}{% else %}",
            "{% for item in message['content'] %}" + items + "{% endfor %}{% endif %}",
            by_role(1),
            "{% endif %}{% endfor %}",
            "{% if messages[-1]['role'] == 'user' %}" + literal(turns.thought) + "{% endif %}"
            if turns.thought
            else "",
        ]
    )
