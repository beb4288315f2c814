"""Run LlamaFactory's own tests with and without the overlay, and print what differs.

A git checkout of LlamaFactory, which has the tests, is copied twice; the installer lays the overlay on one copy; the
same Python runs the tests in both. A test differs if its outcome does, or the first line of what it failed with. What
differs is run once more on both sides, alone, and reported only if it differs again.
"""

import argparse
import os
import sys
from pathlib import Path

from common import ToolError
from upstream_tests.comparing import counts, differences
from upstream_tests.sides import SUITES, make_sides
from versions.layers import ROOT


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


def main(arguments: list[str] | None = None) -> int:
    """Run both sides, print what differs and return the exit code."""
    options = parser().parse_args(arguments)
    try:
        return compare(options)
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    wide = argparse.RawDescriptionHelpFormatter
    it = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=wide)
    it.add_argument("tests", nargs="*", metavar="TEST", help="some of them (default: all)")
    it.add_argument("--checkout", type=Path, required=True, metavar="DIR", help="a git checkout of LlamaFactory")
    it.add_argument("--timeout", type=int, default=120, metavar="SECONDS", help="for one test (default: %(default)s)")
    it.add_argument(
        "--processes",
        type=int,
        default=min(os.cpu_count() or 1, 8),
        metavar="N",
        help="at once (default: %(default)s)",
    )
    it.add_argument(
        "--folder", type=Path, default=ROOT / "outputs" / "upstream_tests", help="for copies (default: %(default)s)"
    )
    return it


def compare(options: argparse.Namespace) -> int:
    """Do what `main` is for.

    Raises:
        ToolError: The tests cannot be run.
        ToolError: The environment cannot be made.
    """
    sides = make_sides(options.checkout.resolve(), options.folder.resolve())
    tests = options.tests or [suite for suite in SUITES if (options.checkout / suite).is_dir()]
    outcomes = tuple(side.run(tests, options.timeout, options.processes) for side in sides)
    if not outcomes[0]:
        raise ToolError(f"there are no tests in {', '.join(tests)}")
    differing = differences(sides, outcomes)
    common = [test for test in differing if all(test in noted for noted in outcomes)]
    if common:
        again = tuple(side.run(common, options.timeout, 1) for side in sides)
        calmed = set(common) - set(differences(sides, again))
        differing = {test: kinds for test, kinds in differing.items() if test not in calmed}
        print(f"{len(calmed)} of {len(common)} tests that differed came out alike when they ran again, alone")
    for side, noted in zip(sides, outcomes, strict=True):
        print(f"{side.name:8}the overlay: {counts(noted)}")
    for test, (without, with_overlay) in differing.items():
        print(f"\ndiffers: {test}\n  without: {without}\n  with:    {with_overlay}")
    print(f"\n{len(differing)} of {len(outcomes[0].keys() | outcomes[1].keys())} tests differ")
    return int(bool(differing))
