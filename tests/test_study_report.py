"""The study's report: statistics by hand, the same input the same bytes, words only over the numbers they speak of."""

import json
import math
import os
import random
import shutil
import subprocess
import sys

import pytest
from pairs import ROOT

from common import ToolError
from study import plan, tables
from study.command import main
from study.methods import METHODS, grid
from study.report import all_tables, answer_mark, read_study, write_report
from study.results import Results
from study.statistics import compare_repeated, difference, holm, over_seeds, seeds_for, seen_with
from study.texts import signed
from study.words.tables import read_words


SEEDS = range(5)
NO_WORDS = ROOT / "none"  # nothing was run in the world of words
GAINS = {"start": -10.0, "dpo": 0.0, "ln_dpo": 0.5, "simpo": -1.0, "ipo": 0.2, "mm_dpo": 0.1, "uni_dpo": 3.0}
BEST = {method: 5 for method in METHODS} | {"uni_dpo": 8}
MISSING, OTHER_WORDS = "(Not run.)", "(The findings in words were written for other raw results and are left out.)"


def test_the_shipped_report_is_that_of_the_shipped_results(tmp_path):
    shutil.copytree(ROOT / "data" / "study", tmp_path / "data" / "study")
    write_report(tmp_path / "data" / "study", ROOT / "data" / "study_words", tmp_path)
    for name in ("RESULTS.md", "RESULTS_zh.md"):
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes(), name


