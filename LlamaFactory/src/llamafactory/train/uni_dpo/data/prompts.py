"""Pairs tokenised with one encoding of their prompt, and refused where a cut would go through an image.

Upstream's processor prepares and encodes every prompt twice, once before each answer, which for a prompt with images
means processing them twice. Here upstream's own code runs, with a template that remembers the last prompt, and with
images of which it learns the size alone.
"""

from dataclasses import dataclass
from typing import Any

from ....data.processor import PairwiseDatasetProcessor
from ....data.template import Template
from ....extras.constants import AUDIO_PLACEHOLDER, IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER
from ..errors import UniDPOError
from ..proxy import Proxy
from .outlines import OutlinePlugin


PLACEHOLDERS = (IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER, AUDIO_PLACEHOLDER)

Messages = list[dict[str, str]]


@dataclass
class PromptOnceProcessor(PairwiseDatasetProcessor):
    """Upstream's tokenisation of pairs, token for token the same.

    Attributes:
        place: where the row in hand is, for messages; if it is not known, they quote its prompt.
    """

    place: str = ""

    def __post_init__(self):
        """Let the template remember prompts."""
        self.template = RememberingTemplate(self.template)

    def _encode_data_example(
        self, prompt: Messages, response: Messages, *args: Any, **kwargs: Any
    ) -> tuple[list[int], list[int], list[int], list[int]]:
        place = self.place or f"The pair that asks {prompt[-1]['content'][-80:]!r}"
        self._refuse_written_media([*prompt, *response], place)
        encoded = super()._encode_data_example(prompt, response, *args, **kwargs)
        self._require_whole_media(encoded[0], place)
        return encoded

    def _refuse_written_media(self, messages: Messages, place: str) -> None:
        """Refuse a text that has the model's own token of an image in it: there is no image for it.

        Raises:
            UniDPOError: it has.
        """
        plugin = self.template.mm_plugin
        tokens = {plugin.image_token, plugin.video_token, plugin.audio_token} - {None, *PLACEHOLDERS}
        for message in messages:
            for token in tokens:
                if token in message["content"]:
                    raise UniDPOError(
                        f"{place}: {token} is written in the text of the {message['role']}, and the model would look "
                        f"for an image, a video or a sound there. Write it in another way, or remove the row; "
                        "`python scripts/uni_dpo/data.py check` finds every such row at once."
                    )

    def _require_whole_media(self, kept: list[int], place: str) -> None:
        """Refuse a prompt that lost image tokens: the model would find more features than places for them.

        Raises:
            UniDPOError: it did.
        """
        plugin = self.template.mm_plugin
        for token in (plugin.image_token, plugin.video_token):
            token_id = None if token is None else self.tokenizer.convert_tokens_to_ids(token)
            if token_id in (None, self.tokenizer.unk_token_id):
                continue
            needed = self.template.prompt_ids.count(token_id)
            if needed > kept.count(token_id):
                raise UniDPOError(
                    f"{place}: `cutoff_len: {self.data_args.cutoff_len}` cuts the prompt within an image or a "
                    f"video; {kept.count(token_id)} of {needed} of its tokens are left. Raise `cutoff_len`, lower "
                    "`image_max_pixels`, or remove the row."
                )


class RememberingTemplate(Proxy):
    """A template that encodes a prompt once, if the next answer belongs to the same one.

    Attributes:
        prompt_ids: the last prompt, before anything is cut off.
    """

    def __init__(self, template: Template):
        """Stand in for `template`."""
        super().__init__(template)
        self.mm_plugin = RememberingPlugin(OutlinePlugin(template.mm_plugin))
        self.prompt_ids: list[int] = []
        self._prompt: tuple | None = None
        # Templates that think, or otherwise let an answer change its prompt, have a method of their own.
        self._independent = type(template).encode_oneturn is Template.encode_oneturn

    def encode_oneturn(
        self, tokenizer: Any, messages: Messages, system: str | None = None, tools: str | None = None
    ) -> tuple[list[int], list[int]]:
        """Return token ids of the prompt and of the answer, which is the last message."""
        prompt = (messages[:-1], system, tools)
        if self._independent and prompt == self._prompt:
            stand_in = {"role": "user", "content": ""}  # the answer's encoding depends on the answer alone
            _, answer_ids = self._original.encode_oneturn(tokenizer, [stand_in, messages[-1]])
            return list(self.prompt_ids), answer_ids
        prompt_ids, answer_ids = self._original.encode_oneturn(tokenizer, messages, system, tools)
        self._prompt, self.prompt_ids = prompt, list(prompt_ids)
        return prompt_ids, answer_ids


class RememberingPlugin(Proxy):
    """A media plugin that prepares a prompt's messages once, if the next answer belongs to the same one."""

    def __init__(self, plugin: Any):
        """Stand in for `plugin`."""
        super().__init__(plugin)
        self._prompt: tuple | None = None
        self._prepared: Messages = []

    def process_messages(
        self, messages: Messages, images: list, videos: list, audios: list, processor: Any
    ) -> Messages:
        """Put the tokens of images, videos and audios where their placeholders are."""
        *prompt, answer = messages
        media = (images, videos, audios)
        plain = not any(placeholder in answer["content"] for placeholder in PLACEHOLDERS)
        if plain and self._prompt is not None and self._prompt[0] == prompt and self._prompt[1] is images:
            return [*self._prepared, answer]
        prepared = self._original.process_messages(messages, *media, processor)
        untouched = plain and prepared[-1] == answer and len(prepared) == len(messages)
        self._prompt, self._prepared = ((prompt, images) if untouched else None), prepared[:-1]
        return prepared
