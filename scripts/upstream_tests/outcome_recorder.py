"""A pytest plugin: one line of JSON for every test, with its outcome and the message that it failed with.

`UPSTREAM_OUTCOMES` names the file. Under pytest-xdist only the process that gathers all reports writes.
"""

import json
import os


def pytest_configure(config):
    """Start the file."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(os.environ["UPSTREAM_OUTCOMES"]), "outcome-recorder")


class Recorder:
    """Writes reports as they come."""

    def __init__(self, path):
        """Write to `path`."""
        self.file = open(path, "w", encoding="utf-8")  # noqa: SIM115  (open until the session ends)

    def pytest_runtest_logreport(self, report):
        """Note a test's call, and set-up or tear-down where they went wrong or skipped it."""
        if report.when == "call" or report.outcome != "passed":
            outcome = "error" if report.failed and report.when != "call" else report.outcome
            self.note(report, outcome)

    def pytest_collectreport(self, report):
        """Note files that cannot be imported, or that skip themselves."""
        if report.outcome != "passed":
            self.note(report, "error" if report.failed else report.outcome)

    def note(self, report, outcome):
        """Write a line."""
        crash = getattr(getattr(report, "longrepr", None), "reprcrash", None)
        message = crash.message if crash else str(report.longrepr or "")
        if not crash and isinstance(report.longrepr, tuple):  # a skip: file, line, reason
            message = report.longrepr[2]
        self.file.write(json.dumps({"test": report.nodeid, "outcome": outcome, "message": message}) + "\n")
        self.file.flush()

    def pytest_sessionfinish(self):
        """Close the file."""
        self.file.close()
