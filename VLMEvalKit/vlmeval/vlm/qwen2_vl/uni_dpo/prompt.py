"""Prompts: the one place that writes them, for both backends.

There are two kinds of chat template. Instruct models write roles (`<|im_start|>user ... <|im_end|>`). The base
Qwen2-VL-2B ships a flat one that loops over content items and renders a message with a role to nothing. LlamaFactory
trains with a `template` of its own, which is role markup, whatever template the checkpoint carries. So the prompt of
training decides where it is known (`history.py`), and what the chat template makes of a question otherwise; of both
one line tells, and of a guess a loud one.
"""

import copy
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....uni_dpo.errors import UniDPOError, in_context
from .families import SYSTEM_TURN, USER_START, Family
from .history import QUESTION, Training


MARKUPS = ("auto", "template", "roles", "flat")
# Qwen published its Qwen2-VL and Qwen2.5-VL with versions below these of transformers in their `config.json`.
PUBLISHED_BEFORE = (4, 52)

Content = list[dict[str, str]]


class PromptWriter:
    """Writes the text of a prompt around a question's content.

    Args:
        tokenizer: The checkpoint's tokenizer.
        family: What kind of model it is.
        template: Its chat template (Jinja), or None if it has none.
        training: What is known of the checkpoint's training; None if it was only downloaded.
        markup: "template" uses the checkpoint's template with roles, "roles" the prompt of training (where it is not
            known, LlamaFactory's default for the family), "flat" renders bare content items; "auto" decides.
        system_prompt: None for the default one; "" for none at all.

    Attributes:
        markup: The markup in use, decided.
        reason: Why, in a few words.

    Raises:
        UniDPOError: The markup is unknown, or the template cannot render it.
    """

    def __init__(
        self,
        tokenizer: Any,
        family: Family,
        template: str | None,
        training: Training | None,
        markup: str,
        system_prompt: str | None,
    ):
        """Decide the markup."""
        if markup not in MARKUPS:
            raise UniDPOError(f"markup {markup!r} is not one of {', '.join(MARKUPS)}")
        self.tokenizer = tokenizer
        self.family = family
        self.template = template
        self.system_prompt = system_prompt
        self.roles = (training and training.prompt) or family.roles
        self.markup, self.reason = (markup, "asked for") if markup != "auto" else self._detect(training)
        if self.markup in ("template", "flat") and template is None:
            raise UniDPOError(f'markup "{self.markup}" needs a chat template and the checkpoint has none; try "roles"')
        if self.markup == "roles" and self.roles is None:
            raise UniDPOError(
                "nothing says how this checkpoint was prompted: it has neither a record of its training nor a chat "
                "template that writes roles\n  put the chat template of its start model into its folder"
            )

    def with_system(self, system_prompt: str) -> "PromptWriter":
        """Return a writer of the same prompts with another system prompt."""
        other = copy.copy(self)
        other.system_prompt = system_prompt
        return other

    def _detect(self, training: Training | None) -> tuple[str, str]:
        """Choose by what training says, then by trying: what a template makes of a question says more than its looks.

        Returns:
            The markup, and the reason for it.
        """
        content = [*({"type": kind} for kind in list(self.family.pictures)[:1]), {"type": "text", "text": QUESTION}]
        by_roles = self._rendered([self._user(content)])
        if training and training.recorded:
            known = f"the prompt that training recorded in {training.trace}"
            same = by_roles == self._by_roles(content)
            return ("template", f"its chat template writes {known}") if same else ("roles", f"it is {known}")
        if QUESTION in by_roles:
            return "template", "its chat template writes roles"
        if training and training.prompt:
            return "roles", f"{training.trace} has this prompt"
        if training:
            return "roles", f"{training.trace} shows a training; taken to be with LlamaFactory's default template"
        if QUESTION not in self._rendered([{"type": "text", "text": QUESTION}]):
            return "roles", "it has no chat template that renders a question"
        return "flat", "its chat template writes no roles, and nothing shows a training"

    def _rendered(self, conversation: list) -> str:
        try:
            return self._apply(conversation) if self.template else ""
        except UniDPOError:
            return ""

    def _apply(self, conversation: list) -> str:
        with in_context("the checkpoint's chat template fails"):  # a template is a program
            return self.tokenizer.apply_chat_template(
                conversation, chat_template=self.template, tokenize=False, add_generation_prompt=True
            )

    def write(self, content: Content) -> str:
        """Return the whole prompt, up to where the answer begins, with one placeholder for each image and video.

        Args:
            content: Items in order: {"type": "text", "text": ...}, {"type": "image"} or {"type": "video"}.

        Raises:
            UniDPOError: The prompt does not have one placeholder for each image and video.
        """
        for kind in {item["type"] for item in content} - {"text", *self.family.pictures}:
            shown = " and ".join(f"{name}s" for name in self.family.pictures) or "words"
            raise UniDPOError(f"models of this kind are not shown {kind}s, only {shown}")
        text = {"template": self._by_template, "roles": self._by_roles, "flat": self._apply}[self.markup](content)
        for kind, placeholder in self.family.pictures.items():
            wanted, found = sum(item["type"] == kind for item in content), text.count(placeholder)
            if wanted != found:
                raise UniDPOError(
                    f'the prompt has {found} {placeholder} for {wanted} {kind}s (markup "{self.markup}"): the model'
                    f" would not see them right. Choose another markup, or remove the token from the question.\n{text}"
                )
        return text

    def _by_template(self, content: Content) -> str:
        system = [] if self.system_prompt is None else [{"role": "system", "content": self.system_prompt}]
        return self._apply([*system, self._user(content)])

    def _user(self, content: Content) -> dict[str, Any]:
        """Return a question as chat templates take it: of models that see nothing they take no list."""
        words = "".join(item.get("text", "") for item in content)
        return {"role": "user", "content": content if self.family.pictures else words}

    def _by_roles(self, content: Content) -> str:
        before, after = self.family.around
        pictures = {kind: f"{before}{token}{after}" for kind, token in self.family.pictures.items()}
        question = "".join(item.get("text") or pictures.get(item["type"], "") for item in content)
        prompt = self.roles
        if self.system_prompt is not None:
            start, user, rest = prompt.partition(USER_START)
            if not user:
                raise UniDPOError(f"system_prompt has no place in the prompt of training, {prompt!r}; remove it")
            system = SYSTEM_TURN.format(system=self.system_prompt) if self.system_prompt else ""
            prompt = start.partition(SYSTEM_TURN.partition("{")[0])[0] + system + user + rest
        before, _, after = prompt.rpartition(QUESTION)
        return before + question + after


def announce(writer: PromptWriter, folder: Path, config: Mapping[str, Any]) -> None:
    """Say once which prompts a checkpoint gets and why; loudly where that is a guess."""
    if os.environ.get("RANK", "0") != "0":
        return
    print(f"{folder.name}: markup {writer.markup}: {writer.reason}", file=sys.stderr, flush=True)
    version = str(config.get("transformers_version"))
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if writer.markup == "flat" and numbers and (int(numbers[1]), int(numbers[2])) >= PUBLISHED_BEFORE:
        print(
            f"WARNING: {folder} was saved by transformers {version}, later than Qwen published any such model. If it "
            'was trained, flat prompts are wrong and cost most of its accuracy: set "markup": "roles".',
            file=sys.stderr,
            flush=True,
        )
