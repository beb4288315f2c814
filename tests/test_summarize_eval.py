"""The table of `summarize_eval.py` over what VLMEvalKit's own command left for the nine benchmarks."""

import csv
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from local_benchmarks import RIGHT, WRONG, mixed, run_vlmeval, write_predictions, write_tsvs
from scipy import stats

from summarize_eval.command import main
from summarize_eval.results import paired_difference
from summarize_eval.rules import NINE, POSTER
from summarize_eval.samples import Samples


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
def evaluated(tmp_path_factory):
    """WORK with four models on all sets, written by ms-vlmeval in --mode eval, and BROKEN with a model that fails.

    A category that VLMEvalKit's OCRBench does not know breaks its scoring; it exits 0 all the same.
    """
    root = tmp_path_factory.mktemp("nine")
    tables = write_tsvs(root / "data", ROWS)
    models = {"right": RIGHT, "wrong": WRONG, "half": mixed(0), "better": mixed(1, 0.8)}
    for model, rule in models.items():
        write_predictions(root / "work", model, tables, rule)
    write_predictions(root / "work", "bad", tables | {"OCRBench": tables["OCRBench"].assign(category="Odd")}, RIGHT)
    done = run_vlmeval(root / "data", root / "work", "--mode", "eval", "--model", *models, "bad", "--data", *SETS)
    assert done.returncode == 0, done.stderr[-2000:]
    (root / "broken").mkdir()
    (root / "work" / "bad").rename(root / "broken" / "bad")
    return root


@pytest.fixture(scope="module")
def scored(evaluated):
    return evaluated / "work"


@pytest.fixture
def half(scored, tmp_path):
    """A copy of one model's folder that a test may spoil, beside that of a better model."""
    for model in ("half", "better"):
        shutil.copytree(scored / model, tmp_path / "work" / model)
    return tmp_path / "work" / "half"


@pytest.fixture
def summarize(tmp_path, capsys):
    """Run the command in this process; return what it printed, and the entries of its table."""

    def run(*arguments, status=0, resamples="100"):
        words = [*map(str, arguments), "--out", str(tmp_path / "table"), "--resamples", resamples]
        returned = main(words)
        said = capsys.readouterr()
        assert returned == status, said.out + said.err
        content = json.loads((tmp_path / "table" / "table.json").read_text()) if status < 2 else {"results": []}
        found = {(entry["checkpoint"], entry["benchmark"]): entry for entry in content["results"]}
        return SimpleNamespace(out=said.out, err=said.err, found=found, folder=tmp_path / "table")

    return run


def test_every_number_is_vlmevalkits_own_in_four_forms(scored, summarize):
    """status.json holds what VLMEvalKit's scoring returned; our number comes from the metric file."""
    done = summarize(scored, "--paper", "--baseline", "half", "--seed", "3", resamples="2000")
    assert sorted(path.name for path in done.folder.iterdir()) == ["table.csv", "table.json", "table.md", "table.png"]
    assert (done.folder / "table.png").read_bytes().startswith(b"\x89PNG")
    lines = list(csv.DictReader((done.folder / "table.csv").open()))
    markdown = (done.folder / "table.md").read_text()
    assert len(done.found) == len(lines) == 4 * 11
    for line in lines:
        model, data = line["checkpoint"], line["benchmark"]
        metrics = json.loads((scored / model / "status.json").read_text())["datasets"][data]["metrics"]
        entry = done.found[model, data]
        assert entry["value"] == pytest.approx(own_number(data, metrics), abs=1e-9), (model, data)
        assert entry["questions"] == (ROWS if data != "MME" else 56), data
        assert float(line["value"]) == entry["value"]
        for text in (done.out, markdown):
            assert f"{entry['value']:.1f}" in next(row for row in text.splitlines() if re.match(rf"\W*{data}\b", row))
    for data in SETS:
        entry = done.found["better", data]
        assert entry["difference"] == pytest.approx(entry["value"] - done.found["half", data]["value"]), data
        assert entry["low"] <= entry["difference"] <= entry["high"] and entry["low"] < entry["high"]
        assert done.found["right", data]["low"] > 0 or data == "POPE"
    assert len({entry["value"] for (model, _), entry in done.found.items() if model == "half"}) > 5
    head = done.out.splitlines()[0].split()
    assert head[2] == "half" and head.count("half") == 4  # first, and in the head of each column of differences
    pope = next(row for row in markdown.splitlines() if row.startswith("| POPE"))
    assert "86.0" in pope and "~79.0" in pope
    assert "read off the poster's radar chart" in done.out and "!" not in done.out


