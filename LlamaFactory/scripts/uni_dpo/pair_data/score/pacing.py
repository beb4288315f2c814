"""At most so many requests a minute, whoever sends them."""

import threading
import time
from collections.abc import Callable


class Stopped(BaseException):
    """Nothing is to be sent any more. No `Exception`, so that no retrying client takes it for a failed request."""


class Pacer:
    """Spreads requests of all threads evenly over time.

    Evenly, since a minute's worth sent at once is what rate limits punish.
    """

    def __init__(
        self,
        per_minute: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        """Allow `per_minute` requests a minute; None for no limit."""
        self._interval = 60 / per_minute if per_minute else 0.0
        self._clock, self._sleep = clock, sleep
        self._lock, self._next, self._stopped = threading.Lock(), 0.0, False

    def wait(self) -> None:
        """Return when the next request may be sent.

        Raises:
            Stopped: `stop` was called.
        """
        with self._lock:
            now = self._clock()
            start = max(now, self._next)
            self._next = start + self._interval
        if not self._stopped and start > now:
            self._sleep(start - now)
        if self._stopped:
            raise Stopped

    def stop(self) -> None:
        """Let nobody send anything any more."""
        self._stopped = True
