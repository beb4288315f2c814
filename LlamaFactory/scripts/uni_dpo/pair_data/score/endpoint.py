"""A judge behind an OpenAI-compatible chat endpoint, which grades one answer at a time by a rubric."""

import asyncio
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

from ..chat import Chat, failing, short
from ..errors import DataError
from .pictures import Pictures
from .requests import Request, Scored, Unscored, parts
from .rubrics import NUMBER, fill, read_rubric, read_score


REMINDER = "Your reply must end with a line of the form `Score: N`, N being one number from {low:g} to {high:g}."


class Endpoint:
    """A chat endpoint as a scorer. Replies without a score are asked for once more."""

    reads_images = True
    uses_reference = uses_row = patient = False

    def __init__(self, options: SimpleNamespace, pictures: Pictures):
        """Prepare, with the options of `data.py score`; nothing is sent yet."""
        self.pictures, self.chat = pictures, Chat(options)
        self.low, self.high, self.rubric = options.low, options.high, read_rubric(options.rubric, NUMBER)
        if self.low >= self.high:
            raise DataError(f"--low {self.low:g} must be below --high {self.high:g}.")
        self.identity = self.chat.identity | {
            "kind": "endpoint",
            "rubric": self.rubric,
            "range": [self.low, self.high],
            "pixels": [pictures.min_pixels, pictures.max_pixels],
        }

    def score(self, requests: Iterable[Request]) -> Iterator[Scored]:
        """Score answers, several at a time, each as soon as it is there."""
        yield from self.chat.each(requests, self._score)

    async def _score(self, request: Request) -> tuple[Request, float | Unscored]:
        score: float | Unscored = Unscored("")
        reasons: list[str] = []
        with failing(reasons.append):
            messages = await asyncio.to_thread(self._messages, request)
            score = await self._ask(messages)
        return request, Unscored(reasons[0]) if reasons else score

    async def _ask(self, messages: list[dict[str, Any]]) -> float | Unscored:
        """Ask, and if no score comes back, once more with a reminder."""
        reply = await self._reply(messages)
        score = read_score(reply, self.low, self.high)
        if score is None:
            reminder = {"role": "user", "content": REMINDER.format(low=self.low, high=self.high)}
            said = {"role": "assistant", "content": reply or "(no reply)"}
            reply = await self._reply([*messages, said, reminder])
            score = read_score(reply, self.low, self.high)
        if score is None:
            return Unscored(f"no score from {self.low:g} to {self.high:g} in the reply {short(reply)!r}")
        return score

    async def _reply(self, messages: list[dict[str, Any]]) -> str | None:
        answer = await self.chat.ask(messages)
        try:
            reply = answer.choices[0].message.content
        except (AttributeError, IndexError, TypeError) as error:
            raise ValueError(f"not a chat completion: {short(answer)!r}") from error
        return reply if isinstance(reply, str) else None

    def _messages(self, request: Request) -> list[dict[str, Any]]:
        text = fill(self.rubric, request, low=f"{self.low:g}", high=f"{self.high:g}")
        if not request.images:
            return [{"role": "user", "content": text}]  # not every server takes a list
        images = iter(request.images)
        content = [
            {"type": "image_url", "image_url": {"url": self.pictures.data_url(next(images))}}
            if part["type"] == "image"
            else part
            for part in parts(text)
        ]
        return [{"role": "user", "content": content}]
