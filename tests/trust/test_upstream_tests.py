"""Upstream's own tests with and without the overlay: what differs is found, and what does not is left alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pairs import ROOT
from upstream import checkout_tree

from upstream_tests import command as upstream_tests
from upstream_tests.comparing import counts, differences
from upstream_tests.sides import Side


SUITE = """
import pytest


def test_passes():
    from llamafactory.extras.constants import IGNORE_INDEX

    assert IGNORE_INDEX == -100


def test_fails_alike():
    raise OSError(f"no hub, asked by {object()!r} in {__file__}")


@pytest.mark.skip(reason="no device")
def test_skipped():
    pass
"""
BROKEN = """
from llamafactory.train.dpo import run_dpo


def test_fails_with_the_overlay_only():
    assert run_dpo.__module__ == "llamafactory.train.dpo.workflow"


def test_fails_for_another_reason():
    raise RuntimeError(run_dpo.__module__)
"""


def test_outcomes_are_recorded(tmp_path):
    """By the real plugin, in a real pytest: with reasons, and also of files that cannot be imported."""
    (tmp_path / "test_some.py").write_text(SUITE)
    (tmp_path / "test_lost.py").write_text("import nothing_of_this_name\n")
    variables = {"UPSTREAM_OUTCOMES": str(tmp_path / "noted"), "PYTHONPATH": str(ROOT / "scripts" / "upstream_tests")}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "outcome_recorder",
        "-q",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    subprocess.run([*command, "--continue-on-collection-errors"], env=os.environ | variables, capture_output=True)
    noted = {line["test"]: line for line in map(json.loads, (tmp_path / "noted").read_text().splitlines())}
    assert {name: line["outcome"] for name, line in noted.items()} == {
        "test_lost.py": "error",
        "test_some.py::test_passes": "passed",
        "test_some.py::test_fails_alike": "failed",
        "test_some.py::test_skipped": "skipped",
    }
    assert noted["test_some.py::test_skipped"]["message"].endswith("no device")
    assert "nothing_of_this_name" in noted["test_lost.py"]["message"]
    assert noted["test_some.py::test_fails_alike"]["message"].startswith("OSError: no hub")


def test_noise_is_no_difference_and_a_reason_is(tmp_path):
    sides = tuple(Side(name, Path("/copies") / name, tmp_path) for name in ("without", "with"))

    def outcomes(side, address, reason):
        message = f"OSError: no hub, asked by <object at {address}> in {side.folder}/tests/a.py after 1.2 s\nmore"
        return {
            "a": {"outcome": "failed", "message": message},
            "b": {"outcome": "failed", "message": reason},
            "c": {"outcome": "passed", "message": ""},
        }

    noted = outcomes(sides[0], "0x7f01", "OSError: no hub"), outcomes(sides[1], "0x7faa", "KeyError: 'score'")
    assert differences(sides, noted) == {"b": ("failed: OSError: no hub", "failed: KeyError: 'score'")}
    noted[1]["c"]["outcome"] = "failed"
    del noted[1]["b"]
    assert differences(sides, noted) == {"b": ("failed: OSError: no hub", "not there"), "c": ("passed", "failed")}
    assert counts(noted[0]) == "1 passed, 2 failed, 0 error, 0 skipped"


def test_a_folder_without_tests_is_refused(tmp_path, capsys):
    assert upstream_tests.main(["--checkout", str(tmp_path), "--folder", str(tmp_path / "out")]) == 2
    assert "no folder tests" in capsys.readouterr().err


@pytest.mark.long
def test_the_command_on_a_small_checkout(tmp_path, capsys, figure):
    """A suite that the overlay leaves alone; then one with a test that it breaks, and one that it fails otherwise."""
    checkout = checkout_tree("0.9.5", tmp_path / "checkout")
    (checkout / "tests").mkdir()
    (checkout / "tests" / "test_some.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --of-another-project\n")  # above the copies, as ours is
    arguments = ["--checkout", str(checkout), "--folder", str(tmp_path / "out"), "--processes", "1"]
    assert upstream_tests.main(arguments) == 0
    said = capsys.readouterr().out
    assert "with    the overlay: 1 passed, 1 failed, 0 error, 1 skipped" in said and "0 of 3 tests differ" in said
    (checkout / "tests" / "test_more.py").write_text(BROKEN)
    assert upstream_tests.main(arguments) == 1
    said = capsys.readouterr().out
    assert (
        "differs: tests/test_more.py::test_fails_with_the_overlay_only\n  without: passed\n  with:    failed" in said
    )
    assert "without: failed: RuntimeError: llamafactory.train.dpo.workflow" in said
    assert "2 of 5 tests differ" in said
    assert not list(checkout.glob("**/uni_dpo"))
    figure("5 upstream's tests", "a made-up suite, 2 of 5 tests hit by the overlay", 2, "both found, the rest alike")


CHECKOUTS = [Path(path) for path in os.environ.get("UNI_DPO_CHECKOUTS", "").split(":") if path]


@pytest.mark.long
@pytest.mark.parametrize("checkout", [path for path in CHECKOUTS if (path / "tests").is_dir()], ids=str)
def test_upstreams_own_tests(checkout, capsys, figure):
    """LlamaFactory's suite, where `UNI_DPO_CHECKOUTS` names a checkout that has it."""
    code = upstream_tests.main(["--checkout", str(checkout), "--processes", "1"])  # the long run uses every core
    said = capsys.readouterr().out
    assert code == 0, said
    lines = {line.split()[0]: line.partition(": ")[2] for line in said.splitlines() if "the overlay: " in line}
    total = int(said.splitlines()[-1].split()[2])
    seen = f"without: {lines['without']}; with: {lines['with']}; {said.splitlines()[-1]}"
    figure("5 upstream's tests", f"checkout {checkout.name}, the hub offline", total, seen)
