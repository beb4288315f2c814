"""Upstream's own tests with and without the overlay: what differs is found, and nothing else is."""

import subprocess
import sys
from pathlib import Path

import pytest
from upstream import CHECKOUTS, checkout_tree
from upstream_trials.own_tests import counts, differences, main, outcomes_in


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


@pytest.mark.long
def test_outcomes_and_what_differs(tmp_path):
    """Of a real pytest, also of files that cannot be imported; addresses and the like are no difference."""
    found = []
    for name in ("without", "with"):
        folder = tmp_path / name / "tests"
        folder.mkdir(parents=True)
        (folder / "test_some.py").write_text(SUITE)
        (folder / "test_lost.py").write_text(f"import nothing_{name}\n")
        (tmp_path / name / "pytest.ini").touch()
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
        command += ["--junitxml", f"{folder}.xml", "tests"]
        subprocess.run(command, cwd=folder.parent, capture_output=True, check=False)
        found.append(outcomes_in(Path(f"{folder}.xml"), folder.parent))
    without, with_overlay = found
    assert without["tests/test_some.py::test_passes"] == ("passed", "")
    assert without["tests/test_some.py::test_skipped"] == ("skipped", "no device")
    assert without["tests/test_some.py::test_fails_alike"][1].startswith(
        "OSError: no hub, asked by <object object at AD"
    )
    assert counts(without) == "1 passed, 1 failed, 1 error, 1 skipped"
    ((test, (first, second)),) = differences(without, with_overlay).items()
    assert test == "tests/test_lost.py"
    assert "error: ModuleNotFoundError: No module named 'nothing_without'" in first and "nothing_with'" in second
    del with_overlay["tests/test_some.py::test_passes"]
    assert differences(without, with_overlay)["tests/test_some.py::test_passes"] == ("passed", "not there")


def test_a_folder_without_tests_is_refused(tmp_path, capsys):
    assert main(["--checkout", str(tmp_path), "--folder", str(tmp_path / "out")]) == 2
    assert "no folder tests" in capsys.readouterr().err


@pytest.mark.long
def test_the_command_on_a_small_checkout(tmp_path, capsys, figure):
    """A suite that the overlay does not change; then one with a test that it breaks, and one that fails otherwise."""
    checkout = checkout_tree("0.9.5", tmp_path / "checkout")
    (checkout / "tests").mkdir()
    (checkout / "tests" / "test_some.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --of-another-project\n")  # above the copies, as ours is
    arguments = ["--checkout", str(checkout), "--folder", str(tmp_path / "out"), "--processes", "1"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "with    the overlay: 1 passed, 1 failed, 0 error, 1 skipped" in said and "0 of 3 tests differ" in said
    (checkout / "tests" / "test_more.py").write_text(BROKEN)
    assert main(arguments) == 1
    said = capsys.readouterr().out
    assert (
        "differs: tests/test_more.py::test_fails_with_the_overlay_only\n  without: passed\n  with:    failed" in said
    )
    assert "without: failed: RuntimeError: llamafactory.train.dpo.workflow" in said
    assert "2 of 5 tests differ" in said
    assert not list(checkout.glob("**/uni_dpo"))
    figure("5 upstream's tests", "a made-up suite, 2 of 5 tests hit by the overlay", 2, "both found, the rest alike")


@pytest.mark.long
@pytest.mark.parametrize("checkout", [path for path in CHECKOUTS if (path / "tests").is_dir()], ids=str)
def test_upstreams_own_tests(checkout, capsys, figure):
    """LlamaFactory's suite, where `UNI_DPO_CHECKOUTS` names a checkout that has it."""
    code = main(["--checkout", str(checkout), "--processes", "1"])  # the long run uses every core
    said = capsys.readouterr().out
    assert code == 0, said
    lines = {line.split()[0]: line.partition(": ")[2] for line in said.splitlines() if "the overlay: " in line}
    total = int(said.splitlines()[-1].split()[2])
    seen = f"without: {lines['without']}; with: {lines['with']}; {said.splitlines()[-1]}"
    figure("5 upstream's tests", f"checkout {checkout.name}, the hub offline", total, seen)
