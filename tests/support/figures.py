"""Long tests, and the figures that tests measured: a table at the end of a run.

Those of long runs are kept in `tests/figures.jsonl`, until they are measured again.

A pytest plugin (conftest.py names it). `UNI_DPO_LONG=1`, which `bash scripts/test.sh long` sets, runs tests marked
`long` too, and lets `times` return its larger number. Whatever lies in tests/trust is marked `trust`, so that the long
part can be asked for by `-m "trust or long"`. `python tests/support/figures.py` puts the table of long runs
into `tests/README.md`, between its two marks.
"""

import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest


LONG = bool(os.environ.get("UNI_DPO_LONG"))
ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "tests" / "figures.jsonl"
README = ROOT / "tests" / "README.md"
MARKS = ("<!-- figures -->\n", "<!-- end of figures -->\n")
HEAD = "| | tried | times | seen | transformers, torch | command |\n| --- | --- | ---: | --- | --- | --- |\n"
STACK = ", ".join(version(package) for package in ("transformers", "torch"))


def times(fast: int, long: int) -> int:
    """Return how often to try something: `fast` by default, `long` in a long run."""
    return long if LONG else fast


@pytest.fixture
def figure(record_property, request) -> Callable[[str, str, int, str], None]:
    """Record `figure(part, tried, times, seen)`: a line of the table, under one of the headings of tests/README.md."""

    def record(part: str, tried: str, count: int, seen: str) -> None:
        record_property("figure", [part, tried, str(count), seen, STACK, request.node.nodeid.split("[")[0]])

    return record


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known; keep the figures of a long run."""
    config.addinivalue_line("markers", "long: takes minutes; runs in `bash scripts/test.sh long` only")
    config.addinivalue_line("markers", "trust: lies in tests/trust; runs there too, in full")
    if LONG and not hasattr(config, "workerinput"):  # workers send their reports to the process that writes
        config.pluginmanager.register(_Keeper())


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what lies in tests/trust, and leave long tests out of an ordinary run."""
    for item in items:
        if item.path.parent.name == "trust":
            item.add_marker("trust")
    if LONG:
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


class _Keeper:
    """Writes figures down as they come: a long run that is cut off goes on with the tests that are left."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take those of one test."""
        rows = [value for name, value in report.user_properties if name == "figure"]
        if report.when != "call" or not report.passed or not rows:
            return
        kept = {(row[0], row[1]): row for row in [*_kept(), *rows]}
        TABLE.parent.mkdir(parents=True, exist_ok=True)
        scratch = TABLE.with_suffix(".part")
        scratch.write_text("".join(json.dumps(row) + "\n" for row in sorted(kept.values())))
        scratch.replace(TABLE)


def _kept() -> list[list[str]]:
    return [json.loads(line) for line in TABLE.read_text().splitlines()] if TABLE.is_file() else []


def table(rows: list[list[str]]) -> str:
    """Return rows of [part, what was tried, how often, what was seen, on which stack, test] as Markdown."""
    return HEAD + "".join(f"| {' | '.join(row[:-1])} | `pytest {row[-1]}` |\n" for row in rows)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured."""
    reports = terminalreporter.stats.get("passed", [])
    found = [value for report in reports for name, value in getattr(report, "user_properties", ()) if name == "figure"]
    if found:
        terminalreporter.section("figures")
        terminalreporter.write(table(sorted(found)))


def main() -> None:
    """Put the table of long runs into tests/README.md."""
    if not TABLE.is_file():
        sys.exit(f"{TABLE} is not there: run `bash scripts/test.sh long` first.")
    before, _, rest = README.read_text().partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    README.write_text(before + MARKS[0] + "\n" + table(_kept()) + "\n" + MARKS[1] + after)


if __name__ == "__main__":
    main()
