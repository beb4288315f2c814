"""The table of `summarize_eval.py` over what VLMEvalKit's own command left for the nine benchmarks."""

import contextlib
import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from local_benchmarks import RIGHT, WRONG, mixed, run_vlmeval, write_predictions, write_tsvs
from pairs import ROOT
from scipy import stats

from common import ToolError
from summarize_eval import command as summarize_eval
from summarize_eval.bootstrap import paired_difference
from summarize_eval.rules import NINE, POSTER
from summarize_eval.samples import Samples


SCRIPT = ROOT / "scripts" / "summarize_eval.py"
# Where VLMEvalKit's own summary keeps the headline, and the factor to the scale that papers print.
OWN = {
    "ChartQA_TEST": ("Overall", 1),
    "MMBench_DEV_CN": ("split=dev|Overall", 100),
    "MMBench_DEV_EN": ("split=dev|Overall", 100),
    "OCRBench": ("Final Score", 1),
    "POPE": ("split=Overall|Overall", 1),
    "ScienceQA_TEST": ("split=test|Overall", 100),
    "SEEDBench_IMG": ("split=none|Overall", 100),
    "TextVQA_VAL": ("Overall", 1),
    "InfoVQA_VAL": ("Overall", 1),
    "RealWorldQA": ("split=none|Overall", 100),
}
SETS = (*NINE, *POSTER)
ROWS = 24


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """WORK with four models on all sets, written by ms-vlmeval in --mode eval."""
    root = tmp_path_factory.mktemp("nine")
    tables = write_tsvs(root / "data", ROWS)
    models = {"right": RIGHT, "wrong": WRONG, "half": mixed(0), "better": mixed(1, 0.8)}
    for model, rule in models.items():
        write_predictions(root / "work", model, tables, rule)
    done = run_vlmeval(root / "data", root / "work", "--mode", "eval", "--model", *models, "--data", *SETS)
    assert done.returncode == 0, done.stderr[-2000:]
    return root / "work"


@pytest.fixture
def work(scored, tmp_path):
    """A copy that a test may spoil."""
    shutil.copytree(scored, tmp_path / "work")
    return tmp_path / "work"


def summarize(tmp_path, *arguments, status=0):
    """Run the command in this process; return what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        returned = summarize_eval.main([*map(str, arguments), "--out", str(tmp_path / "table")])
    assert returned == status, out.getvalue() + err.getvalue()
    return SimpleNamespace(stdout=out.getvalue(), stderr=err.getvalue())


def entries(tmp_path):
    content = json.loads((tmp_path / "table" / "table.json").read_text())
    return {(entry["checkpoint"], entry["benchmark"]): entry for entry in content["results"]}


def test_every_headline_number_is_vlmevalkits_own(scored, tmp_path):
    """status.json holds what VLMEvalKit's scoring returned; our number comes from the metric file."""
    summarize(tmp_path, scored)
    found = entries(tmp_path)
    assert len(found) == 4 * 11
    for (model, data), entry in found.items():
        metrics = json.loads((scored / model / "status.json").read_text())["datasets"][data]["metrics"]
        own = own_number(data, metrics)
        assert entry["value"] == pytest.approx(own, abs=1e-9), (model, data)
        assert entry["questions"] == (ROWS if data != "MME" else 56), data
    assert len({entry["value"] for (model, _), entry in found.items() if model == "half"}) > 5


def own_number(data, metrics):
    if data == "MME":
        return float(metrics["perception"]) + float(metrics["reasoning"])
    key, factor = OWN[data]
    return factor * float(metrics[key])


def test_right_and_wrong_answers_score_full_and_nothing(scored, tmp_path):
    """By hand: 24 OCRBench questions are 24 points; the annotators of TextVQA rows 7 to 23 disagree."""
    summarize(tmp_path, scored, "--baseline", "none")
    found = entries(tmp_path)
    full = dict.fromkeys(SETS, 100.0) | {"MME": 2800.0, "OCRBench": float(ROWS)}
    # n of 10 annotators agree: each of the n sees n-1 others, each of the rest sees n, three others make a full score.
    agreeing = [max(2, 10 - row) for row in range(ROWS)]
    full["TextVQA_VAL"] = 100 * np.mean([(n * min(1, (n - 1) / 3) + (10 - n) * min(1, n / 3)) / 10 for n in agreeing])
    # Every third answer is one letter too long: 1 - 1/10 of its letters, from row 10 on 1 - 1/11.
    late = sum(1 / (10 if row < 10 else 11) for row in range(0, ROWS, 3))
    full["InfoVQA_VAL"] = 100 * (ROWS - late) / ROWS
    for data in SETS:
        assert found["right", data]["value"] == pytest.approx(full[data]), data
        assert found["wrong", data]["value"] == 0.0
        assert "difference" not in found["right", data]


