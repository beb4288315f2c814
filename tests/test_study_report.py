"""The study's report: statistics by hand, the same input the same bytes, words only over the numbers they speak of."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from common import ToolError
from study import command as study_command
from study import plan, report, tables
from study.methods import METHODS, grid
from study.raw import Results
from study.repeating import compared
from study.statistics import difference, holm, over_seeds
from study.words import CHINESE, ENGLISH


ROOT = Path(__file__).resolve().parents[1]
SEEDS = range(5)
GAINS = {"start": -10.0, "dpo": 0.0, "ln_dpo": 0.5, "simpo": -1.0, "ipo": 0.2, "mm_dpo": 0.1, "uni_dpo": 3.0}
BEST = {method: 5 for method in METHODS} | {"uni_dpo": 8}


def test_interval_by_hand():
    """Values 1, 2, 3, 4, 5: deviation sqrt(2.5), t(0.975, 4) = 2.7764, half = 2.7764 * 1.5811 / 2.2361 = 1.9632."""
    estimate = over_seeds([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (estimate.mean, estimate.n) == (3.0, 5)
    assert estimate.half == pytest.approx(1.9632, abs=1e-4)
    assert over_seeds([7.0]).low == -float("inf")
    with pytest.raises(ValueError):
        over_seeds([])


def test_difference_by_hand():
    """Differences 1, 2, 3 over shared seeds: t = 2 / (1 / sqrt(3)) = 3.4641, two-sided p with 2 degrees: 0.0742."""
    estimate = difference({0: 11.0, 1: 22.0, 2: 33.0, 9: 0.0}, {0: 10.0, 1: 20.0, 2: 30.0})
    assert (estimate.mean, estimate.n) == (2.0, 3)
    assert estimate.p == pytest.approx(0.0742, abs=1e-4)
    assert not estimate.clear  # 2 +- 2.484
    same = difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    assert (same.mean, same.half, same.p) == (0.0, 0.0, 1.0)
    constant = difference({0: 1.3, 1: 2.3, 2: 3.3}, {0: 1.0, 1: 2.0, 2: 3.0})
    assert constant.mean == pytest.approx(0.3) and constant.p == 1.0  # up to rounding the same on every seed
    assert tables.signed(difference({0: 2.0}, {0: 1.0})) == "+1.0"


def test_holm_by_hand():
    """Of 0.01, 0.04, 0.03: 3 * 0.01, then 2 * 0.03, then 0.04, which may not fall below the one before."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@pytest.fixture
def raw(tmp_path):
    """Made-up results of every experiment but the sweeps, in the form that runs leave."""
    results, rng = Results(tmp_path / "cells"), random.Random(0)
    for (method, number), cells in plan.tuning(METHODS, SEEDS).items():
        for cell in cells:
            results.add(cell, {"val": {"accuracy": 0.9 if number == BEST[method] else 0.8}})
    tuned = {method: grid(method)[BEST[method]] for method in METHODS}
    gains = {cell: gain for name, gain in GAINS.items() for cell in plan.main(tuned, SEEDS)[name]}
    for experiment in (plan.main, plan.ablation, plan.published, plan.when, plan.labels):
        for cells in experiment(tuned, SEEDS).values():
            for cell in cells:
                if cell not in results:
                    results.add(cell, _tested(80 + cell.seed + gains.get(cell, 1.0) + rng.random()))
    for cells in plan.course(tuned, SEEDS).values():
        for cell in cells:
            results.add(cell, {"course": _course()})
    folder = tmp_path / "raw"
    results.gather(folder / "raw.jsonl")
    about = {"cores": 2, "gpus": 0, "date": "2026-11-27", "versions": {"torch": "2.10.0"}}
    (folder / "about.json").write_text(json.dumps(about))
    return folder


def _tested(mean):
    benchmarks = {name: mean for name in tables.BENCHMARKS}
    return {
        "seconds": 1800,
        "vlmeval": {**benchmarks, "mean": mean},
        "test": {"quality": mean / 10, "accuracy": mean / 100},
    }


def _course():
    exams = {step: {"accuracy": 0.7 + step / 1000} for step in range(0, 5 * 60, 60)}
    log = [{"step": 15, "eval_loss": 1.0, "eval_logps/chosen": -1.0}, {"step": 30, "eval_loss": 0.5}]
    return {"log": log, "exams": exams, "pairs": [{"spearman": 0.25, "w_perf_fitted": 0.125}]}


