"""The benchmark of the data commands: what it makes, and that what it measures is so. No test times anything."""

import json
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
from pairs import ROOT

from bench_data import rows
from bench_data.command import run
from pair_data.pairs import read_pair, read_score
from pair_data.rows import read_rows
from pair_data.sources import open_source
from pair_data.stats.gather import image_folder


MEGABYTE = 1 << 20


def test_pairs_are_like_those_published():
    """With other columns, sizes or paths the figures would be of another problem."""
    made = list(rows.pairs(6000))
    assert made == list(rows.pairs(6000)) and made[:9] == list(rows.pairs(9)) != list(rows.pairs(9, seed=1))
    columns = {"instruction", "chosen", "rejected", "score_chosen", "score_rejected", "images"}
    assert all(set(row) == columns and row["instruction"].count("<image>") == 1 for row in made)
    assert all(row["chosen"] != row["rejected"] and row["chosen"] and row["rejected"] for row in made)
    assert 1300 < np.mean([len(json.dumps(row)) for row in made]) < 1700
    lengths = [len(row["chosen"]) for row in made]
    assert min(lengths) < 5 and max(lengths) > 3000
    shares = {subset.name: subset.share for subset in rows.SUBSETS}
    for name, share in shares.items():
        assert np.mean([image_folder(row["images"]) == name for row in made]) == pytest.approx(share, abs=0.01)
    margins = np.array([row["score_chosen"] - row["score_rejected"] for row in made])
    assert 0.03 < np.mean(margins < 0) < 0.2
    assert len({row["instruction"] for row in made}) == 6000
    paths = {f"{rows.ELSEWHERE}/{name}" for name in rows.image_names(6000)}
    assert {row["images"][0] for row in made} == paths and len(paths) == 2000


def test_questions_have_ranks_that_follow_scores():
    """Ranks that contradict scores would let `convert` pair the wrong answers, unnoticed."""
    for question in rows.questions(200):
        assert len(question["answers"]) == 4
        for one in question["answers"]:
            better = sum(other["score"] > one["score"] for other in question["answers"])
            assert one["rank"] == better + 1 and one["answer"]


@pytest.mark.parametrize("where", ["one", "two", "a moment"])
def test_peak_memory_is_of_all_processes(tmp_path, where):
    """Memory of a worker, or of a moment between two looks, must not be missed."""
    size = 300 * MEGABYTE
    half = f"import subprocess, sys, time; kept = b'x' * {size // 2}; "
    hold = {
        "one": f"import time; kept = b'x' * {size}; time.sleep(0.5)",
        "a moment": f"kept = b'x' * {size}",
        "two": half + f"subprocess.run([sys.executable, '-c', {half + 'time.sleep(0.5)'!r}])",
    }[where]
    measure = "import sys, pathlib; from bench_data.command import run; "  # in a process as small as the benchmark's
    measure += "found = run([sys.executable, '-c', sys.argv[1]], pathlib.Path(sys.argv[2])); "
    measure += "print(found['status'], found['peak_bytes'], found['cpu_seconds'])"
    command = [sys.executable, "-c", measure, hold, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT / "scripts", capture_output=True, text=True, check=True, timeout=60)
    status, peak, seconds = map(float, done.stdout.split())
    assert status == 0 and not list(tmp_path.iterdir())
    assert size < peak < size + 100 * MEGABYTE
    assert 0 < seconds < 30


def test_small_run(tmp_path):
    """The whole of it, on a hundred rows: a number for every run, and a failed command is not taken for a fast one."""
    command = [sys.executable, str(ROOT / "scripts" / "bench_data.py"), "--rows", "50", "--times", "2"]
    results = tmp_path / "results.json"
    command += ["--commands", "stats", "--output", str(results), "--scratch"]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = json.loads(results.read_text())["runs"]
    assert [(entry["command"], entry["rows"]) for entry in runs] == [("stats", 50), ("stats", 100)]
    assert all(entry["output_bytes"] > 10_000 and entry["input_bytes"] > 50_000 for entry in runs)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    failed = run([sys.executable, "-c", "print('why'); raise SystemExit(3)"], tmp_path)
    assert failed["status"] == 3 and "why" in failed["said"]


def test_pairs_are_read_as_pairs(tmp_path):
    """Rows that the commands cannot read would be skipped fast."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows.pairs(30)))
    source = open_source(str(path))
    for row, original in zip(read_rows(path), islice(rows.pairs(30), 30), strict=True):
        assert read_pair(row, source).chosen == original["chosen"]
        assert read_score(row, source, "score_chosen") == original["score_chosen"]