def test_differences_of_headlines_with_intervals_around_them(scored, tmp_path):
    """Right against wrong is the whole scale whichever questions are drawn; all sets have single results."""
    done = summarize(tmp_path, scored, "--baseline", "half", "--seed", "3")
    found = entries(tmp_path)
    for data in SETS:
        entry = found["better", data]
        assert entry["difference"] == pytest.approx(entry["value"] - found["half", data]["value"]), data
        assert entry["low"] <= entry["difference"] <= entry["high"]
        assert entry["low"] < entry["high"]
        assert found["right", data]["low"] > 0 or data == "POPE"
    assert "!" not in done.stdout
    head = done.stdout.splitlines()[0].split()
    assert head[2] == "half" and head.count("half") == 4  # first, and named in each column of differences
    summarize(tmp_path, scored, "--baseline", "wrong")
    entry = entries(tmp_path)["right", "MME"]
    assert (entry["low"], entry["difference"], entry["high"]) == (2800.0, 2800.0, 2800.0)


def test_four_forms_say_the_same(scored, tmp_path):
    done = summarize(tmp_path, scored, "--paper", "--baseline", "half")
    folder = tmp_path / "table"
    assert sorted(path.name for path in folder.iterdir()) == ["table.csv", "table.json", "table.md", "table.png"]
    assert (folder / "table.png").read_bytes().startswith(b"\x89PNG")
    lines = list(csv.DictReader((folder / "table.csv").open()))
    found = entries(tmp_path)
    markdown = (folder / "table.md").read_text()
    for line in lines:
        entry = found[line["checkpoint"], line["benchmark"]]
        assert float(line["value"]) == entry["value"]
        for text in (done.stdout, markdown):
            row = next(row for row in text.splitlines() if re.match(rf"\W*{line['benchmark']}\b", row))
            assert f"{entry['value']:.1f}" in row
    pope = next(row for row in markdown.splitlines() if row.startswith("| POPE"))
    assert "86.0" in pope and "~79.0" in pope
    assert "read off the poster's radar chart" in done.stdout


def test_missing_failed_and_unfinished_sets_are_named(work, tmp_path):
    for path in (work / "half").glob("half_MME*"):
        path.unlink()
    status = work / "half" / "status.json"
    content = json.loads(status.read_text())
    del content["datasets"]["MME"]
    content["datasets"]["POPE"]["error_message"] = "out of memory\nmore"
    content["datasets"]["OCRBench"]["status"] = "infer"
    status.write_text(json.dumps(content))
    (work / "half" / "half_ChartQA_TEST_acc.csv").write_text('"split"\n"x"\n')
    done = summarize(tmp_path, work, status=1)
    assert "half, MME: missing; was not evaluated" in done.stdout
    assert "half, POPE: failed; out of memory" in done.stdout
    assert 'half, OCRBench: unfinished; stopped in state "infer"' in done.stdout
    assert "half, ChartQA_TEST: failed" in done.stdout and "KeyError" in done.stdout
    found = entries(tmp_path)
    assert "value" not in found["half", "POPE"]
    assert found["better", "POPE"]["value"] > 0
    assert found["half", "TextVQA_VAL"]["state"] == "scored"


def test_a_set_that_fails_inside_vlmevalkit_is_named(tmp_path):
    """A category that VLMEvalKit's OCRBench does not know breaks its scoring; it exits 0 all the same."""
    tables = write_tsvs(tmp_path / "data", 10)
    chosen = {"OCRBench": tables["OCRBench"].assign(category="Nonsense"), "POPE": tables["POPE"]}
    chosen["OCRBench"].to_csv(tmp_path / "data" / "OCRBench.tsv", sep="\t", index=False)
    write_predictions(tmp_path / "work", "m", chosen, RIGHT)
    done = run_vlmeval(tmp_path / "data", tmp_path / "work", "--mode", "eval", "--model", "m", "--data", *chosen)
    assert done.returncode == 0
    done = summarize(tmp_path, tmp_path / "work", "--data", "OCRBench", "POPE", status=1)
    assert "m, OCRBench: failed; 'Nonsense'" in done.stdout
    assert "100.0" in done.stdout


