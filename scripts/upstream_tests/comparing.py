"""What differs between two runs of the same tests."""

import re
from collections import Counter
from pathlib import Path

from .sides import Outcomes, Side


OUTCOMES = ("passed", "failed", "error", "skipped")

# What differs from run to run and says nothing: addresses, temporary files, times, process ids.
NOISE = (
    (re.compile(r"0x[0-9a-f]+"), "ADDRESS"),
    (re.compile(r"/tmp/\S+"), "TEMPORARY"),
    (re.compile(r"\d+(\.\d+)? ?(seconds|s|ms)\b"), "TIME"),
    (re.compile(r"\b(pid|port)[ =:]+\d+"), "NUMBER"),
)


def kind_of(outcome: dict[str, str], folder: Path) -> tuple[str, str]:
    """Return an outcome and the first line of its message, without what differs from run to run.

    Args:
        outcome: What the recorder noted of a test.
        folder: The copy of the checkout in which it ran.
    """
    message = outcome["message"].replace(str(folder), "CHECKOUT")
    lines = [line for line in message.splitlines() if line.strip()]
    # An error of collection is a whole report; its last line is the error.
    line = (lines[-1] if "Traceback" in message else lines[0]) if lines else ""
    for pattern, word in NOISE:
        line = pattern.sub(word, line)
    return outcome["outcome"], line.strip()[:300]


def differences(sides: tuple[Side, Side], outcomes: tuple[Outcomes, Outcomes]) -> dict[str, tuple[str, str]]:
    """Return the tests that came out differently: by name, what happened without and with the overlay.

    Args:
        sides: The two copies.
        outcomes: What the recorder noted in each.
    """
    found = {}
    for test in sorted(outcomes[0].keys() | outcomes[1].keys()):
        kinds = [
            kind_of(noted[test], side.folder) if test in noted else ("not there", "")
            for side, noted in zip(sides, outcomes, strict=True)
        ]
        if kinds[0] != kinds[1]:
            found[test] = tuple(": ".join(filter(None, kind)) for kind in kinds)
    return found


def counts(outcomes: Outcomes) -> str:
    """Return how many tests had each outcome, in words."""
    counted = Counter(outcome["outcome"] for outcome in outcomes.values())
    return ", ".join(f"{counted[kind]} {kind}" for kind in OUTCOMES)
