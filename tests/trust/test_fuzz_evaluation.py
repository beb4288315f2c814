"""Configs and benchmark TSVs, changed at random, through the batched runner, from the command line to the scores.

The runner leaves with 0 (all done), 1 (a data set failed, which is named with the reason) or 2 (a message), with
nothing written outside of its folders, and without a traceback, which it prints of every error that is not ours.
"Taken" is 0.
"""

import base64
import contextlib
import io
import json
import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from damage import Tally, at_most, fuzz, mutated, ruined
from eval_sets import SETS, write_sets
from figures import LONG
from hypothesis import given
from pairs import ROOT
from PIL import Image


ROWS = 2
MODEL = {"class": "UniDPOQwen2VL", "model_path": str(ROOT / "data" / "demo" / "checkpoint"), "max_new_tokens": 2}
OPTIONS = {"min_pixels": 3136, "max_pixels": 6272, "use_custom_prompt": True, "system_prompt": None, "markup": "auto"}
OPTIONS |= {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0, "fps": 2.0}
OPTIONS |= {"device": "cpu", "dtype": "float32", "attention": "sdpa", "verbose": False, "nframe": None}
PATIENT = 1e5  # pixels or tokens: a config that asks for more is served, which takes long


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Where VLMEvalKit looks for TSVs, with one of each kind."""
    return write_sets(tmp_path_factory.mktemp("fuzzed") / "data", ROWS)


@pytest.fixture
def folder(data, tmp_path, monkeypatch):
    monkeypatch.setenv("LMUData", str(data))
    return tmp_path


def evaluate(folder, config, tally, *arguments):
    """Give the command and judge how it ended."""
    from vlmeval.uni_dpo.cli import main

    (folder / "config.json").write_bytes(config)
    before, said = outside(folder), io.StringIO()
    command = ["--config", str(folder / "config.json"), "--work-dir", str(folder / "work"), *arguments]
    with at_most(120), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = main(command)
        except SystemExit as end:
            status = end.code
    text = said.getvalue()
    assert status in (0, 1, 2) and "Traceback" not in text, text
    failures = re.findall(r"^FAILED .*?: (.*)", text, re.MULTILINE) if status == 1 else []
    assert all(len(reason) > 10 for reason in failures), failures
    assert bool(failures) == (status == 1), text
    assert status != 2 or re.search(r"^error: .{10}", text, re.MULTILINE), text
    assert outside(folder) == before, "something was written elsewhere"
    shutil.rmtree(folder / "work", ignore_errors=True)
    shutil.rmtree(Path(os.environ["LMUData"]) / "images", ignore_errors=True)
    tally.note(status == 0, failures[0] if failures else text[-200:])


def outside(folder):
    """List what is in folders around those that the runner may write to."""
    data = Path(os.environ["LMUData"])
    return [sorted(path.name for path in place.iterdir() if path.name not in ("work", "images", "config.json"))
            for place in (folder, folder.parent, data, data.parent, Path.cwd())]  # fmt: skip


def patient(config):
    """Leave out numbers that ask for hours of work, which a config may."""
    models = config.get("model") if isinstance(config, dict) else None
    asked = [entry for entry in models.values() if isinstance(entry, dict)] if isinstance(models, dict) else []
    numbers = [entry.get(name) for entry in asked for name in ("min_pixels", "max_new_tokens")]
    return not any(isinstance(number, int) and PATIENT < number < 2**31 for number in numbers)


def test_configs(folder, figure):
    tally = Tally()
    good = {"model": {"tiny": MODEL | OPTIONS}, "data": {"Tiny_MCQ": SETS["Tiny_MCQ"]}, "judge": "exact_matching"}

    @fuzz(15, 600)
    @given(mutated(good).filter(patient))
    def by_value(config):
        evaluate(folder, json.dumps(config).encode(), tally)

    @fuzz(10, 300)
    @given(ruined(json.dumps(good).encode()))
    def by_byte(content):
        with contextlib.suppress(ValueError):
            if not patient(json.loads(content)):
                return
        evaluate(folder, content, tally)

    by_value()
    by_byte()
    figure("8 fuzz", "`config.json` changed or damaged: evaluation", tally.total, tally.seen())


def as_table(rows):
    """Write what changed rows may be as the TSV of a benchmark."""
    named = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    table = pd.DataFrame([{plain(name): plain(value) for name, value in row.items()} for row in named])
    return table.to_csv(sep="\t", index=False).encode(errors="replace")


def plain(value):
    return value if value is None else str(value).encode(errors="replace").decode()


def bomb():
    """A picture of four hundred million pixels in a few kilobytes."""
    content = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(content, "PNG", compress_level=9)
    return base64.b64encode(content.getvalue()).decode()


@pytest.mark.parametrize("name", SETS if LONG else [*SETS][:2])
def test_benchmarks(data, folder, figure, name):
    tally, file = Tally(), data / f"{name}.tsv"
    good = file.read_bytes()
    rows = pd.read_csv(file, sep="\t", dtype=str).to_dict("records")
    config = json.dumps({"model": {"tiny": MODEL}, "data": {name: SETS[name]}}).encode()
    trace = folder / "run"
    escapes = [{"index": "../../../escaped"}, {"image_path": "../escaped.png"}, {"image_path": str(folder / "x.png")}]
    code = f"[__import__('pathlib').Path({str(trace)!r}).touch()]"
    evil = [{"image": bomb()}, {"image": code}, {"answer": code}, {"index": code[1:-1]}, {"image": "[" * 5000 + "]"}]

    def attempt(content):
        file.write_bytes(content)
        try:
            evaluate(folder, config, tally)
            assert not trace.exists(), "code of a benchmark was run"
        finally:
            file.write_bytes(good)

    @fuzz(12, 300)
    @given(mutated(rows))
    def by_value(changed):
        attempt(as_table(changed))

    @fuzz(8, 200)
    @given(ruined(good))
    def by_byte(content):
        attempt(content)

    for change in [*escapes, *evil]:
        refused = tally.counts[False]
        attempt(as_table([rows[0] | change, *rows[1:]]))
        harmless = "answer" in change or change == evil[3]  # as a text, which is not run
        assert tally.counts[False] > refused or harmless, f"{list(change)} was taken"
    by_value()
    by_byte()
    figure("8 fuzz", f"benchmark TSVs changed or damaged: {SETS[name]['class']}", tally.total, tally.seen())