def test_results_of_earlier_answers_are_refused(work, tmp_path):
    """VLMEvalKit keeps MODEL_POPE_auxmatch.xlsx when the answers change, and scores that."""
    predictions = work / "half" / "half_POPE.xlsx"
    table = pd.read_excel(predictions)
    table["prediction"] = "Yes"
    table.to_excel(predictions, index=False)
    done = summarize(tmp_path, work, "--data", "POPE", status=1)
    assert "half_POPE_auxmatch.xlsx holds results of other answers than half_POPE.xlsx" in done.stdout
    assert "value" not in entries(tmp_path)["half", "POPE"]


def test_answers_that_pandas_reads_otherwise_are_no_others(work, tmp_path):
    """VLMEvalKit's own loop reads an answer "None" as nan and "007" as 7, and leaves that in its results."""
    for name, said in (("half_POPE.xlsx", ["None", "007"]), ("half_POPE_auxmatch.xlsx", ["nan", "7"])):
        table = pd.read_excel(work / "half" / name, dtype=str, keep_default_na=False)
        table["prediction"] = [*said, *table["prediction"][2:]]
        table.to_excel(work / "half" / name, index=False)
    done = summarize(tmp_path, work, "--data", "POPE", "--baseline", "none")
    assert "holds results of other answers" not in done.stdout


def test_a_judge_that_nobody_asked_for_is_marked(work, tmp_path):
    """As run.py leaves it without --judge, whether or not it reached one."""
    half = work / "half"
    name = "half_SEEDBench_IMG_{}_result.xlsx"
    (half / name.format("exact_matching")).rename(half / name.format("gpt-4o-mini"))
    status = json.loads((half / "status.json").read_text())
    status["argv"] = [word for word in status["argv"] if word not in ("--judge", "exact_matching")]
    for entry in status["datasets"].values():
        entry["judge_model"] = "gpt-4o-mini"
    (half / "status.json").write_text(json.dumps(status))
    done = summarize(tmp_path, half, "--data", "SEEDBench_IMG", "MME", "ChartQA_TEST")
    assert done.stdout.count("the judge gpt-4o-mini was not asked for") == 2  # no judge reads open answers
    assert re.search(r"SEEDBench_IMG .* \?\n", done.stdout)
    (half / "status.json").unlink()  # VLMEvalKit of 2025 has none: the name of the file tells
    assert "gpt-4o-mini was not asked for" in summarize(tmp_path, half, "--data", "SEEDBench_IMG").stdout
    (half / "status.json").write_text(json.dumps(status | {"argv": ["run.py", "--judge", "gpt-4o-mini"]}))
    assert "not asked for" not in summarize(tmp_path, half, "--data", "SEEDBench_IMG").stdout


def test_single_results_that_do_not_give_the_headline_give_no_interval(work, tmp_path):
    path = work / "half" / "half_ChartQA_TEST_results.xlsx"
    pd.read_excel(path).assign(eval_match="[1.0]").to_excel(path, index=False)
    done = summarize(tmp_path, work, "--data", "ChartQA_TEST", "--baseline", "better")
    entry = entries(tmp_path)["half", "ChartQA_TEST"]
    assert 0 < entry["value"] < 100 and "difference" not in entry
    assert "half_ChartQA_TEST_results.xlsx gives 100, not" in done.stdout


def test_answers_the_model_did_not_give_are_counted(work, tmp_path):
    """An exception in `generate` becomes this text, is scored as wrong, and the run exits 0."""
    for name in ("half_TextVQA_VAL_results.xlsx", "half_TextVQA_VAL.xlsx"):
        table = pd.read_excel(work / "half" / name)
        wrong = table["prediction"] == "something else"
        table.loc[wrong, "prediction"] = "Failed to obtain answer via API."
        table.to_excel(work / "half" / name, index=False)
    done = summarize(tmp_path, work, "--data", "TextVQA_VAL", status=1)
    assert f"{wrong.sum()} of {ROWS} questions have no answer" in done.stdout


def test_metric_files_alone_give_numbers_without_intervals(work, tmp_path):
    for path in [*work.rglob("*.xlsx"), *work.rglob("*.pkl"), *work.rglob("status.json")]:
        path.unlink()
    done = summarize(tmp_path, work)
    assert all("value" in entry and "low" not in entry for entry in entries(tmp_path).values())
    assert "no interval" in done.stdout


