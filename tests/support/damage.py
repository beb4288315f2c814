"""Input that nobody would write on purpose: good input, changed in a few places, and what became of it.

Changing good input goes deeper than noise, which the first check refuses.
"""

import copy
import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from figures import LONG, times
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st


NUMBERS = [
    *(0, -0.0, 1, -1, 2**31, 2**63, -(2**63) - 1, 10**30, 10**400, 1e-320, 1e39, 1e308, True, False),
    *(float("nan"), float("inf"), float("-inf")),
]
TEXTS = [
    *("", " \n\t", "0", "-0.0", "nan", "1e5", "1_000", "٣", "null", "true", "{}", "[", "None", "é\u0301", "<image>"),
    *("\0", "a\0b", "\x1b[2J\x07", "\ud800", "a\udfffb", "\u202eabc\u202c", "\ufeff", "\U0001f9ff" * 3, "\u2028"),
    *("/", "/etc/passwd", "../../../../etc/passwd", "\\\\server\\share\\x.png", "C:\\x.png", "file:///etc/passwd"),
    *("https://example.invalid/x.png", "data:image/png;base64,AAAA", "~root", "$HOME", "%s%n{0}{x}"),
    "a" * 300 + ".png",
    *("<image><image><image>", "<video>", "<audio>", "<|image_pad|>", "<|im_end|>", "<|vision_start|>", "{{content}}"),
    *("x" * 100_000, "<image>" * 500, ".", "..", "*", "**/*", "'; rm -rf /", '"', "`id`"),
]
DEEP: Any = []
for _ in range(80):
    DEEP = [DEEP]

atoms = st.one_of(
    st.none(),
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.floats(),
    st.integers(),
    st.text(max_size=20),
)
odd_values = st.one_of(
    atoms,
    st.lists(atoms, max_size=3),
    st.dictionaries(st.sampled_from(["", "a", "role", "content", "from", "value", "text", "path"]), atoms, max_size=2),
    st.builds(lambda: copy.deepcopy(DEEP)),
)


class Hang(BaseException):
    """Something took longer than anything should; no `except Exception` on the way stops it."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Interrupt the block when it takes longer."""

    def interrupt(number: int, frame: Any) -> None:
        raise Hang(f"still at it after {seconds} seconds")

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


class Tally:
    """How often input was taken or refused; whatever else happens fails the test.

    Args:
        *refusals: the errors that are messages to a user.
    """

    def __init__(self, *refusals: type[BaseException]):
        """Start at none."""
        self.refusals = refusals
        self.counts: Counter[bool] = Counter()
        self.reasons: Counter[str] = Counter()

    @contextmanager
    def attempt(self, seconds: float = 60) -> Iterator[None]:
        """Try one input; only an error of `refusals` may come out of the block, and it has to say something."""
        try:
            with at_most(seconds):
                yield
        except self.refusals as error:
            assert len(str(error).strip()) > 10, "an error without a message"
            self.note(False, str(error))
        else:
            self.note(True)

    def note(self, taken: bool, reason: str = "") -> None:
        """Count one input."""
        self.counts[taken] += 1
        self.reasons[" ".join(word for word in reason.split() if word.isalpha())[:60]] += not taken

    @property
    def total(self) -> int:
        """How many inputs were tried."""
        return self.counts.total()

    def seen(self, least: float = 0.1 if LONG else 0.02) -> str:
        """Say what was seen, after making sure that neither answer was rare."""
        shares = {taken: self.counts[taken] / self.total for taken in (True, False)}
        assert min(shares.values()) >= least, f"taken: {self.counts}"
        return f"{shares[True]:.0%} taken, {shares[False]:.0%} refused in {len(+self.reasons)} ways, nothing else"


