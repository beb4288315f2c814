"""A chat endpoint that speaks as OpenAI's does: the client of judges and of models that are sampled."""

import asyncio
import itertools
import json
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import openai

from .errors import DataError


OWN_FIELDS = ("model", "messages", "stream", "n")  # of a request, set here or read in one way only


class Chat:
    """An endpoint, and how often and how long it may be asked.

    The client of OpenAI sends failed requests again (429, 5xx, timeouts, lost connections), after as long as
    `Retry-After` says, or longer each time.
    """

    def __init__(self, options: SimpleNamespace, own: Iterable[str] = OWN_FIELDS):
        """Prepare, with the options of a command that has --endpoint; nothing is sent yet.

        Args:
            options: `endpoint`, `model`, `request_fields`, `requests_per_minute`, `concurrency`, `timeout`, `retries`.
            own: fields of requests that --request-fields may not set.
        """
        self.options, own = options, tuple(own)
        if not options.endpoint.startswith(("http://", "https://")):
            raise DataError(f"--endpoint {options.endpoint}: an address such as http://localhost:8000/v1 is expected.")
        try:
            self.fields = json.loads(options.request_fields)
        except ValueError as error:
            raise DataError(f"--request-fields: not valid JSON ({error})") from error
        if not isinstance(self.fields, dict) or not self.fields.keys().isdisjoint(own):
            raise DataError(f"--request-fields: a JSON object is expected, without {', '.join(own)}.")
        self.interval = 60 / options.requests_per_minute if options.requests_per_minute else 0.0
        self._next = 0.0  # when the next request may be sent, by the clock of the loop

    @property
    def identity(self) -> dict[str, Any]:
        """Whom one asks, as JSON takes it."""
        return {"url": self.options.endpoint.rstrip("/"), "model": self.options.model, "fields": self.fields}

    def each(self, items: Iterable[Any], work: Callable[[Any], Awaitable[Any]]) -> Iterator[list[Any]]:
        """Do some work for each item, several at a time, and yield results as soon as they are there.

        Whatever ends this, no further request is sent, and nobody waits for those under way.
        """
        items, running = iter(items), set()
        with asyncio.Runner() as runner:
            self.client, loop = self._connect(), runner.get_loop()
            while True:
                new = itertools.islice(items, self.options.concurrency - len(running))
                running |= {loop.create_task(self._explained(work(item))) for item in new}
                if not running:
                    return
                done, running = runner.run(asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED))
                errors = [error for task in done if (error := task.exception())]
                if errors:
                    raise errors[0]
                yield [task.result() for task in done]

    async def ask(self, messages: list[dict[str, Any]], **fields: Any) -> Any:
        """Send a request and return the completion; fields of the user's go first."""
        return await self.client.chat.completions.create(
            model=self.options.model, messages=messages, extra_body=fields | self.fields
        )

    def _connect(self) -> openai.AsyncOpenAI:
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

    async def _explained(self, work: Awaitable[Any]) -> Any:
        """Say what is wrong with address or key, which would be wrong with every request."""
        try:
            return await work
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise DataError(
                f"{self.options.endpoint} refuses the key ({short(error)}). Set OPENAI_API_KEY to one that it takes."
            ) from error
        except openai.NotFoundError as error:
            raise DataError(
                f"{self.options.endpoint} has no model {self.options.model}, or is not the address of an endpoint "
                f"({short(error)}). It usually ends in /v1; --model is the name that the endpoint lists."
            ) from error


REFUSED = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
FAILURES = (openai.OpenAIError, ValueError)  # that concern one request, unless they are REFUSED


@contextmanager
def failing(note: Callable[[str], None]) -> Iterator[None]:
    """Hand the reason to `note` where one request fails; what would fail with every request goes on up."""
    try:
        yield
    except REFUSED:
        raise
    except FAILURES as error:
        note(f"{type(error).__name__}: {short(error)}")


def short(value: object, length: int = 160) -> str:
    """Return a value in one short line."""
    text = " ".join(str(value).split())
    return text if len(text) <= length else text[:length] + "..."
