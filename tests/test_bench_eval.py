"""The comparison of answers: what it shows of its measurements, and a small run of it. No test times."""

import json
import subprocess
import sys
import time

import pytest
from eval_tree import overlaid, python
from pairs import ROOT
from transformers import AutoTokenizer

from bench_eval.contestant import Contestant
from bench_eval.report import compared, table
from bench_eval.rows import VOCABULARY, random_model
from common import ToolError


ROWS = 3


def way(seconds, cpu, answers):
    turns = [{"seconds": each, "cpu": cpu, "answers": answers} for each in seconds]
    return {"start": {"seconds": 30.0, "cpu": 20.0}, "peak": 1234.5, "turns": turns}


def test_what_is_shown():
    """Two turns of two questions, by hand.

    The loop takes 4 s, the runner 1 s and 2 s: 4 and 2 times as fast, in the median 3; 2 and 1 questions a second. Of
    two answers one is the same, in both turns. 6 s of CPU make 3,000 ms an answer, 1.5 s make 750: 4 times less.

    32e9 operations at 4e9 a second are 8 s, and 3 calls that read 2e9 bytes at 6e9 a second 1 s: 4,000 ms and 500 an
    answer. Of 6 s the parts take 0.5, 2 and 3: the rest is 250 ms an answer.
    """
    ways = {"loop": way([4.0, 4.0], 6.0, ["a", "b"]), "runner": way([1.0, 2.0], 1.5, ["a", "c"])}
    seconds = {"pictures": 0.5, "prefill": 2.0, "decode": 3.0, "all": 6.0}
    parts = {"pictures": 2, "prefill": 2, "decode": 1}
    counts = {"seconds": seconds, "calls": parts, "positions": {"prefill": 100, "decode": 2}, "operations": 32e9}
    counts |= {"operators": 2000, "weights": 2e9}
    result = {"model": "m", "data": "d", "rows": 2, "max_new_tokens": 8, "device": "c", "threads": 1, "ways": ways}
    result |= {"counts": {"loop": counts}, "rates": {"operations": 4e9, "bytes": 6e9}}
    assert compared(result, "runner") == ([4.0, 2.0], 2, 4)
    shown = " ".join(table(result).split())
    assert (
        "| times the loop | CPU ms an answer | times less | peak MiB | start s | its CPU s | same answers |" in shown
    )
    assert "| runner | 1.5 [1.0, 2.0] | 3.0 [2.0, 4.0] | 750.0 | 4.0 | 1,234 | 30.0 | 20.0 | 2 of 4 |" in shown
    assert "pictures 250.0, prefill 1000.0, decode 1500.0, rest 250.0" in shown
    assert "2 calls of 50 positions and 1 of 2.0; 1,000 operators and 16.000e9 operations an answer" in shown
    assert "computing takes 4000.0 ms an answer, reading the weights 500.0" in shown


def test_a_real_vocabulary(tmp_path):
    """Every token is a text of its own, so that other tokens are other answers; the demo's own stay where they are."""
    tokenizer = AutoTokenizer.from_pretrained(random_model(tmp_path / "model"))
    words = tokenizer.batch_decode([[number] for number in range(1000, VOCABULARY, 997)])
    assert len(set(words)) == len(words) and all(words)
    ours = AutoTokenizer.from_pretrained(ROOT / "data" / "demo" / "checkpoint")
    said = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>How many?<|im_end|>"
    assert tokenizer.encode(said) == ours.encode(said)


def test_a_process_from_outside(tmp_path, monkeypatch):
    """CPU time of what it starts and waits for counts as its own; one that dies is reported with its last words."""
    work = "for i in range(3 * 10**7): pass"
    program = (
        "import json, subprocess, sys\nprint(json.dumps('ready'), flush=True)\n"
        f"for line in sys.stdin: subprocess.run([sys.executable, '-c', '{work}']); print('{{}}', flush=True)\n"
    )
    (tmp_path / "worker.py").write_text(program)
    monkeypatch.setattr("bench_eval.contestant.__file__", str(tmp_path / "contestant.py"))
    one = Contestant("one", {}, tmp_path / "log")
    assert one.start["cpu"] < 60 and one.peak() > 5
    began = time.process_time()
    exec(work, {})
    alone = time.process_time() - began
    assert one.turn()["cpu"] > alone / 5
    one.end()
    (tmp_path / "worker.py").write_text("raise SystemExit('no model')")
    with pytest.raises(ToolError, match="two ended with exit status 1:\nno model"):
        Contestant("two", {}, tmp_path / "log")


@pytest.mark.long
def test_a_small_run(tmp_path):
    """The loop asks one by one and the runner all at once; they answer alike, and what they compute is counted."""
    tree = overlaid("installed", tmp_path / "tree")
    words = ["--rows", ROWS, "--repeats", 1, "--only", "loop", "runner", "--out", tmp_path / "result.json"]
    done = python(tree, ROOT / "scripts" / "bench_eval.py", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{ROWS} of {ROWS}" in done.stdout
    result = json.loads((tmp_path / "result.json").read_text())
    assert compared(result, "runner")[1:] == (ROWS, ROWS)
    loop, runner = (result["counts"][name] for name in ("loop", "runner"))
    assert (loop["calls"]["prefill"], runner["calls"]["prefill"]) == (ROWS, 1)
    assert loop["positions"]["prefill"] <= runner["positions"]["prefill"] < 2 * loop["positions"]["prefill"]
    assert loop["operators"] > runner["operators"] > 0 and loop["weights"] == runner["weights"] > 0
    assert loop["operations"] <= runner["operations"] < 2 * loop["operations"]
    lacking = python(tree, ROOT / "scripts" / "bench_eval.py", "--only", "nobody")
    assert lacking.returncode == 2 and "invalid choice" in lacking.stderr


def test_help():
    command = [sys.executable, ROOT / "scripts" / "bench_eval.py", "--help"]
    assert "runner, vllm" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
