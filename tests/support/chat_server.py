"""A small OpenAI-compatible chat endpoint for the tests: it answers by a rule or fails as told, and keeps count."""

import contextlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


SECONDS_HUNG = 60


@dataclass(frozen=True)
class Reply:
    """What the endpoint says: `text` in a chat completion, unless `raw` (a whole body) or another status is given.

    With `hang` it says so after `SECONDS_HUNG`.
    """

    text: str | None = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: str | None = None
    hang: bool = False


@dataclass(frozen=True)
class Asked:
    """A request as it came in."""

    at: float
    key: str
    body: dict[str, Any]

    @property
    def text(self) -> str:
        """The text of its first message."""
        content = self.body["messages"][0]["content"]
        return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)

    @property
    def answer(self) -> str:
        """The answer that is to be judged."""
        return self.text.split("Answer:\n")[1].split("\n\nSay in one")[0]


class ChatServer:
    """The endpoint, running while the block of `with` does.

    Attributes:
        rule: given a request and its number, what is answered.
        asked: all requests in the order in which they came.
    """

    def __init__(self, rule: Callable[[Asked, int], Reply | str]):
        """Answer by `rule`."""
        self.rule, self.asked = rule, []
        self.lock, self.closing = threading.Lock(), threading.Event()

    def __enter__(self) -> "ChatServer":
        """Start it on a free port."""
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"chat": self}))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        """Stop it, and let hanging requests go."""
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        """What goes behind --endpoint."""
        return f"http://127.0.0.1:{self.server.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    chat: ChatServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are sent apart, and the second would wait for an acknowledgement

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = Asked(time.monotonic(), self.headers.get("Authorization", ""), body)
        with self.chat.lock:
            number = len(self.chat.asked)
            self.chat.asked.append(asked)
        reply = self.chat.rule(asked, number)
        reply = Reply(reply) if isinstance(reply, str) else reply
        if reply.hang and self.chat.closing.wait(SECONDS_HUNG):
            return
        choices = [{"index": 0, "message": {"role": "assistant", "content": reply.text}, "finish_reason": "stop"}]
        body = {"id": "1", "object": "chat.completion", "created": 0, "model": "rule", "choices": choices}
        body = body if reply.status == 200 else {"error": {"message": f"told to answer {reply.status}"}}
        content = (reply.raw or json.dumps(body)).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content))} | reply.headers
        with contextlib.suppress(OSError):  # nobody waits any more
            self.send_response(reply.status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""