def own_number(data, metrics):
    if data == "MME":
        return float(metrics["perception"]) + float(metrics["reasoning"])
    key, factor = OWN[data]
    return factor * float(metrics[key])


def test_right_and_wrong_answers_score_full_and_nothing(scored, summarize):
    """By hand: 24 OCRBench questions are 24 points; the annotators of TextVQA rows 7 to 23 disagree.

    Right against wrong is the whole scale, whichever questions are drawn.
    """
    found = summarize(scored / "right", scored / "wrong", "--baseline", "wrong").found
    full = dict.fromkeys(SETS, 100.0) | {"MME": 2800.0, "OCRBench": float(ROWS)}
    # n of 10 annotators agree: each of the n sees n-1 others, each of the rest sees n, three others make a full score.
    agreeing = [max(2, 10 - row) for row in range(ROWS)]
    full["TextVQA_VAL"] = 100 * np.mean([(n * min(1, (n - 1) / 3) + (10 - n) * min(1, n / 3)) / 10 for n in agreeing])
    # Every third answer is one letter too long: 1 - 1/10 of its letters, from row 10 on 1 - 1/11.
    late = sum(1 / (10 if row < 10 else 11) for row in range(0, ROWS, 3))
    full["InfoVQA_VAL"] = 100 * (ROWS - late) / ROWS
    for data in SETS:
        assert found["right", data]["value"] == pytest.approx(full[data]), data
        assert found["wrong", data]["value"] == 0.0 and "difference" not in found["wrong", data]
    mme = found["right", "MME"]
    assert (mme["low"], mme["difference"], mme["high"]) == (2800.0, 2800.0, 2800.0)


def test_missing_failed_and_unfinished_sets_are_named(evaluated, half, summarize):
    for path in half.glob("half_MME*"):
        path.unlink()
    status = half / "status.json"
    content = json.loads(status.read_text())
    del content["datasets"]["MME"]
    content["datasets"]["POPE"]["error_message"] = "out of memory\nmore"
    content["datasets"]["OCRBench"]["status"] = "infer"
    status.write_text(json.dumps(content))
    (half / "half_ChartQA_TEST_acc.csv").write_text('"split"\n"x"\n')
    done = summarize(half.parent, evaluated / "broken", "--baseline", "none", status=1)
    assert "half, MME: missing; was not evaluated" in done.out
    assert "half, POPE: failed; out of memory" in done.out
    assert 'half, OCRBench: unfinished; stopped in state "infer"' in done.out
    assert "half, ChartQA_TEST: failed" in done.out and "KeyError" in done.out
    assert "bad, OCRBench: failed; 'Odd'" in done.out  # by VLMEvalKit itself
    assert "value" not in done.found["half", "POPE"] and done.found["better", "POPE"]["value"] > 0
    assert done.found["half", "TextVQA_VAL"]["state"] == "scored"


def change(path, **columns):
    """Change columns of a table on the disk."""
    table = pd.read_excel(path, dtype=str, keep_default_na=False)
    table.assign(**columns).to_excel(path, index=False)
    return table


def test_results_of_earlier_answers_are_refused(half, summarize):
    """VLMEvalKit keeps MODEL_POPE_auxmatch.xlsx when the answers change, and scores that."""
    change(half / "half_POPE.xlsx", prediction="Yes")
    done = summarize(half, "--data", "POPE", status=1)
    assert "half_POPE_auxmatch.xlsx holds results of other answers than half_POPE.xlsx" in done.out
    assert "value" not in done.found["half", "POPE"]


def test_answers_that_pandas_reads_otherwise_are_no_others(half, summarize):
    """VLMEvalKit's own loop reads an answer "None" as nan and "007" as 7, and leaves that in its results."""
    for name, said in (("half_POPE.xlsx", ["None", "007"]), ("half_POPE_auxmatch.xlsx", ["nan", "7"])):
        change(half / name, prediction=lambda table, said=said: [*said, *table["prediction"][2:]])
    assert "holds results of other answers" not in summarize(half, "--data", "POPE").out


