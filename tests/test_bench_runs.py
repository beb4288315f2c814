"""The comparison of whole runs, on a small vocabulary."""

import json
import subprocess
import sys

import pytest
from pairs import ROOT


@pytest.mark.long
def test_a_table_of_whole_runs(tmp_path):
    """LlamaFactory's and ours, each in a process of its own; a kind that has passed is not checked again."""
    output = tmp_path / "runs.json"
    words = ["--vocabulary", "800", "--batch", "1", "--steps", "2", "--output", output]
    command = [sys.executable, ROOT / "scripts" / "bench_runs.py", *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| 1 | LlamaFactory |" in done.stdout and "| 1 | ours |" in done.stdout
    runs = json.loads(output.read_text())["runs"]
    assert [entry["trainer"] for entry in runs][:2] == ["LlamaFactory", "ours"]
    assert all(len(run["steps"]) == 2 and run["peak"] > run["loaded"] > 0 for entry in runs for run in entry["runs"])