def test_other_questions_are_not_compared(work, tmp_path):
    path = work / "half" / "half_SEEDBench_IMG_exact_matching_result.xlsx"
    table = pd.read_excel(path)
    table["question"] += " Or not?"
    table.to_excel(path, index=False)
    done = summarize(tmp_path, work, "--data", "SEEDBench_IMG", "--baseline", "better")
    assert f"not the same questions: {ROWS} and {ROWS}, 0 in both" in done.stdout
    assert "difference" not in entries(tmp_path)["half", "SEEDBench_IMG"]
    assert "difference" in entries(tmp_path)["right", "SEEDBench_IMG"]


def test_rows_in_another_order_are_paired_all_the_same(work, tmp_path):
    arguments = (work, "--data", "SEEDBench_IMG", "--baseline", "better")
    summarize(tmp_path, *arguments)
    before = entries(tmp_path)["half", "SEEDBench_IMG"]
    path = work / "half" / "half_SEEDBench_IMG_exact_matching_result.xlsx"
    pd.read_excel(path).sample(frac=1, random_state=0).to_excel(path, index=False)
    summarize(tmp_path, *arguments)
    assert entries(tmp_path)["half", "SEEDBench_IMG"] == before


def test_layout_of_a_checkout_newest_run_first(work, tmp_path):
    """WORK/MODEL/T<time>: a later run that failed on a set hides the earlier number, which may be another model's."""
    model = work / "half"
    old, new = model / "T20260801-100000", model / "T20260802-100000"
    shutil.rmtree(model / next(path.name for path in model.iterdir() if path.is_dir()))
    old.mkdir()
    for path in [path for path in model.iterdir() if path.is_file()]:
        path.rename(old / path.name)
    summarize(tmp_path, model)
    before = entries(tmp_path)
    assert len(before) == 11 and before["half", "MME"]["value"] > 0

    new.mkdir()
    entry = {"status": "done", "error_message": "no memory"}
    (new / "status.json").write_text(json.dumps({"model_name": "half", "datasets": {"MME": entry}}))
    done = summarize(tmp_path, work / "half", status=1)
    assert "half, MME: failed; no memory" in done.stdout
    assert entries(tmp_path)["half", "POPE"] == before["half", "POPE"]
    summarize(tmp_path, old)
    assert entries(tmp_path)["half", "MME"]["value"] == before["half", "MME"]["value"]


def test_layout_of_2025_with_links(work, tmp_path):
    """No status.json; the model's folder has links to the files of the newest run."""
    model = work / "half"
    run = model / "T20250401_Gabcdef12"
    run.mkdir()
    for path in [path for path in model.iterdir() if path.is_file()]:
        path.rename(run / path.name)
        if path.name != "status.json":
            path.symlink_to(run / path.name)
    (run / "status.json").unlink()
    summarize(tmp_path, model)
    assert len(entries(tmp_path)) == 11


def test_json_and_tsv_instead_of_tables(tmp_path, monkeypatch):
    """PRED_FORMAT and EVAL_FORMAT change what VLMEvalKit writes, not what is read."""
    monkeypatch.setenv("PRED_FORMAT", "tsv")
    monkeypatch.setenv("EVAL_FORMAT", "json")
    tables = write_tsvs(tmp_path / "data", 10)
    write_predictions(tmp_path / "work", "m", tables, mixed(2))
    for path in (tmp_path / "work" / "m").glob("*.xlsx"):
        pd.read_excel(path).to_csv(path.with_suffix(".tsv"), sep="\t", index=False)
        path.unlink()
    arguments = ("--mode", "eval", "--model", "m", "--data", *SETS)
    assert run_vlmeval(tmp_path / "data", tmp_path / "work", *arguments).returncode == 0
    assert (tmp_path / "work" / "m" / "m_ChartQA_TEST_acc.json").is_file()
    summarize(tmp_path, tmp_path / "work")
    assert all(entry["questions"] and not entry["note"] for entry in entries(tmp_path).values())