def test_a_judge_that_nobody_asked_for_is_marked(half, summarize):
    """As run.py leaves it without --judge, whether or not it reached one."""
    name = "half_SEEDBench_IMG_{}_result.xlsx"
    (half / name.format("exact_matching")).rename(half / name.format("gpt-4o-mini"))
    status = json.loads((half / "status.json").read_text())
    status["argv"] = [word for word in status["argv"] if word not in ("--judge", "exact_matching")]
    for entry in status["datasets"].values():
        entry["judge_model"] = "gpt-4o-mini"
    (half / "status.json").write_text(json.dumps(status))
    done = summarize(half, "--data", "SEEDBench_IMG", "MME", "ChartQA_TEST")
    assert done.out.count("the judge gpt-4o-mini was not asked for") == 2  # no judge reads open answers
    assert re.search(r"SEEDBench_IMG .* \?\n", done.out)
    (half / "status.json").unlink()  # VLMEvalKit of 2025 has none: the name of the file says it
    assert "gpt-4o-mini was not asked for" in summarize(half, "--data", "SEEDBench_IMG").out
    (half / "status.json").write_text(json.dumps(status | {"argv": ["run.py", "--judge", "gpt-4o-mini"]}))
    assert "not asked for" not in summarize(half, "--data", "SEEDBench_IMG").out


def test_intervals_need_single_results_that_give_the_headline(half, summarize):
    change(half / "half_ChartQA_TEST_results.xlsx", eval_match="[1.0]")
    done = summarize(half.parent, "--data", "ChartQA_TEST", "--baseline", "better")
    entry = done.found["half", "ChartQA_TEST"]
    assert 0 < entry["value"] < 100 and "difference" not in entry
    assert "half_ChartQA_TEST_results.xlsx gives 100, not" in done.out
    for path in [*half.parent.rglob("*.xlsx"), *half.parent.rglob("*.pkl"), *half.parent.rglob("status.json")]:
        path.unlink()  # the metric files alone stay
    done = summarize(half.parent)
    assert len(done.found) == 22 and "no interval" in done.out
    assert all("value" in entry and "low" not in entry for entry in done.found.values())


def test_answers_the_model_did_not_give_are_counted(half, summarize):
    """An exception in `generate` becomes this text, is scored as wrong, and the run exits 0."""
    for name in ("half_TextVQA_VAL_results.xlsx", "half_TextVQA_VAL.xlsx"):
        table = change(
            half / name,
            prediction=lambda table: table["prediction"].replace("something else", "Failed to obtain answer via API."),
        )
    wrong = (table["prediction"] == "something else").sum()
    done = summarize(half, "--data", "TextVQA_VAL", status=1)
    assert f"{wrong} of {ROWS} questions have no answer" in done.out


def test_questions_are_paired_in_any_order_and_others_are_not_compared(half, summarize):
    arguments = (half.parent, "--data", "SEEDBench_IMG", "--baseline", "better")
    before = summarize(*arguments).found["half", "SEEDBench_IMG"]
    path = half / "half_SEEDBench_IMG_exact_matching_result.xlsx"
    pd.read_excel(path).sample(frac=1, random_state=0).to_excel(path, index=False)
    assert summarize(*arguments).found["half", "SEEDBench_IMG"] == before and "difference" in before
    change(path, question=lambda table: table["question"] + " Or not?")
    done = summarize(*arguments)
    assert f"not the same questions: {ROWS} and {ROWS}, 0 in both" in done.out
    assert "difference" not in done.found["half", "SEEDBench_IMG"]


def test_layout_of_a_checkout_newest_run_first(half, summarize):
    """WORK/MODEL/T<time>: a later run that failed on a set hides the earlier number, which may be another model's."""
    old, new = half / "T20260801-100000", half / "T20260802-100000"
    shutil.rmtree(half / next(path.name for path in half.iterdir() if path.is_dir()))
    old.mkdir()
    for path in [path for path in half.iterdir() if path.is_file()]:
        path.rename(old / path.name)
    before = summarize(half).found
    assert len(before) == 11 and before["half", "MME"]["value"] > 0
    new.mkdir()
    entry = {"status": "done", "error_message": "no memory"}
    (new / "status.json").write_text(json.dumps({"model_name": "half", "datasets": {"MME": entry}}))
    done = summarize(half, status=1)
    assert "half, MME: failed; no memory" in done.out and done.found["half", "POPE"] == before["half", "POPE"]
    assert summarize(old).found["half", "MME"]["value"] == before["half", "MME"]["value"]


def test_layout_of_2025_with_links(half, summarize):
    """No status.json; the model's folder has links to the files of the newest run."""
    run = half / "T20250401_Gabcdef12"
    run.mkdir()
    for path in [path for path in half.iterdir() if path.is_file()]:
        path.rename(run / path.name)
        if path.name != "status.json":
            path.symlink_to(run / path.name)
    (run / "status.json").unlink()
    assert len(summarize(half).found) == 11


