"""What the long run stands on: its tests stay out of the ordinary one, and what they measured is kept."""

import json

import pytest
from figures import STACK
from pairs import ROOT


pytest_plugins = ["pytester"]

MODULE = """
    import pytest
    from figures import times

    @pytest.mark.long
    def test_long():
        pass

    def test_measured(figure):
        figure("9 example", "counting", times(2, 50), "all of them")
"""


@pytest.mark.parametrize("long, passed, count", [("", 1, 2), ("1", 2, 50)])
def test_long_tests_run_only_when_asked_for(pytester, monkeypatch, long, passed, count):
    monkeypatch.setenv("UNI_DPO_LONG", long)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "support"))
    pytester.makeconftest("import figures, pathlib; figures.TABLE = pathlib.Path('table.jsonl').absolute()")
    pytester.makepyfile(test_measuring=MODULE)
    result = pytester.runpytest_subprocess("-p", "figures", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=passed, deselected=2 - passed)
    line = f"| 9 example | counting | {count} | all of them | {STACK} | `pytest test_measuring.py::test_measured` |"
    assert line in result.stdout.str()
    kept = pytester.path / "table.jsonl"
    assert kept.exists() == bool(long), "what an ordinary run sees is not kept"
    assert not long or json.loads(kept.read_text())[:3] == ["9 example", "counting", "50"]
