"""A small OpenAI-compatible chat endpoint for the tests: it answers by a rule or fails as told, and keeps count."""

import contextlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


SECONDS_HUNG = 8


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
    path: str
    key: str
    body: dict[str, Any]

    @property
    def text(self) -> str:
        """The text of its first message."""
        content = self.body["messages"][0]["content"]
        return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)

    @property
    def images(self) -> list[str]:
        """The data URLs of its images."""
        content = self.body["messages"][0]["content"]
        return [part["image_url"]["url"] for part in content if isinstance(part, dict) and "image_url" in part]


Rule = Callable[[Asked, int], Reply | str]


class ChatServer:
    """The endpoint, running while the block of `with` does.

    Attributes:
        rule: given a request and its number, what is answered.
        asked: all requests in the order in which they came.
    """

    def __init__(self, rule: Rule):
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
        asked = Asked(time.monotonic(), self.path, self.headers.get("Authorization", ""), body)
        with self.chat.lock:
            number = len(self.chat.asked)
            self.chat.asked.append(asked)
        reply = self.chat.rule(asked, number)
        reply = Reply(reply) if isinstance(reply, str) else reply
        if reply.hang and self.chat.closing.wait(SECONDS_HUNG):
            return
        with contextlib.suppress(OSError):  # nobody waits any more
            self._send(reply)

    def _send(self, reply: Reply) -> None:
        message = {"role": "assistant", "content": reply.text}
        completion = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "rule",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        }
        error = {"error": {"message": f"told to answer {reply.status}"}}
        content = (reply.raw or json.dumps(completion if reply.status == 200 else error)).encode()
        self.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""
