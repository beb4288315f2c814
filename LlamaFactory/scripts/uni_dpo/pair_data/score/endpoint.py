"""A judge behind an OpenAI-compatible chat endpoint, which grades one answer at a time by a rubric."""

import asyncio
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import openai

from ..errors import DataError
from ..images import ImageError
from .pictures import Pictures
from .requests import Request, Scored, Unscored, parts
from .rubrics import NUMBER, fill, read_rubric, read_score


OWN_FIELDS = ("model", "messages", "stream", "n")  # of a request, set here or read in one way only
REMINDER = "Your reply must end with a line of the form `Score: N`, N being one number from {low:g} to {high:g}."


class Endpoint:
    """A chat endpoint as a scorer.

    The client of OpenAI sends failed requests again (429, 5xx, timeouts, lost connections), after as long as
    `Retry-After` says, or longer each time. Replies without a score are asked for once more.
    """

    reads_images = True

    def __init__(self, options: SimpleNamespace, pictures: Pictures):
        """Prepare, with the options of `data.py score`; nothing is sent yet."""
        self.options, self.pictures = options, pictures
        self.low, self.high, self.rubric = options.low, options.high, read_rubric(options.rubric, NUMBER)
        if not options.endpoint.startswith(("http://", "https://")):
            raise DataError(f"--endpoint {options.endpoint}: an address such as http://localhost:8000/v1 is expected.")
        if self.low >= self.high:
            raise DataError(f"--low {self.low:g} must be below --high {self.high:g}.")
        try:
            self.fields = json.loads(options.request_fields)
        except ValueError as error:
            raise DataError(f"--request-fields: not valid JSON ({error})") from error
        if not isinstance(self.fields, dict) or not self.fields.keys().isdisjoint(OWN_FIELDS):
            raise DataError(f"--request-fields: a JSON object is expected, without {', '.join(OWN_FIELDS)}.")
        self.interval = 60 / options.requests_per_minute if options.requests_per_minute else 0.0
        self._next = 0.0  # when the next request may be sent, by the clock of the loop
        self.identity = {
            "kind": "endpoint",
            "url": options.endpoint.rstrip("/"),
            "model": options.model,
            "rubric": self.rubric,
            "range": [self.low, self.high],
            "fields": self.fields,
            "pixels": [pictures.min_pixels, pictures.max_pixels],
        }

    def score(self, requests: Iterable[Request]) -> Iterator[Scored]:
        """Score answers, several at a time, each as soon as it is there.

        Whatever ends this, no further request is sent, and nobody waits for those under way.
        """
        requests, running = iter(requests), set()
        with asyncio.Runner() as runner:
            client, loop = self._client(), runner.get_loop()
            while True:
                new = itertools.islice(requests, self.options.concurrency - len(running))
                running |= {loop.create_task(self._score(client, request)) for request in new}
                if not running:
                    return
                done, running = runner.run(asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED))
                errors = [error for task in done if (error := task.exception())]
                if errors:
                    raise errors[0]
                yield [task.result() for task in done]

    def _client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=self.options.endpoint,
            api_key=os.environ.get("OPENAI_API_KEY") or "none",  # local servers ask for none
            timeout=self.options.timeout,
            max_retries=self.options.retries,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"request": [self._wait_for_turn]}),
        )

    async def _wait_for_turn(self, _: Any) -> None:
        """Spread requests evenly: a minute's worth sent at once is what rate limits punish."""
        now = asyncio.get_running_loop().time()
        start = max(now, self._next)
        self._next = start + self.interval
        await asyncio.sleep(start - now)

    async def _score(self, client: Any, request: Request) -> tuple[Request, float | Unscored]:
        try:
            messages = await asyncio.to_thread(self._messages, request)
            return request, await self._ask(client, messages)
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise DataError(
                f"{self.options.endpoint} refuses the key ({_short(error)}). Set OPENAI_API_KEY to one that it takes."
            ) from error
        except openai.NotFoundError as error:
            raise DataError(
                f"{self.options.endpoint} has no model {self.options.model}, or is not the address of an endpoint "
                f"({_short(error)}). It usually ends in /v1; --model is the name that the endpoint lists."
            ) from error
        except (openai.OpenAIError, ImageError, ValueError) as error:
            return request, Unscored(f"{type(error).__name__}: {_short(error)}")

    async def _ask(self, client: Any, messages: list[dict[str, Any]]) -> float | Unscored:
        """Ask, and if no score comes back, once more with a reminder."""
        reply = await self._reply(client, messages)
        score = read_score(reply, self.low, self.high)
        if score is None:
            reminder = {"role": "user", "content": REMINDER.format(low=self.low, high=self.high)}
            said = {"role": "assistant", "content": reply or "(no reply)"}
            reply = await self._reply(client, [*messages, said, reminder])
            score = read_score(reply, self.low, self.high)
        if score is None:
            return Unscored(f"no score from {self.low:g} to {self.high:g} in the reply {_short(reply)!r}")
        return score

    async def _reply(self, client: Any, messages: list[dict[str, Any]]) -> str | None:
        answer = await client.chat.completions.create(
            model=self.options.model, messages=messages, extra_body=self.fields
        )
        try:
            reply = answer.choices[0].message.content
        except (AttributeError, IndexError, TypeError) as error:
            raise ValueError(f"not a chat completion: {_short(answer)!r}") from error
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


def _short(value: object, length: int = 160) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= length else text[:length] + "..."