def test_report_says_what_was_measured(raw, tmp_path):
    assert study_command.main(["report", "--raw", str(raw), "--out", str(tmp_path)]) == 0
    study = report.read_study(raw)
    assert [study.tuned[method] for method in METHODS] == [grid(method)[BEST[method]] for method in METHODS]
    text = (tmp_path / "RESULTS.md").read_text()
    values = study.by_seed(plan.main(study.tuned, SEEDS)["uni_dpo"])
    row = next(line for line in text.splitlines() if line.startswith("| uni_dpo |"))
    assert f"{sum(values.values()) / 5:.1f} ±" in row
    assert tables.signed(difference(values, study.by_seed(plan.main(study.tuned, SEEDS)["dpo"]))) in row
    assert row.count("*") == 1 and "[" in row  # three points between seeds that differ by less than one
    others = {seed: value for seed, value in values.items() if seed not in (0, 1)}
    assert tables.signed(difference(others, study.by_seed(plan.main(study.tuned, SEEDS)["dpo"]))) in row
    assert "**90.0**" in text and text.count("**90.0**") == len(METHODS)
    assert "| beta 2, no w_perf | 70.0 | 76.0 | 82.0 | 88.0 | 94.0 | 0.25 | 0.12 |" in text
    hours = 1800 * sum("vlmeval" in result for result in study.results.all()) / 3600
    assert f"{hours:.1f} process-hours" in text and "5 seeds; 2026-11-27. Versions: torch 2.10.0." in text
    sections = text.split("\n## ")
    assert ENGLISH.missing in next(part for part in sections if part.startswith(ENGLISH.sweep))
    assert text.count(ENGLISH.missing) == 1
    assert "[raw/raw.jsonl](raw/raw.jsonl)" in text
    assert CHINESE.main in (tmp_path / "RESULTS_zh.md").read_text()
    pictures = {path.name for path in (raw / "pictures").iterdir()}
    assert pictures == {"main.png", "ablation.png", "when.png", "course.png"}
    assert all(f"({(raw / 'pictures').relative_to(tmp_path).as_posix()}/{name})" in text for name in pictures)


def test_a_part_of_a_study_is_reported_too(raw, tmp_path):
    """Two methods, and nothing but tuning and main: no picture is promised that is not there."""
    results = Results(raw / "raw.jsonl")
    two = {method: grid(method)[BEST[method]] for method in ("dpo", "uni_dpo")}
    cells = [*plan.tuning(two, SEEDS).values(), *plan.main(two, SEEDS).values()]
    keys = {cell.key for them in cells for cell in them}
    kept = [json.dumps(result) + "\n" for result in results.all() if result["key"] in keys]
    (raw / "raw.jsonl").write_text("".join(kept))
    report.write_report(raw, tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.count(ENGLISH.missing) == 6 and "main.png" in text
    assert {path.name for path in (raw / "pictures").iterdir()} == {"main.png"}
    (raw / "raw.jsonl").write_text("".join(line for line in kept if json.loads(line)["measure"] == "val"))
    with pytest.raises(ToolError, match="no test of tuned Uni-DPO"):
        report.write_report(raw, tmp_path)


def test_the_same_results_give_the_same_report(raw, tmp_path):
    written = report.write_report(raw, tmp_path)
    before = {path: path.read_bytes() for path in written}
    assert report.write_report(raw, tmp_path) == written
    assert {path: path.read_bytes() for path in written} == before
    command = [sys.executable, ROOT / "scripts" / "study.py", "report", "--raw", raw, "--out", tmp_path]
    subprocess.run([str(part) for part in command], check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert {path: path.read_bytes() for path in written} == before


def test_words_stand_over_their_own_numbers_only(raw, tmp_path):
    (raw / "answer.md").write_text(f"{report.answer_mark(raw)}\nUni-DPO wins here.\n")
    report.write_report(raw, tmp_path)
    assert "Uni-DPO wins here." in (tmp_path / "RESULTS.md").read_text()
    assert CHINESE.no_answer in (tmp_path / "RESULTS_zh.md").read_text()
    lines = (raw / "raw.jsonl").read_text().splitlines(keepends=True)
    (raw / "raw.jsonl").write_text("".join(lines[:-1]))
    report.write_report(raw, tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "wins here" not in text and ENGLISH.no_answer in text


def test_a_run_that_diverged_counts_as_nothing_learned(raw):
    study = report.read_study(raw)
    cell = plan.main(study.tuned, SEEDS)["ipo"][0]
    study.results.path = raw
    study.results.add(cell, {"diverged": "Step 3: loss nan"})
    assert study.by_seed([cell]) == {0: 0.0}
    study.results.gather(raw / "raw.jsonl")
    report.write_report(raw, raw)
    assert (
        f"1 runs ended in numbers that are not finite and count as 0: {cell.key}." in (raw / "RESULTS.md").read_text()
    )


def test_a_report_of_nothing_is_refused(tmp_path, capsys):
    assert study_command.main(["report", "--raw", str(tmp_path)]) == 2
    assert "raw.jsonl is not there" in capsys.readouterr().err
    (tmp_path / "raw.jsonl").write_text("[]\n")
    (tmp_path / "about.json").write_text("{}")
    assert study_command.main(["report", "--raw", str(tmp_path)]) == 2
    assert "raw.jsonl is damaged" in capsys.readouterr().err


def test_a_repeated_cell_is_compared(raw):
    study = report.read_study(raw)
    values = study.by_seed(plan.main(study.tuned, SEEDS)["uni_dpo"])
    mean = sum(values.values()) / 5
    text, inside = compared("uni_dpo", {"seed": 2, **_tested(mean)}, study.results, study.tuned)
    assert inside and text.endswith("inside") and f"same seed: {values[2]:.2f} %" in text
    for seed, value in values.items():  # single seeds scatter more than their mean: each again is inside
        assert compared("uni_dpo", {"seed": seed, **_tested(value)}, study.results, study.tuned)[1]
    text, inside = compared("uni_dpo", {"seed": 7, **_tested(mean + 6)}, study.results, study.tuned)
    assert not inside and text.endswith("OUTSIDE") and "same seed: not run" in text
    with pytest.raises(ToolError, match="0 seeds of uni_dpo"):
        compared("uni_dpo", {"seed": 0, **_tested(1)}, Results(raw / "none"), study.tuned)