def test_interval_by_hand():
    """Values 1, 2, 3, 4, 5: deviation sqrt(2.5), t(0.975, 4) = 2.7764, half = 2.7764 * 1.5811 / 2.2361 = 1.9632."""
    it = over_seeds([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (it.mean, it.n, it.half) == (3.0, 5, pytest.approx(1.9632, abs=1e-4))
    assert (over_seeds([7.0]).half, over_seeds([7.0]).bar) == (math.inf, 0.0)
    with pytest.raises(ValueError):
        over_seeds([])


def test_difference_by_hand():
    """Differences 1, 2, 3 over shared seeds: t = 2 / (1 / sqrt(3)) = 3.4641, two-sided p with 2 degrees: 0.0742."""
    it = difference({0: 11.0, 1: 22.0, 2: 33.0, 9: 0.0}, {0: 10.0, 1: 20.0, 2: 30.0})
    assert (it.mean, it.n, it.p) == (2.0, 3, pytest.approx(0.0742, abs=1e-4))
    assert signed(it, it.p) == "+2.0 [-0.5, +4.5]"
    same = difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    assert (same.mean, same.half, same.p) == (0.0, 0.0, 1.0)
    constant = difference({0: 1.3, 1: 2.3, 2: 3.3}, {0: 1.0, 1: 2.0, 2: 3.0})
    assert constant.mean == pytest.approx(0.3) and constant.p == 1.0  # up to rounding the same on every seed
    assert signed(difference({0: 2.0}, {0: 1.0})) == "+1.0"


def test_power_by_hand():
    """Deviation 1 of 5 seeds: (2.7764 + 0.9410) / sqrt(5) = 1.6625; with 10: (2.2622 + 0.8834) / sqrt(10) = 0.9947."""
    assert over_seeds([1.0, 2.0, 3.0, 4.0, 5.0]).deviation == pytest.approx(2.5**0.5)
    assert seen_with(1.0, 5) == pytest.approx(1.6625, abs=1e-4)
    assert seen_with(1.0, 10) == pytest.approx(0.9947, abs=1e-4)
    assert (seeds_for(1.0, 1.0), seeds_for(0.0, 1.0)) == (10, 2)


def test_holm_by_hand():
    """Of 0.01, 0.04, 0.03: 3 * 0.01, then 2 * 0.03, then 0.04, which may not fall below the one before."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def scores_of(mean):
    scores = {name: mean for name in (*tables.BENCHMARKS, "mean")}
    return {"seconds": 1800, "vlmeval": scores, "test": {"quality": mean / 10, "accuracy": mean / 100}}


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """Made-up results of every experiment but the sweeps, in the form that runs leave."""
    folder = tmp_path_factory.mktemp("made up")
    results, rng = Results(folder / "cells"), random.Random(0)
    for (method, number), cells in plan.cells_of("tuning", METHODS, SEEDS).items():
        for cell in cells:
            results.add(cell, {"val": {"accuracy": 0.9 if number == BEST[method] else 0.8}})
    tuned = {method: grid(method)[BEST[method]] for method in METHODS}
    gains = {cell: gain for name, gain in GAINS.items() for cell in plan.cells_of("main", tuned, SEEDS)[name]}
    for experiment in ("main", "ablation", "published", "when", "labels", "rivals", "surface"):
        for cells in plan.cells_of(experiment, tuned, SEEDS).values():
            for cell in cells:
                if cell not in results:
                    results.add(cell, scores_of(80 + cell.seed + gains.get(cell, 1.0) + rng.random()))
    for name, measure in (
        ("data", {"data": {"labels": 0.8, "scores": 0.9, "pairs": 9}}),
        ("wider", {"val": {"accuracy": 0.7}}),
    ):
        for cells in plan.cells_of(name, tuned, SEEDS).values():
            for cell in cells:
                results.add(cell, measure)
    exams = {step: {"accuracy": 0.7 + step / 1000} for step in range(0, 5 * 60, 60)}
    log = [{"step": 15, "eval_loss": 1.0, "eval_logps/chosen": -1.0}, {"step": 30, "eval_loss": 0.5}]
    pairs = [{"spearman": 0.25, "w_perf_fitted": 0.125}]
    for cells in plan.cells_of("course", tuned, SEEDS).values():
        for cell in cells:
            results.add(cell, {"course": {"log": log, "exams": exams, "pairs": pairs}})
    results.gather(folder / "raw" / "raw.jsonl")
    about = {"cores": 2, "gpus": 0, "date": "2026-11-27", "versions": {"torch": "2.10.0", "trl": "0.24"}}
    about["earlier"] = [{"cells": 7, "date": "2026-11-01", "versions": {"torch": "2.9.0", "trl": "0.24"}}]
    (folder / "raw" / "about.json").write_text(json.dumps(about))
    return folder / "raw"


@pytest.fixture
def raw(made_up, tmp_path):
    return shutil.copytree(made_up, tmp_path / "raw")


def test_report_says_what_was_measured(raw, tmp_path):
    assert main(["report", "--raw", str(raw), "--out", str(tmp_path)]) == 0
    study = read_study(raw)
    assert [study.tuned[method] for method in METHODS] == [grid(method)[BEST[method]] for method in METHODS]
    text = (tmp_path / "RESULTS.md").read_text()
    values, dpo = study.values("main")["uni_dpo"], study.values("main")["dpo"]
    row = next(line for line in text.splitlines() if line.startswith("| uni_dpo |"))
    assert f"{sum(values.values()) / 5:.1f} ±" in row and signed(difference(values, dpo)) in row
    assert row.count("*") == 1 and "[" in row  # three points between seeds that differ by less than one
    others = {seed: value for seed, value in values.items() if seed not in (0, 1)}
    assert signed(difference(others, dpo)) in row
    assert text.count("**90.0**") == len(METHODS)
    assert "| scores of a model | 80 | 90 |" in text and "| labels 20 %, scores ± 12 | 80 | 90 | 5 | 8" in text
    assert "| dpo | 0.0001, 2 | 5e-05, 8 | 70.0 |" in text  # beyond an edge, and no better
    assert "| beta 2, no w_perf | 70.0 | 76.0 | 82.0 | 88.0 | 94.0 | 0.25 | 0.12 |" in text
    hours = 1800 * sum("vlmeval" in result for result in study.results.all()) / 3600
    assert (
        f"{hours:.1f} process-hours" in text
        and "5 seeds; 2026-11-27. Versions: torch 2.10.0, trl 0.24; 7 cells 2026-11-01: torch 2.9.0." in text
    )
    parts = [part for part in text.split("\n## ") if not part.startswith("A real language model")]  # as shipped
    assert [part.split("\n")[0] for part in parts if MISSING in part] == ["One option at a time"]
    assert "[raw/raw.jsonl](raw/raw.jsonl)" in text
    assert (tmp_path / "RESULTS_zh.md").read_text().count("\n## ") == text.count("\n## ")
    pictures = {path.name for path in (raw / "pictures").iterdir()}
    assert pictures == {"main.png", "ablation.png", "when.png", "surface.png", "course.png"}
    assert all(f"(raw/pictures/{name})" in text for name in pictures)


def test_a_row_compares_the_seeds_that_all_methods_have(raw):
    lost = read_study(raw).cells("rivals")["labels 20 %", "odpo"][4].key
    lines = (raw / "raw.jsonl").read_text().splitlines(keepends=True)
    (raw / "raw.jsonl").write_text("".join(line for line in lines if json.loads(line)["key"] != lost))
    study = read_study(raw)
    rows = {row[0]: row for row in tables.rivals(study)}
    assert rows["labels 20 %"][1] == "4" and rows["base"][1] == "5"
    dpo = study.values("rivals")["labels 20 %", "dpo"]
    assert rows["labels 20 %"][2].startswith(f"{sum(dpo[seed] for seed in range(4)) / 4:.1f} ±")


def keep_main(raw, *methods):
    """Leave nothing in the raw results but tuning and main of these methods; return the lines."""
    tuned = {method: grid(method)[BEST[method]] for method in methods}
    tables_of = [plan.cells_of(name, tuned, SEEDS) for name in ("tuning", "main")]
    found = Results(raw / "raw.jsonl").of(cell for table in tables_of for cells in table.values() for cell in cells)
    lines = [json.dumps(result) + "\n" for result in found]
    (raw / "raw.jsonl").write_text("".join(lines))
    return lines


def test_a_part_of_a_study_is_reported_too(raw, tmp_path):
    """Two methods, and nothing but tuning and main: no picture is promised that is not there."""
    lines = keep_main(raw, "dpo", "uni_dpo")
    write_report(raw, NO_WORDS, tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.count(MISSING) == 15 and "main.png" in text
    assert {path.name for path in (raw / "pictures").iterdir()} == {"main.png"}
    (raw / "raw.jsonl").write_text("".join(line for line in lines if json.loads(line)["measure"] == "val"))
    with pytest.raises(ToolError, match="no test of tuned Uni-DPO"):
        write_report(raw, NO_WORDS, tmp_path)


def test_the_same_results_give_the_same_report(raw, tmp_path):
    """In this process and in another one, pictures included."""
    before = {path: path.read_bytes() for path in write_report(raw, NO_WORDS, tmp_path)}
    command = [
        sys.executable,
        ROOT / "scripts" / "study.py",
        "report",
        "--raw",
        raw,
        "--words",
        NO_WORDS,
        "--out",
        tmp_path,
    ]
    subprocess.run([str(part) for part in command], check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert {path: path.read_bytes() for path in before} == before


def test_words_stand_over_their_own_numbers_only(raw, tmp_path, capsys):
    lines = keep_main(raw, "dpo", "uni_dpo")
    mark = answer_mark(all_tables(read_study(raw), read_words(NO_WORDS)))
    (raw / "answer.md").write_text(f"{mark}\nUni-DPO wins here.\n")
    write_report(raw, NO_WORDS, tmp_path)
    assert "Uni-DPO wins here." in (tmp_path / "RESULTS.md").read_text()
    (raw / "raw.jsonl").write_text("".join(lines[:-1]))
    write_report(raw, NO_WORDS, tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "wins here" not in text and OTHER_WORDS in text
    mark = answer_mark(all_tables(read_study(raw), read_words(NO_WORDS)))
    assert "answer.md is about other tables and left out; once it is right" in (said := capsys.readouterr().err)
    assert said.endswith(f"it begins: {mark}\n")


def test_a_run_that_diverged_counts_as_nothing_learned(raw):
    keep_main(raw, "dpo", "ipo", "uni_dpo")
    study = read_study(raw)
    cell = study.cells("main")["ipo"][0]
    study.results.path = raw
    study.results.add(cell, {"diverged": "Step 3: loss nan"})
    assert study.by_seed([cell]) == {0: 0.0}
    study.results.gather(raw / "raw.jsonl")
    write_report(raw, NO_WORDS, raw)
    said = f"1 runs ended in numbers that are not finite and count as 0: {cell.key}."
    assert said in (raw / "RESULTS.md").read_text()


def test_a_report_of_nothing_is_refused(tmp_path, capsys):
    assert main(["report", "--raw", str(tmp_path)]) == 2
    assert "raw.jsonl is not there" in capsys.readouterr().err
    (tmp_path / "raw.jsonl").write_text("[]\n")
    (tmp_path / "about.json").write_text("{}")
    assert main(["report", "--raw", str(tmp_path)]) == 2
    assert "raw.jsonl is damaged" in capsys.readouterr().err


def test_a_repeated_cell_is_compared(raw):
    values = read_study(raw).values("main")["uni_dpo"]
    mean = sum(values.values()) / 5
    text, inside = compare_repeated("uni_dpo", 2, mean, values)
    assert inside and text.endswith("inside") and f"same seed: {values[2]:.2f} %" in text
    for seed, value in values.items():  # single seeds scatter more than their mean: each again is inside
        assert compare_repeated("uni_dpo", seed, value, values)[1]
    text, inside = compare_repeated("uni_dpo", 7, mean + 6, values)
    assert not inside and text.endswith("OUTSIDE") and "same seed: not run" in text
    with pytest.raises(ToolError, match="0 seeds of uni_dpo"):
        compare_repeated("uni_dpo", 0, 1.0, {})