def test_own_benchmarks_are_read_by_their_looks(work, tmp_path):
    """Names we do not know; one begins like another, and one has splits of which none is known as the headline."""
    half = work / "half"
    for path in half.glob("half_SEEDBench_IMG*"):
        shutil.copy(path, half / path.name.replace("SEEDBench_IMG", "SEEDBench_IMG_mine"))
    rows = half / "half_SEEDBench_IMG_mine_exact_matching_result.xlsx"  # twice the rows, the same score, newer
    pd.concat([pd.read_excel(rows)] * 2).to_excel(rows, index=False)
    for path in half.glob("half_TextVQA_VAL*"):
        shutil.copy(path, half / path.name.replace("TextVQA_VAL", "Mine"))
    (half / "half_Two_acc.csv").write_text('"split","Overall"\n"a","0.5"\n"b","0.25"\n')
    (half / "half_Odd_score.csv").write_text('"this"\n"1"\n')
    names = ["SEEDBench_IMG_mine", "SEEDBench_IMG", "Mine", "TextVQA_VAL", "Two", "Odd"]
    done = summarize(tmp_path, half, "--data", *names, status=1)
    found = {data: entry for (_, data), entry in entries(tmp_path).items()}
    assert found["SEEDBench_IMG"]["questions"] == ROWS
    assert found["SEEDBench_IMG_mine"] == found["SEEDBench_IMG"] | {"benchmark": names[0], "questions": 2 * ROWS}
    assert found["Mine"] == found["TextVQA_VAL"] | {"benchmark": "Mine"}
    assert "Two: failed" in done.stdout and "splits a, b" in done.stdout
    assert "Odd: failed" in done.stdout and "no rule for Odd" in done.stdout


def test_labels(work, tmp_path):
    shutil.copytree(work / "half", tmp_path / "later" / "half")
    summarize(tmp_path, work / "half", tmp_path / "later")
    assert {label for label, _ in entries(tmp_path)} == {"work/half", "later/half"}
    summarize(tmp_path, f"start={work / 'half'}", f"end={tmp_path / 'later'}")
    assert entries(tmp_path)["end", "MME"]["difference"] == 0.0
    done = summarize(tmp_path, f"a={work / 'half'}", f"a={tmp_path / 'later'}", status=2)
    assert "two checkpoints would be called a" in done.stderr
    done = summarize(tmp_path, f"a={work}", status=2)
    assert "several models (better, half, right, wrong)" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is not a folder"),
        (["."], "holds no results of VLMEvalKit"),
        (["WORK", "--baseline", "best"], "none of the checkpoints found: better, half, right, wrong"),
        (["WORK", "--resamples", "1"], "too few"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(scored, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = summarize(tmp_path, *[str(scored) if word == "WORK" else word for word in arguments], status=2)
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "table").exists()


def samples(scores, keys=None):
    """Samples of a mean in per cent."""
    scores = np.asarray(scores, float)
    sums = np.stack([scores, np.ones(len(scores))], axis=1)
    keys = tuple(keys or map(str, range(len(scores))))
    return Samples(keys, np.zeros(len(scores), int), sums, lambda t: 100 * t[..., 0, 0] / t[..., 0, 1], len(scores), 0)


def test_bootstrap_agrees_with_scipy():
    """The same data through SciPy's paired percentile bootstrap: ends within what 20,000 resamples vary."""
    rng = np.random.default_rng(5)
    before = (rng.random(200) < 0.5).astype(float)
    after = np.where(rng.random(200) < 0.3, rng.random(200) < 0.8, before).astype(float)
    ours = paired_difference(samples(before), samples(after), 20_000)
    theirs = stats.bootstrap(
        (before, after),
        lambda a, b, axis: 100 * (b.mean(axis) - a.mean(axis)),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        rng=1,
    ).confidence_interval
    assert ours.value == pytest.approx(100 * (after.mean() - before.mean()))
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.6)


def test_bootstrap_covers_the_truth():
    """Two models that are equally good: of 300 intervals of 95 %, about 285 hold zero (sd 3.8)."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        skill = rng.random(150)
        before, after = (samples(rng.random(150) < skill) for _ in range(2))
        change = paired_difference(before, after, 400)
        held += not change.clear
    assert 270 <= held <= 297


def test_pairing_narrows_the_interval():
    """Two models that fail on the same questions differ less by luck than their scores suggest."""
    before = np.tile([0.0, 1.0], 100)
    after = before.copy()
    after[:6] = 1.0
    paired = paired_difference(samples(before), samples(after), 2000)
    shuffled = paired_difference(samples(before), samples(np.random.default_rng(0).permutation(after)), 2000)
    assert paired.high - paired.low < (shuffled.high - shuffled.low) / 3


def test_bootstrap_refuses_other_questions():
    with pytest.raises(ToolError, match="3 and 2, 1 in both"):
        paired_difference(samples([1, 0, 1]), samples([1, 1], keys=["2", "7"]))


def test_help_teaches(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, cwd=Path("/"))
    assert done.returncode == 0
    assert "Exit status" in done.stdout and "start=eval/a" in done.stdout
