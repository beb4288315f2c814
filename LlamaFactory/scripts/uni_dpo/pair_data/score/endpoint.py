"""A judge behind an OpenAI-compatible chat endpoint, which grades one answer at a time by a rubric."""

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread
from typing import Any

from ..errors import DataError
from ..images import ImageError
from .pacing import Pacer
from .pictures import Pictures
from .replies import read_score
from .requests import Request, Scored, Unscored, parts
from .rubrics import fill


REMINDER = "Your reply must end with a line of the form `Score: N`, N being one number from {low:g} to {high:g}."
NO_OPENAI = "--endpoint needs the package `openai`: pip install openai"


@dataclass(frozen=True)
class Asking:
    """How an endpoint is asked.

    Attributes:
        url: its address, up to and without `/chat/completions`.
        model: the model's name there.
        rubric: what is asked.
        low: the least score.
        high: the greatest.
        fields: further fields of each request.
        per_minute: the most requests a minute, retries included; None for no limit.
        concurrency: requests under way at a time.
        timeout: seconds until a request counts as failed.
        retries: how often a failed request is sent again.
    """

    url: str
    model: str
    rubric: str
    low: float = 0.0
    high: float = 10.0
    fields: dict[str, Any] = field(default_factory=dict)
    per_minute: float | None = None
    concurrency: int = 8
    timeout: float = 120.0
    retries: int = 5


class Endpoint:
    """A chat endpoint as a scorer.

    Failed requests are sent again by the client of OpenAI (429, 5xx, timeouts, lost connections; after as long as
    `Retry-After` says, or longer each time). Replies without a score are asked for once more.
    """

    reads_images = True

    def __init__(self, asking: Asking, pictures: Pictures):
        """Prepare; nothing is sent yet.

        Raises:
            DataError: the package `openai` is missing.
        """
        try:
            import openai
        except ImportError as error:
            raise DataError(NO_OPENAI) from error
        self.asking, self.pictures = asking, pictures
        self.pacer = Pacer(asking.per_minute)
        self.client = openai.OpenAI(
            base_url=asking.url,
            api_key=os.environ.get("OPENAI_API_KEY") or "none",  # local servers ask for none
            timeout=asking.timeout,
            max_retries=asking.retries,
            http_client=openai.DefaultHttpxClient(event_hooks={"request": [lambda _: self.pacer.wait()]}),
        )
        self.identity = {
            "kind": "endpoint",
            "url": asking.url.rstrip("/"),
            "model": asking.model,
            "rubric": asking.rubric,
            "range": [asking.low, asking.high],
            "fields": asking.fields,
            "pixels": [pictures.min_pixels, pictures.max_pixels],
        }

    def score(self, requests: Iterable[Request]) -> Iterator[Scored]:
        """Score answers, several at a time, each as soon as it is there.

        Raises:
            DataError: the endpoint refuses the key, or there is no such model.
        """
        requests, waiting = iter(requests), 0
        tasks, results = SimpleQueue(), SimpleQueue()
        for _ in range(self.asking.concurrency):  # daemons, so that Ctrl-C need not wait for a reply that hangs
            Thread(target=self._work, args=(tasks, results), daemon=True).start()
        try:
            while True:
                for request in itertools.islice(requests, 2 * self.asking.concurrency - waiting):
                    tasks.put(request)
                    waiting += 1
                if not waiting:
                    return
                request, score = results.get()
                waiting -= 1
                if isinstance(score, BaseException):
                    raise score
                yield [(request, score)]
        finally:
            self.pacer.stop()
            for _ in range(self.asking.concurrency):
                tasks.put(None)

    def _work(self, tasks: SimpleQueue, results: SimpleQueue) -> None:
        while request := tasks.get():
            try:
                results.put((request, self._score(request)))
            except BaseException as error:  # what is no reason to leave an answer out ends the run
                results.put((request, error))

    def _score(self, request: Request) -> float | Unscored:
        import openai

        try:
            return self._ask(self._messages(request))
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise DataError(
                f"{self.asking.url} refuses the key ({_short(error)}). Set OPENAI_API_KEY to one that it takes."
            ) from error
        except openai.NotFoundError as error:
            raise DataError(
                f"{self.asking.url} has no model {self.asking.model}, or is not the address of an endpoint "
                f"({_short(error)}). It usually ends in /v1; --model is the name that the endpoint lists."
            ) from error
        except (openai.OpenAIError, ImageError, ValueError) as error:
            return Unscored(f"{type(error).__name__}: {_short(error)}")

    def _ask(self, messages: list[dict[str, Any]]) -> float | Unscored:
        """Ask, and if no score comes back, once more with a reminder."""
        low, high = self.asking.low, self.asking.high
        reply = self._reply(messages)
        score = read_score(reply, low, high)
        if score is None:
            reminder = {"role": "user", "content": REMINDER.format(low=low, high=high)}
            reply = self._reply([*messages, {"role": "assistant", "content": reply or "(no reply)"}, reminder])
            score = read_score(reply, low, high)
        return (
            Unscored(f"no score from {low:g} to {high:g} in the reply {_short(reply)!r}") if score is None else score
        )

    def _reply(self, messages: list[dict[str, Any]]) -> str | None:
        answer = self.client.chat.completions.create(
            model=self.asking.model, messages=messages, extra_body=self.asking.fields
        )
        try:
            reply = answer.choices[0].message.content
        except (AttributeError, IndexError, TypeError) as error:
            raise ValueError(f"not a chat completion: {_short(answer)!r}") from error
        return reply if isinstance(reply, str) else None

    def _messages(self, request: Request) -> list[dict[str, Any]]:
        images = iter(request.images)
        content: list[dict[str, Any]] = []
        for part in parts(fill(self.asking.rubric, request, low=f"{self.asking.low:g}", high=f"{self.asking.high:g}")):
            if part["type"] == "image":
                part = {"type": "image_url", "image_url": {"url": self.pictures.data_url(next(images))}}
            content.append(part)
        # A text alone is sent as such, since not every server takes a list.
        return [{"role": "user", "content": content if request.images else content[0]["text"]}]


def _short(value: object, length: int = 160) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= length else text[:length] + "..."