@pytest.mark.long  # VLMEvalKit's command once more
def test_json_and_tsv_instead_of_tables(tmp_path, summarize, monkeypatch):
    """PRED_FORMAT and EVAL_FORMAT change what VLMEvalKit writes, not what is read."""
    monkeypatch.setenv("PRED_FORMAT", "tsv")
    monkeypatch.setenv("EVAL_FORMAT", "json")
    write_predictions(tmp_path / "work", "m", write_tsvs(tmp_path / "data", 10), mixed(2))
    for path in (tmp_path / "work" / "m").glob("*.xlsx"):
        pd.read_excel(path).to_csv(path.with_suffix(".tsv"), sep="\t", index=False)
        path.unlink()
    done = run_vlmeval(tmp_path / "data", tmp_path / "work", "--mode", "eval", "--model", "m", "--data", *SETS)
    assert done.returncode == 0 and (tmp_path / "work" / "m" / "m_ChartQA_TEST_acc.json").is_file()
    assert all(it["questions"] and not it["note"] for it in summarize(tmp_path / "work").found.values())


def test_own_benchmarks_are_read_by_their_columns(half, summarize):
    """Names we do not know; one begins like another, and one has splits of which none is known as the headline."""
    for old, name in (("SEEDBench_IMG", "SEEDBench_IMG_mine"), ("TextVQA_VAL", "Mine"), ("MME", "MyMME")):
        for path in half.glob(f"half_{old}*"):
            shutil.copy(path, half / path.name.replace(old, name))
    rows = half / "half_SEEDBench_IMG_mine_exact_matching_result.xlsx"  # twice the rows, the same score, newer
    pd.concat([pd.read_excel(rows)] * 2).to_excel(rows, index=False)
    (half / "half_Two_acc.csv").write_text('"split","Overall"\n"a","0.5"\n"b","0.25"\n')
    (half / "half_Odd_score.csv").write_text('"this"\n"1"\n')
    (half / "half_Tongues_acc.csv").write_text('"split","Overall"\n"none","0.7"\n"none","0.3"\n')
    (half / "half_Share_acc.csv").write_text('"Average","Overall"\n"0.71","0.5333"\n')
    names = ["SEEDBench_IMG_mine", "SEEDBench_IMG", "Mine", "TextVQA_VAL", "MyMME", "MME", "Two", "Odd"]
    names += ["Tongues", "Share"]
    done = summarize(half, "--data", *names, status=1)
    found = {data: entry for (_, data), entry in done.found.items()}
    assert found["SEEDBench_IMG"]["questions"] == ROWS
    assert found["SEEDBench_IMG_mine"] == found["SEEDBench_IMG"] | {"benchmark": names[0], "questions": 2 * ROWS}
    assert found["Mine"] == found["TextVQA_VAL"] | {"benchmark": "Mine"}
    assert found["MyMME"] == found["MME"] | {"benchmark": "MyMME"}
    assert "Two: failed" in done.out and "splits a, b" in done.out
    assert "Odd: failed" in done.out and "no rule for Odd" in done.out
    assert "Tongues: failed" in done.out and "several rows of one split" in done.out
    assert "Share: failed" in done.out and "a share or per cent" in done.out


def test_labels(half, summarize):
    later = half.parent.parent / "later"
    shutil.copytree(half, later / "half")
    data = ("--data", "MME")
    assert {label for label, _ in summarize(half, later, *data).found} == {"work/half", "later/half"}
    assert summarize(f"start={half}", f"end={later}", *data).found["end", "MME"]["difference"] == 0.0
    assert "two checkpoints would be called a" in summarize(f"a={half}", f"a={later}", status=2).err
    assert "several models (better, half)" in summarize(f"a={half.parent}", status=2).err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is not a folder"),
        (["."], "holds no results of VLMEvalKit"),
        (["WORK", "--baseline", "best"], "none of the checkpoints found: better, half, right, wrong"),
        (["WORK", "--resamples", "1"], "too few"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(scored, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main([*(str(scored) if word == "WORK" else word for word in arguments), "--out", "table"]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1
    assert not (tmp_path / "table").exists()


def samples(scores):
    """Samples of a mean in per cent."""
    sums = np.stack([scores, np.ones(len(scores))], axis=1)
    keys = tuple(map(str, range(len(scores))))
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
