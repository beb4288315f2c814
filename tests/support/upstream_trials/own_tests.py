"""Run LlamaFactory's own tests with and without the overlay, and print what differs.

A git checkout of LlamaFactory, which has the tests, is copied twice; the installer lays the overlay on one copy; the
same Python runs the tests in both. A test differs if its outcome does, or the first line of what it failed with. What
differs is run once more on both sides, alone, and reported only if it differs again.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from common import ROOT, ToolError

from .layers import LEFT_OUT, Layer
from .stand_ins import variables


EPILOG = """\
examples:
  .venv/bin/python scripts/upstream_tests.py --checkout ~/LLaMA-Factory
      all of its tests: some minutes
  .venv/bin/python scripts/upstream_tests.py --checkout ~/LLaMA-Factory tests/data
      some of them

Many of upstream's tests load models from the hub. Here the hub counts as offline, and they fail at once, alike on
both sides; a tiny random Llama takes the place of those that upstream lets a variable name, so that more of them run.
The checkout is not touched. Copies, logs and an environment with pytest-timeout (a layer of some megabytes over this
one) are in outputs/upstream_tests.

exit codes: 0 no test differs; 1 some do; 2 wrong arguments, or the tests could not be run.
"""

SUITES = ("tests", "tests_v1")
# What differs from run to run and says nothing: addresses, temporary files, times, process ids.
NOISE = (
    (re.compile(r"0x[0-9a-f]+"), "ADDRESS"),
    (re.compile(r"/tmp/\S+"), "TEMPORARY"),
    (re.compile(r"\d+(\.\d+)? ?(seconds|s|ms)\b"), "TIME"),
    (re.compile(r"\b(pid|port)[ =:]+\d+"), "NUMBER"),
)

Outcomes = dict[str, tuple[str, str]]  # a test's outcome, and the line that says why


def main(arguments: list[str] | None = None) -> int:
    """Run both sides, print what differs and return the exit code."""
    wide = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=wide)
    add = parser.add_argument
    add("tests", nargs="*", metavar="TEST", help="some of them (default: all)")
    add("--checkout", type=Path, required=True, metavar="DIR", help="a git checkout of LlamaFactory")
    add("--timeout", type=int, default=120, metavar="SECONDS", help="for one test (default: %(default)s)")
    processes = min(os.cpu_count() or 1, 8)
    add("--processes", type=int, default=processes, metavar="N", help="at once (default: %(default)s)")
    place = ROOT / "outputs" / "upstream_tests"
    add("--folder", type=Path, default=place, help="for copies (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        return compare(options)
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def compare(options: argparse.Namespace) -> int:
    """Do what `main` is for.

    Raises:
        ToolError: The tests cannot be run, or the environment for them cannot be made.
    """
    sides = make_sides(options.checkout.resolve(), options.folder.resolve())
    tests = options.tests or [suite for suite in SUITES if (options.checkout / suite).is_dir()]
    outcomes = [side.run(tests, options.timeout, options.processes) for side in sides]
    if not outcomes[0]:
        raise ToolError(f"there are no tests in {', '.join(tests)}")
    differing = differences(*outcomes)
    common = [test for test in differing if all(test in noted for noted in outcomes)]
    if common:
        files = sorted({test.partition("::")[0] for test in common})
        again = differences(*(side.run(files, options.timeout, 1) for side in sides))
        calmed = set(common) - set(again)
        differing = {test: kinds for test, kinds in differing.items() if test not in calmed}
        print(f"{len(calmed)} of {len(common)} tests that differed came out alike when they ran again, alone")
    for side, noted in zip(sides, outcomes, strict=True):
        print(f"{side.name:8}the overlay: {counts(noted)}")
    for test, (without, with_overlay) in differing.items():
        print(f"\ndiffers: {test}\n  without: {without}\n  with:    {with_overlay}")
    print(f"\n{len(differing)} of {len(outcomes[0].keys() | outcomes[1].keys())} tests differ")
    return int(bool(differing))


@dataclass(frozen=True)
class Side:
    """One copy of the checkout."""

    name: str  # "without" or "with", for messages
    folder: Path
    layer: Layer

    def run(self, tests: Sequence[str], seconds: int, processes: int) -> Outcomes:
        """Run tests; what they print goes to a log beside the copy.

        Args:
            tests: Files, folders or single tests, relative to the checkout.
            seconds: After which a test counts as failed.
            processes: How many to use; 1 runs one test after the other in a fresh process.

        Raises:
            ToolError: pytest did not run.
        """
        noted, log = self.folder.with_suffix(".xml"), self.folder.with_suffix(".log")
        noted.unlink(missing_ok=True)
        command = [str(self.layer.python), "-m", "pytest", "-v", "--import-mode=importlib", "-p", "no:cacheprovider"]
        command += ["--rootdir", str(self.folder), "--timeout", str(seconds), "--junitxml", str(noted)]
        command += ["-n", str(processes), "--dist", "loadfile"] if processes > 1 else []
        print(f"running {' '.join(tests)} {self.name} the overlay; see {log}", file=sys.stderr)
        environment = os.environ | {
            "PYTHONPATH": str(self.folder / "src"),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(self.layer.folder / "datasets"),
            "WANDB_DISABLED": "true",
            "OMP_NUM_THREADS": "1",
            **variables(self.layer.folder / "stand_ins"),
        }
        with log.open("w", encoding="utf-8") as file:
            how = {"cwd": self.folder, "env": environment, "stdout": file, "stderr": subprocess.STDOUT}
            code = subprocess.run([*command, *tests], check=False, **how).returncode
        if code not in (0, 1, 2) or not noted.is_file():
            raise ToolError(f"pytest ended with exit code {code}; see {log}")
        return outcomes_in(noted, self.folder)


def outcomes_in(report: Path, folder: Path) -> Outcomes:
    """Read pytest's JUnit report: the outcome of each test, and one line of its message.

    Args:
        report: The XML file.
        folder: The copy of the checkout in which the tests ran.
    """
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        # A file that cannot be collected has no class, and its name is the module's.
        module = case.get("classname") or case.get("name")
        name = f"{module.replace('.', '/')}.py" + (f"::{case.get('name')}" if case.get("classname") else "")
        outcome, message = "passed", ""
        for part in case:
            if part.tag in ("failure", "error", "skipped"):
                outcome = {"failure": "failed"}.get(part.tag, part.tag)
                message = part.get("message", "")
                if message.startswith("collection failure"):  # its last line is the error
                    message = (part.text or "").strip().splitlines()[-1].removeprefix("E   ")
        found[name] = outcome, plain(message, folder)
    return found


def plain(message: str, folder: Path) -> str:
    """Return the first line of a message, without what differs from run to run."""
    line = next((line for line in message.replace(str(folder), "CHECKOUT").splitlines() if line.strip()), "")
    for pattern, word in NOISE:
        line = pattern.sub(word, line)
    return line.strip()[:300]


def differences(without: Outcomes, with_overlay: Outcomes) -> dict[str, tuple[str, str]]:
    """Return the tests that came out differently: by name, what happened without and with the overlay."""
    nothing = ("not there", "")
    pairs = {
        test: (without.get(test, nothing), with_overlay.get(test, nothing))
        for test in sorted(without.keys() | with_overlay.keys())
    }
    said = {test: tuple(": ".join(filter(None, kind)) for kind in both) for test, both in pairs.items()}
    return {test: both for test, both in said.items() if both[0] != both[1]}


def counts(outcomes: Outcomes) -> str:
    """Return how many tests had each outcome, in words."""
    counted = Counter(outcome for outcome, _ in outcomes.values())
    return ", ".join(f"{counted[kind]} {kind}" for kind in ("passed", "failed", "error", "skipped"))


def make_sides(checkout: Path, scratch: Path) -> tuple[Side, Side]:
    """Copy a checkout twice, lay the overlay on the second copy, and make an environment and stand-ins once.

    Raises:
        ToolError: It has no tests, or the installer or pip refuses.
    """
    if not any((checkout / suite).is_dir() for suite in SUITES):
        raise ToolError(f"--checkout {checkout}: no folder {' or '.join(SUITES)} in it; clone LlamaFactory with git")
    layer = Layer(scratch)
    if not (scratch / "ready").is_file():
        layer.make()
        layer.pip("pytest", "pytest-timeout", "pytest-xdist")
        done = layer.run(str(Path(__file__).with_name("stand_ins.py")), str(scratch / "stand_ins"))
        if done.returncode != 0:
            raise ToolError(f"cannot make tiny models:\n{done.stderr.strip()[-1000:]}")
        (scratch / "ready").touch()
    (scratch / "pytest.ini").touch()  # where upstream configures nothing, pytest would go up to ours
    sides = tuple(Side(name, scratch / name, layer) for name in ("without", "with"))
    for side in sides:
        shutil.rmtree(side.folder, ignore_errors=True)
        shutil.copytree(checkout, side.folder, ignore=LEFT_OUT)
    installer = [str(ROOT / "scripts" / "install_overlay.py"), "install", "--checkout", str(sides[1].folder)]
    done = layer.run(*installer)
    if done.returncode != 0:
        raise ToolError(done.stderr.strip())
    return sides
