"""The benchmark of a whole run's parts: that costs are put down to the part that has them. No test times anything."""

import json
import os
import subprocess
import sys

import pytest
from pairs import ROOT

from bench_start.parts import EVALUATION, ORDER, SAVING, TOKENISING, watch
from common import ToolError


MEGABYTE = 1 << 20
# What a training prints, in order; in one part it computes, in another one a child of it holds memory.
RUN = """
import os, subprocess, sys, time
output, child = sys.argv[1], "import time; kept = b'x' * (300 << 20); time.sleep(2)"
def say(line, end="\\n"):
    print(line, end=end, flush=True)
    time.sleep(0.3)
say("# log: out.train.log")
say("[INFO] llamafactory.hparams.parser:523 >> Process rank: 0")
say("[INFO] llamafactory.data.loader:144 >> Loading dataset pairs.json...")
say("\\rRunning tokenizer on dataset:   0%|          | 0/8 [00:00<?, ? examples/s]", end="")
subprocess.run([sys.executable, "-c", child])
say("\\rRunning tokenizer on dataset: 100%|##########| 8/8 [00:00<00:00, 9 examples/s]")
say("[INFO] llamafactory.model.model_utils.kv_cache:144 >> KV cache is disabled during training.")
say("[INFO] llamafactory.train.uni_dpo.training.forward:144 >> pref_forward: shared_prefix.")
say("***** Running training *****")
say("[INFO] Self-check of pref_forward: within 0.0e+00 nats of upstream's forward.")
for step in (1, 2, 3):
    say(f"{step}/3 {{'loss': '0.3365', 'grad_norm': '5.447'}}")
    if step == 2:
        say("***** Running Evaluation *****")
        until = time.process_time() + 1
        while time.process_time() < until: pass
        say("{'eval_loss': '0.3927'}")
        say(f"[INFO] Saving model checkpoint to {output}/.unfinished/checkpoint-2")
        os.mkdir(f"{output}/checkpoint-2")
        time.sleep(0.3)
say("Training completed. Do not forget to share your model")
say("***** Running Evaluation *****")
say("***** eval metrics *****")
"""


def test_costs_are_put_down_to_their_part(tmp_path):
    found = watch([sys.executable, "-c", RUN, str(tmp_path)], dict(os.environ), tmp_path)
    assert list(found) == list(ORDER)
    peaks = {part: took.peak for part, took in found.items()}
    assert max(peaks, key=peaks.get) == TOKENISING and 300 * MEGABYTE < peaks[TOKENISING] < 400 * MEGABYTE
    assert max(found, key=lambda part: found[part].cpu) == EVALUATION and found[EVALUATION].cpu > 0.9
    assert all(took.seconds > 0 for took in found.values())
    times = {part: took.times for part, took in found.items()}
    assert times["first step"] == 1 and times["later steps"] == 2
    assert times[EVALUATION] == 2 and times[SAVING] == 1 and times[TOKENISING] == 1


def test_a_run_that_fails_is_no_fast_one(tmp_path):
    with pytest.raises(ToolError, match="status 3:\nwhy"):
        watch([sys.executable, "-c", "print('why'); raise SystemExit(3)"], dict(os.environ), tmp_path)


@pytest.mark.long
def test_a_whole_run(tmp_path):
    """Every part of a real one is there, and the second one tokenises nothing."""
    output = tmp_path / "start.json"
    command = [sys.executable, ROOT / "scripts" / "bench_start.py", "--pairs", "60", "--output", output]
    command += ["--scratch", tmp_path, "image_max_pixels=10000"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = json.loads(output.read_text())["runs"]
    assert list(runs["first"]) == list(ORDER) and set(runs["again"]) == set(ORDER) - {TOKENISING}
    assert "| tokenising " in done.stdout and [path.name for path in tmp_path.iterdir()] == ["start.json"]