def fuzz(fast: int, long: int) -> Callable:
    """Return hypothesis's settings: the same inputs in every ordinary run, new ones in every long run."""
    return settings(
        max_examples=times(fast, long),
        deadline=None,
        database=None,
        derandomize=not LONG,
        print_blob=True,
        phases=(Phase.explicit, Phase.generate),  # shrinking runs whole commands for minutes
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def mutated(draw: st.DrawFn, good: Any, values: st.SearchStrategy = odd_values) -> Any:
    """Draw a copy of `good` (lists, objects, plain values) with a change at any depth, or a few."""
    tree = [copy.deepcopy(good)]  # a root to replace
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        holder, key = draw(st.sampled_from(list(places(tree))))
        _change(draw, holder, key, values)
    return tree[0]


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every (list or object, index or key) below a value."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield tree, key
        yield from places(value)


def _change(draw: st.DrawFn, holder: Any, key: Any, values: st.SearchStrategy) -> None:
    """Change one part of a list or object."""
    value, is_object = holder[key], isinstance(holder, dict)
    change = draw(st.sampled_from([*["replace"] * 3, "remove", "wrap", "say", "rename", "double", "swap"]))
    if change == "replace":
        holder[key] = draw(values)
    elif change == "remove" and (len(holder) > 1 or is_object):
        del holder[key]
    elif change == "wrap":
        holder[key] = draw(st.sampled_from([[value], {"value": value}, [[value]], [], {}]))
    elif change == "say":
        holder[key] = (
            value + draw(st.sampled_from(TEXTS)) if isinstance(value, str) else json.dumps(value, default=str)
        )
    elif change == "rename" and is_object:
        holder[draw(st.sampled_from([f"{key} ", str(key).upper(), f"{key}_", "", "\ud800"]))] = holder.pop(key)
    elif change == "double" and is_object:
        holder[f"{key}2"] = copy.deepcopy(value)
    elif change == "double":
        holder.insert(key, copy.deepcopy(value))
    elif change == "swap":
        other = draw(st.sampled_from(list(holder) if is_object else range(len(holder))))
        holder[key], holder[other] = holder[other], value


@st.composite
def ruined(draw: st.DrawFn, good: bytes) -> bytes:
    """Draw a copy of the bytes of a file, damaged as disks, editors, downloads and wrong tools damage files."""
    data = good
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        start, end = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
        small = min(end, start + 8)
        damage = draw(st.sampled_from(["flip", "cut", "drop", "repeat", "insert", "zero", "encode"]))
        if damage == "flip" and start < len(data):
            data = data[:start] + bytes([data[start] ^ (1 << draw(st.integers(0, 7)))]) + data[start + 1 :]
        elif damage == "cut":
            data = data[:end]
        elif damage == "drop":
            data = data[:start] + data[small:]
        elif damage == "repeat":
            data = data[:end] + data[start:end] + data[end:]
        elif damage == "insert":
            data = data[:start] + draw(st.sampled_from(PIECES)) + data[start:]
        elif damage == "zero":
            data = data[:start] + bytes(small - start) + data[small:]
        elif damage == "encode":
            data = draw(st.sampled_from(ENCODERS))(data)
    return data


PIECES = [
    *(
        b"\xef\xbb\xbf",
        b"\xff",
        b"\xc3\x28",
        b"\xed\xa0\x80",
        b"\0",
        b"\n",
        b"\r\n",
        b",",
        b'"',
        b"[",
        b"]",
        b"{",
        b"}",
    ),
    *(b"[" * 100_000, b'{"a":' * 100_000, b"1e400", b"-NaN", b"NaN", b"Infinity", b"\\ud800", b"9" * 5000, b"null"),
    *(b"\t", b"\x1b[2J", b"<html>404 Not Found</html>", b"version https://git-lfs.github.com/spec/v1\n"),
]
ENCODERS = [
    lambda data: data.decode(errors="replace").encode("utf-16"),
    lambda data: data.decode(errors="replace").encode("utf-8-sig"),
    lambda data: data.decode(errors="replace").encode("utf-32"),
    lambda data: b"[" + data + b"]",
    lambda data: data.replace(b"\n", b"\r"),
    lambda data: b"",
]
