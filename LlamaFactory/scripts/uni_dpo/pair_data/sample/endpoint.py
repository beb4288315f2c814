"""A model behind an OpenAI-compatible chat endpoint as a sampler. Its server's chat template writes the prompts."""

import asyncio
import hashlib
import json
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

from ..chat import OWN_FIELDS, Chat, failing, short
from ..score.pictures import Pictures
from ..score.requests import parts
from .asked import Answered, Asked, Drawn, Failed, Ready, Unit


SET_HERE = (*OWN_FIELDS, "temperature", "top_p", "max_tokens", "seed", "stop")
OTHER_LIMIT = "max_completion_tokens"  # what some servers want instead of max_tokens


class Endpoint:
    """A chat endpoint that gives `n` answers a request, or is asked again for those it did not give."""

    together = 1

    def __init__(self, options: SimpleNamespace, pictures: Pictures):
        """Prepare, with the options of `data.py sample`; nothing is sent yet."""
        self.options, self.pictures, self.chat = options, pictures, Chat(options, SET_HERE)
        self.settings = {name: getattr(options, name) for name in ("temperature", "top_p", "max_tokens")}
        self.settings |= {"stop": options.stop} if options.stop else {}
        self.settings |= {"top_k": options.top_k} if options.top_k else {}
        if OTHER_LIMIT in self.chat.fields:
            self.settings[OTHER_LIMIT] = self.settings.pop("max_tokens")
        pixels = [pictures.min_pixels, pictures.max_pixels]
        also = {"settings": self.settings, "system": options.system, "count": options.count, "pixels": pixels}
        self.identity = self.chat.identity | also
        whose = {"endpoint": options.endpoint.rstrip("/"), "model": options.model}
        self.by = whose | {"prompt": "as the server's chat template writes it"} | self.settings

    def ready(self, asked: Asked) -> Ready:
        """Hash what will be sent: the dialogue, and the content of its images."""
        system = asked.system or self.options.system
        digest = hashlib.sha256(json.dumps([system, asked.messages]).encode())
        for image in asked.images:
            digest.update(self.pictures.digest(image))
        return Ready(asked, digest.hexdigest())

    def sample(self, units: Iterable[Unit]) -> Iterator[Answered]:
        """Answer units, several at a time."""
        for answered in self.chat.each(units, self._answer):
            yield from answered

    async def _answer(self, unit: Unit) -> Answered:
        drawn: list[Drawn] = []
        reasons: list[str] = []
        by = self.by | {"seed": unit.seed}
        with failing(reasons.append):
            messages = await asyncio.to_thread(self._messages, unit.questions[0].asked)
            while len(drawn) < self.options.count:
                wanted = self.options.count - len(drawn)
                seed = (unit.seed + len(drawn)) % 2**31
                completion = await self.chat.ask(messages, n=wanted, seed=seed, **self.settings)
                drawn += _answers(completion)[:wanted]
                by |= _served_by(completion)
        return Answered(unit, [Failed(reasons[0]) if reasons else drawn], by)

    def _messages(self, asked: Asked) -> list[dict[str, Any]]:
        images, messages = iter(asked.images), []
        if system := asked.system or self.options.system:
            messages.append({"role": "system", "content": system})
        for role, text in asked.messages:
            content: Any = parts(text)
            if any(part["type"] == "image" for part in content):
                content = [
                    {"type": "image_url", "image_url": {"url": self.pictures.data_url(next(images))}}
                    if part["type"] == "image"
                    else part
                    for part in content
                ]
            else:
                content = text  # not every server takes a list
            messages.append({"role": role, "content": content})
        return messages


def _answers(completion: Any) -> list[Drawn]:
    """Return the answers of a completion; their tokens are known only where there is one."""
    try:
        texts = [(choice.message.content, choice.finish_reason) for choice in completion.choices]
        tokens = completion.usage.completion_tokens if completion.usage and len(texts) == 1 else None
    except (AttributeError, TypeError) as error:
        raise ValueError(f"not a chat completion: {short(completion)!r}") from error
    if not texts or not all(isinstance(text, str) for text, _ in texts):
        raise ValueError(f"a completion without text: {short(completion)!r}")
    return [Drawn(text, tokens, reason != "length") for text, reason in texts]


def _served_by(completion: Any) -> dict[str, str]:
    """Return what a server says of itself: the model's name as it has it, and the fingerprint of its system."""
    said = {"served": completion.model, "system_fingerprint": getattr(completion, "system_fingerprint", None)}
    return {name: value for name, value in said.items() if isinstance(value, str) and value}
