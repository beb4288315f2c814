"""Prompts as the checkpoint was trained on them: the one place that writes them, for both backends.

There are two kinds of chat template among Qwen2-VL checkpoints. Instruct models write roles
(`<|im_start|>user ... <|im_end|>`). The base Qwen2-VL-2B ships a flat one that loops over content items and renders a
message with a role to nothing. LlamaFactory trains with `template: qwen2_vl`, which is role markup, and leaves the
template of the base in the checkpoint; so a trained checkpoint with a flat template still has to be asked with roles.
"""

from typing import Any


MARKUPS = ("auto", "template", "roles", "flat")
PLACEHOLDERS = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
DEFAULT_SYSTEM = "You are a helpful assistant."  # what LlamaFactory's template and the instruct models' say

Content = list[dict[str, str]]


class PromptError(ValueError):
    """A prompt that would not ask what it should; the message says what is missing."""


class PromptWriter:
    """Writes the text of a prompt around a question's content.

    Args:
        tokenizer: The checkpoint's tokenizer.
        template: Its chat template (Jinja), or None if it has none.
        trained: Whether the checkpoint was trained by LlamaFactory.
        markup: "template" uses the checkpoint's template with roles, "roles" writes what LlamaFactory's
            `template: qwen2_vl` trains, "flat" renders bare content items; "auto" decides.
        system_prompt: None for the default one; "" for none at all.

    Attributes:
        markup: The markup in use, decided.

    Raises:
        PromptError: The markup is unknown, or the template cannot render it.
    """

    def __init__(self, tokenizer: Any, template: str | None, trained: bool, markup: str, system_prompt: str | None):
        """Decide the markup."""
        if markup not in MARKUPS:
            raise PromptError(f"markup {markup!r} is not one of {', '.join(MARKUPS)}")
        self.tokenizer = tokenizer
        self.template = template
        self.system_prompt = system_prompt
        self.markup = self._detect(trained) if markup == "auto" else markup
        if self.markup in ("template", "flat") and template is None:
            raise PromptError(f'markup "{self.markup}" needs a chat template and the checkpoint has none; try "roles"')

    def _detect(self, trained: bool) -> str:
        """Choose by trying: what a template makes of a question says more than what it looks like."""
        if self.template and self._renders([{"role": "user", "content": [{"type": "text", "text": "question"}]}]):
            return "template"
        if trained or not self.template or not self._renders([{"type": "text", "text": "question"}]):
            return "roles"
        return "flat"

    def _renders(self, conversation: list) -> bool:
        """Tell whether the template lets the word "question" through."""
        try:
            return "question" in self._apply(conversation)
        except PromptError:
            return False

    def _apply(self, conversation: list) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                conversation, chat_template=self.template, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # a template is a program, and may fail in any way
            raise PromptError(f"the checkpoint's chat template fails: {type(error).__name__}: {error}") from error

    def write(self, content: Content) -> str:
        """Return the whole prompt, up to where the answer begins, with one placeholder for each image and video.

        Args:
            content: Items in order: {"type": "text", "text": ...}, {"type": "image"} or {"type": "video"}.

        Raises:
            PromptError: The prompt does not have one placeholder for each image and video.
        """
        text = {"template": self._by_template, "roles": self._by_roles, "flat": self._apply}[self.markup](content)
        for kind, placeholder in PLACEHOLDERS.items():
            wanted, found = sum(item["type"] == kind for item in content), text.count(placeholder)
            if wanted != found:
                raise PromptError(
                    f'the prompt has {found} {placeholder} for {wanted} {kind}s (markup "{self.markup}"): the model'
                    f" would not see them right. Choose another markup, or remove the token from the question.\n{text}"
                )
        return text

    def _by_template(self, content: Content) -> str:
        system = [] if self.system_prompt is None else [{"role": "system", "content": self.system_prompt}]
        return self._apply([*system, {"role": "user", "content": content}])

    def _by_roles(self, content: Content) -> str:
        vision = {kind: f"<|vision_start|>{token}<|vision_end|>" for kind, token in PLACEHOLDERS.items()}
        question = "".join(item.get("text") or vision.get(item["type"], "") for item in content)
        system = DEFAULT_SYSTEM if self.system_prompt is None else self.system_prompt
        system = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
        return f"{system}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
