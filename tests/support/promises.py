"""The list of promises, tests/PROMISES.md: which of them name no test that is there.

Each line there names, for modules of tests/ or tests/trust, words that all stand in the name of one of its tests.
`python tests/support/promises.py` prints those that name none.
"""

import re
import sys
from pathlib import Path


TESTS = Path(__file__).resolve().parents[1]
LIST = TESTS / "PROMISES.md"


def entries() -> list[tuple[str, str, list[str]]]:
    """Return (promise, module, words) of each test that the list names."""
    lines = re.findall(r"(?m)^- (.+?) <- (.+)$", LIST.read_text(encoding="utf-8"))
    named = [(promise, *test.split(":")) for promise, tests in lines for test in tests.split(";")]
    return [(promise, module.strip(), words.split()) for promise, module, words in named]


def names(module: str) -> list[str]:
    """Return the names of the tests of a module, none if it is not there."""
    files = [folder / f"test_{module}.py" for folder in (TESTS, TESTS / "trust")]
    text = "".join(file.read_text(encoding="utf-8") for file in files if file.is_file())
    return re.findall(r"(?m)^ *def test_(\w+)", text)


def missing() -> list[str]:
    """Name each promise with a test that is not there."""
    return [
        f"{promise}: no test of test_{module}.py has {words} in its name"
        for promise, module, words in entries()
        if not any(all(word in name for word in words) for name in names(module))
    ]


if __name__ == "__main__":
    print("\n".join(missing()) or f"All {len(entries())} tests are there.")
    sys.exit(bool(missing()))
