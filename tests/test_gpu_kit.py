"""The kit for a GPU machine, tried on a CPU: parts in turn, kept when done, cut off by time."""

import json

import pytest
from gpu_kit.command import attempt, main, table
from gpu_kit.parts import Part, of_exact, parts

from common import ROOT


def said(capsys, folder, *words) -> tuple[int, str]:
    status = main(["--device", "cpu", "--small", "--folder", str(folder), *words])
    return status, capsys.readouterr().out


def test_exactness_on_this_machine(tmp_path, capsys):
    """The engine agrees here and the mistake shows; a second time nothing is run again."""
    status, out = said(capsys, tmp_path, "--only", "exact")
    assert status == 0 and "| exact | done |" in out and "4 of 4 checks hold" in out
    seen = json.loads((tmp_path / "exact" / "results.json").read_text())["checks"]
    assert any("a mistake" in check["name"] for check in seen)
    before = (tmp_path / "exact" / "log.txt").stat().st_mtime_ns
    assert said(capsys, tmp_path, "--only", "exact") == (0, out)
    assert (tmp_path / "exact" / "log.txt").stat().st_mtime_ns == before


@pytest.mark.long
def test_all_parts(tmp_path, capsys):
    status, out = said(capsys, tmp_path)
    assert status == 0 and out.count("| done |") == len(parts("cpu", True)) == 4
    assert "ours, batch 1:" in out and "4 of 4 answers equal" in out


@pytest.mark.parametrize(
    "code, minutes, state, line",
    [
        ("raise SystemExit('no such device')", 1, "failed", "log: no such device"),
        ("import time; time.sleep(60)", 0.01, "out of time", "no results"),
        (
            "from pathlib import Path; Path('{}/r.json').write_text('{\"checks\": []}')",
            1,
            "done",
            "0 of 0 checks hold",
        ),
    ],
)
def test_how_a_part_ends(tmp_path, code, minutes, state, line):
    entry = attempt(Part("one", ("-c", code), "r.json", minutes, of_exact), tmp_path / "one", float("inf"))
    assert entry["state"] == state and any(line in each for each in entry["lines"])
    assert (tmp_path / "one" / "done.json").is_file() == (state == "done")
    assert f"| one | {state} |" in table([entry])


def test_no_time_is_left_and_something_is_wrong(tmp_path):
    part = Part("one", ("-c", ""), "r.json", 1, of_exact)
    assert attempt(part, tmp_path / "one", 0)["state"] == "not run" and not (tmp_path / "one").exists()
    wrong = {"checks": [{"name": "a", "ok": False, "seen": "1.0"}, {"name": "b", "ok": True, "seen": "0.0"}]}
    assert of_exact(wrong) == ["1 of 2 checks hold", "WRONG: a: 1.0"]


def test_wheels_are_of_the_pinned_versions():
    """What travels to a machine without a network is what everything else is tested with."""
    files = [ROOT / "scripts" / name for name in ("gpu_kit/wheels.txt", "pins/train.txt")]
    listed, pinned = ({line.split()[0] for line in file.read_text().splitlines() if "==" in line} for file in files)
    assert len(listed) > 10 and listed <= pinned
