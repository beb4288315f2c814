"""The study: what is compared is fair, what is done is done once, and a small one runs from start to end."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml
from pairs import ROOT

import llamafactory.train.dpo  # noqa: F401  # with it come our options
from common import ToolError
from demo.generate import Answerer
from demo.pairs import Candidates, prompts, sample_candidates
from llamafactory.hparams import get_train_args
from study import plan
from study.command import main
from study.conditions import (
    CONDITIONS,
    SCORE_ERRORS,
    WRONG_LABELS,
    asked_of_model,
    dataset_name,
    quality_of,
    rows_of,
    surface_name,
)
from study.judge import ask_judge, fitted, train_judge
from study.methods import ABLATIONS, METHODS, SEE_SCORES, ablated, grid, told, wider, with_grid_point
from study.pool import Pool
from study.results import (
    Results,
    best_of_grid,
    definitions,
    locked,
    read_about,
    require_same,
    tuned_options,
    visible_gpus,
    write_about,
)
from study.seeds import RECIPE, shared_options


SEEDS = (0, 1, 2)
SUMS = ("dpo", "mm_dpo", "filtered", "odpo", "rpo", "robust_dpo", "wpo", "anchor", "mpo")
TUNED = {method: with_grid_point(method, 2e-4, 0.5) for method in METHODS}
CHECKPOINT = ROOT / "data" / "demo" / "checkpoint"


def test_every_method_has_the_same_grid():
    points = {method: [(it["learning_rate"], it["pref_beta"]) for it in grid(method)] for method in METHODS}
    assert len({tuple(rows) for rows in points.values()}) == 1
    assert len(set(points["dpo"])) == len(points["dpo"]) == 12
    assert grid("simpo")[-1]["simpo_gamma"] == 1.0  # published: beta 2.0, gamma 1.0


@pytest.mark.parametrize("name", [*METHODS, *ABLATIONS])
def test_llamafactory_takes_the_options(name, tiny_model, tmp_path):
    """What makes a method what it is has to arrive, and nothing else of Uni-DPO's."""
    options = TUNED[name] if name in METHODS else ablated(TUNED["uni_dpo"], name)
    shared = {**shared_options(tmp_path, "study_base"), "model_name_or_path": str(tiny_model)}
    if name == "simpo":
        del shared["uni_dpo_reference_cache"]
    given = {**yaml.safe_load(RECIPE.read_text()), **shared, "output_dir": str(tmp_path), "use_cpu": True, **options}
    *_, parsed, _ = get_train_args(given)
    assert parsed.uses_our_trainer and parsed.pref_beta == options["pref_beta"]
    assert parsed.takes_means == (name not in (*SUMS, "no LN", "no LN, beta / 10"))
    assert parsed.pref_loss_as_named == (name == "ipo")
    assert bool(parsed.pref_margin_scale) == (name == "mm_dpo")
    assert parsed.uni_dpo_perf_detached == (name == "w_perf detached")
    assert parsed.uses_scores == (name in ABLATIONS or (name in SEE_SCORES and name != "filtered"))
    assert parsed.pref_pair_weights == (name == "filtered") and parsed.pref_policy_weights == (name == "wpo")
    assert bool(parsed.pref_anchor) == (name == "anchor") and bool(parsed.pref_bco_weight) == (name == "mpo")


def test_conditions_change_what_their_names_say():
    """Answers to 240 questions, some right, some of another question, as a model might give them."""
    asked = prompts("train", 240, 0)
    texts = [question.answer for question, _ in asked]
    candidates = [
        Candidates(question, index, f"{index}.png", (question.answer, texts[index - 8], texts[index - 5], "red"))
        for question, index in asked
    ]
    base = rows_of(CONDITIONS["base"], candidates, "train 0")
    thought = {asked_of_model(row, side): float(len(row[side])) for row in base for side in ("chosen", "rejected")}
    rows = {name: rows_of(it, candidates, "train 0", thought) for name, it in CONDITIONS.items()}
    assert len(base) > 150 and rows["base"] == base

    def answers(name):
        return [(row["chosen"], row["rejected"]) for row in rows[name]]

    def scores(name):
        return [(row["score_chosen"], row["score_rejected"]) for row in rows[name]]

    for name in ("scores true", "scores scattered", "scores shuffled", "scores x 10", "scores / 10"):
        assert answers(name) == answers("base") and scores(name) != scores("base"), name
    assert set(scores("scores shuffled")) <= set(scores("base"))
    true = [(row["true_chosen"], row["true_rejected"]) for row in base]
    assert all(pair == pytest.approx(right, abs=1e-3) for pair, right in zip(scores("scores true"), true, strict=True))
    assert scores("scores x 10")[3] == pytest.approx([10 * score for score in scores("base")[3]])
    assert answers("labels 35 %, scores true") == answers("labels 35 %")
    for name in ("scores of a model", "labels 35 %, scores of a model"):
        assert answers(name) == answers(name.replace("scores of a model", "").strip(", ") or "base")
        assert scores(name) == [(len(chosen), len(rejected)) for chosen, rejected in answers(name)]
    wrong = {name: sum(row["label"] == "mislabelled" for row in them) / len(them) for name, them in rows.items()}
    assert wrong["labels 0 %"] < 0.05 < wrong["base"] < wrong["labels 20 %"] < wrong["labels 35 %"]
    assert wrong["labels 35 %"] > 0.2
    for name, share in (("easy 50 %", 0.5), ("easy 80 %", 0.8)):
        easy = [row for row in rows[name] if row["label"] == "easy"]
        assert len(easy) / len(base) == pytest.approx(share, abs=0.12)
        assert sum(row["true_rejected"] for row in easy) / len(easy) < 3
        assert all(a == b for a, b in zip(rows[name], base, strict=True) if a["label"] != "easy")
    assert all(
        row["weight"] == (row["score_chosen"] >= row["score_rejected"]) for them in rows.values() for row in them
    )
    assert {row["weight"] for row in rows["base"]} == {1.0}  # whose scores made the labels
    assert {row["weight"] for row in rows["labels 35 %, scores true"]} == {0.0, 1.0}
    quality = {name: quality_of(them) for name, them in rows.items()}
    for wrong_labels in WRONG_LABELS:  # the worse the scores, the less often they are right; labels stay as they are
        line = [quality[surface_name(wrong_labels, error)] for error in SCORE_ERRORS]
        assert line[0]["scores"] == 1.0 and 0.5 < line[-1]["scores"] < 0.8 and len({it["labels"] for it in line}) == 1
        assert sorted((it["scores"] for it in line), reverse=True) == [it["scores"] for it in line]
    labels = [quality[surface_name(wrong_labels, 0)]["labels"] for wrong_labels in WRONG_LABELS]
    assert 0.95 > labels[0] > 0.75 > labels[1] > 0.55
    assert rows_of(CONDITIONS["base"], candidates, "train 0") == base != rows_of(CONDITIONS["base"], candidates, "x")
    assert len({dataset_name(name) for name in CONDITIONS}) == len(CONDITIONS)
    assert dataset_name("labels 35 %, scores true") == "study_labels_35_scores_true"


def test_one_run_serves_every_experiment():
    def table(name):
        return plan.cells_of(name, TUNED, SEEDS)

    cells = {name: {cell for them in table(name).values() for cell in them} for name in plan.EXPERIMENTS}
    uni_dpo, dpo = (set(table("main")[name]) for name in ("uni_dpo", "dpo"))
    assert uni_dpo | dpo <= cells["main"] & cells["when"]
    assert uni_dpo <= cells["sweep"]  # the value that was tuned belongs to each sweep
    every = set().union(*cells.values())
    assert len({cell.key for cell in every}) == len(every)
    assert [len(next(iter(table(name).values()))) for name in ("tuning", "sweep", "main")] == [2, 3, 3]
    # DPO does not see scores, so conditions that change nothing else are one run for it, and another for Uni-DPO.
    when = table("when")
    assert when["scores shuffled", "dpo"] == when["base", "dpo"] != when["labels 20 %", "dpo"]
    assert when["labels 35 %, scores true", "dpo"] == when["labels 35 %", "dpo"]
    assert when["scores shuffled", "uni_dpo"] != when["base", "uni_dpo"]


def test_every_rival_is_in_every_condition():
    """And on the surface; one that sees no scores is one run for all of them, robust DPO is told of the noise."""
    rivals, surface = (plan.cells_of(name, TUNED, SEEDS) for name in ("rivals", "surface"))
    assert set(METHODS) == {*plan.RIVALS, *plan.COMPARED, "simpo", "ipo"}
    assert {method for _, method in rivals} == {"dpo", "uni_dpo", *plan.RIVALS}
    assert {name for name, _ in rivals} | {name for name, _ in surface} == set(CONDITIONS)
    assert rivals["base", "mm_dpo"] == plan.cells_of("main", TUNED, SEEDS)["mm_dpo"]
    assert rivals["base", "robust_dpo"] == plan.cells_of("main", TUNED, SEEDS)["robust_dpo"]
    for method in {method for _, method in surface}:
        runs = {tuple(surface[surface_name(0.2, error), method]) for error in SCORE_ERRORS}
        assert len(runs) == (len(SCORE_ERRORS) if method in SEE_SCORES else 1), method
    assert dict(surface[surface_name(0.35, 3.0), "robust_dpo"][0].options)["pref_flip_rate"] == 0.35
    assert told({"pref_flip_rate": 0.1}, 0.5)["pref_flip_rate"] < 0.5 and told({}, 0.3) == {}


def test_beyond_the_edges_of_the_grid(tmp_path):
    """Only for a method that was best there, once all of it is done, and only if it is better."""
    assert wider("dpo", with_grid_point("dpo", 1e-4, 0.5)) == []
    corner = wider("simpo", with_grid_point("simpo", 5e-5, 2.0))
    assert [(it["learning_rate"], it["pref_beta"], it["simpo_gamma"]) for it in corner] == [
        *((rate, 8.0, 4.0) for rate in (5e-5, 1e-4, 2e-4, 4e-4)),
        *((2.5e-5, beta, beta / 2) for beta in (0.1, 0.5, 2.0)),
    ]
    results = Results(tmp_path)
    decree(results, lambda _, number, seed: 0.5 + 0.1 * (number == 2))  # 5e-5 and 2.0: a corner
    best = best_of_grid(results, ["dpo"])
    beyond = list(plan.cells_of("wider", best, (0, 1)).values())
    assert len(beyond) == 7 and tuned_options(results, ["dpo"]) == best
    for number, cells in enumerate(beyond):
        assert tuned_options(results, ["dpo"]) == best  # not on a part of it
        for cell in cells:
            results.add(cell, {"val": {"accuracy": 0.7 if number == 3 else 0.55}})
    assert tuned_options(results, ["dpo"]) == {"dpo": with_grid_point("dpo", 4e-4, 8.0)}


def test_scores_of_a_model_get_the_scale_of_others():
    """Mean 2 and deviation 1 become mean 5 and deviation 3."""
    assert fitted({"a": 1.0, "b": 3.0}, [2.0, 8.0]) == {"a": 2.0, "b": 8.0}
    assert fitted({"a": 1.0, "b": 1.0}, [2.0, 8.0]) == {"a": 5.0, "b": 5.0}


def decree(results, accuracy, methods=("dpo",)):
    """Put validation accuracies there without a run."""
    for (method, number), cells in plan.cells_of("tuning", methods, (0, 1)).items():
        for cell in cells:
            results.add(cell, {"val": {"accuracy": accuracy(method, number, cell.seed)}})


def test_a_judge_is_trained_and_asked(tmp_path):
    """A LoRA of LlamaFactory's reward models, merged by its export, and asked by `data.py score`."""
    (tmp_path / "start").symlink_to(CHECKPOINT)
    answerer = Answerer(CHECKPOINT)
    train_judge(tmp_path, 0, 24, answerer, 4, 1.0)
    candidates = sample_candidates(answerer, tmp_path / "data", "train", 12, 4, 1.0, 7)
    scores = ask_judge(tmp_path, tmp_path / "data", candidates, "judge")
    rows = rows_of(CONDITIONS["scores of a model"], candidates, "judge", scores)
    given = rows_of(CONDITIONS["base"], candidates, "judge")
    assert rows and [row["chosen"] for row in rows] == [row["chosen"] for row in given]
    found, wanted = (
        [row[f"score_{side}"] for row in them for side in ("chosen", "rejected")] for them in (rows, given)
    )
    assert len(set(found)) > 5 and found != wanted
    assert sum(found) / len(found) == pytest.approx(sum(wanted) / len(wanted), abs=1e-3)


def test_the_best_point_is_taken_and_none_is_compared_on_fewer_seeds(tmp_path):
    """Point 3 is best on one seed, 7 on the mean of both."""
    results = Results(tmp_path)
    decree(results, lambda _, number, seed: {7: 0.7, 3: 0.9 - 0.5 * seed}.get(number, 0.6))
    assert tuned_options(results, ["dpo"]) == {"dpo": grid("dpo")[7]}
    with pytest.raises(ToolError, match="ipo has not been tuned: 12 points"):
        tuned_options(results, ["ipo"])
    path = tmp_path / f"{plan.cells_of('tuning', ['dpo'], (0, 1))['dpo', 4][1].key}.json"
    path.unlink()
    with pytest.raises(ToolError, match=r"tuning lacks seed 1 of \{.*'learning_rate': 0.0001"):
        tuned_options(Results(tmp_path), ["dpo"])
    path.write_text('{"key": ')
    with pytest.raises(ToolError, match=f"{path.name} is damaged"):
        Results(tmp_path)


def test_a_folder_belongs_to_one_study(tmp_path, tiny_model):
    shared = definitions("test", CHECKPOINT)
    for _ in range(2):
        write_about(tmp_path, shared, ())
    for other in (definitions("demo", CHECKPOINT), definitions("test", tiny_model)):
        with pytest.raises(ToolError, match="is of another (size|model) .*: give another folder"):
            write_about(tmp_path, other, ())
    about = read_about(tmp_path)
    assert about["earlier"] == []
    before = about | {"date": "2026-01-02", "versions": about["versions"] | {"torch": "1.0"}}
    (tmp_path / "about.json").write_text(json.dumps(before))
    write_about(tmp_path, shared, (), 5)
    assert read_about(tmp_path)["earlier"] == [{"cells": 5, "date": "2026-01-02", "versions": before["versions"]}]
    write_about(tmp_path, shared, (), 9)
    assert len(read_about(tmp_path)["earlier"]) == 1
    changed = shared | {"conditions": shared["conditions"] | {"base": "another"}}
    with pytest.raises(ToolError, match="has another condition of the name base"):
        write_about(tmp_path, changed, ())
    more = shared | {"conditions": shared["conditions"] | {"new": "one"}}
    write_about(tmp_path, more, ())  # results of the others stay what they are
    with locked(tmp_path), pytest.raises(ToolError, match="another study is at work"), locked(tmp_path):
        pass
    with pytest.raises(ToolError, match="has no model.safetensors"):
        definitions("test", tmp_path)


def test_the_shipped_results_can_be_repeated():
    """They belong to the settings of today; else `study.py repeat` would refuse them."""
    require_same(read_about(ROOT / "data" / "study"), definitions("demo", CHECKPOINT), "data/study")


@pytest.mark.parametrize("given, gpus", [("0,2", ("0", "2")), ("", ()), ("-1", ()), ("GPU-8a", ("GPU-8a",))])
def test_visible_gpus(given, gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_gpus() == gpus


def test_unknown_names_are_refused(capsys):
    for arguments in (["--methods", "ppo"], ["--experiments", "all"], ["--size", "huge"]):
        assert main(["run", *arguments, "--out", "nowhere"]) == 2
        assert f"there is no {arguments[0][2:].removesuffix('s')} {arguments[1]}" in capsys.readouterr().err


def study(out, *words):
    command = [sys.executable, ROOT / "scripts" / "study.py", *words, "--size", "test", "--out", out]
    return [str(word) for word in command]


@pytest.mark.long
def test_cells_are_done_once_and_one_that_fails_is_named(tmp_path):
    """By the study's own processes, on a seed that is as small as can be; the others of a failed cell are kept."""
    pool, out = Pool(tmp_path, plan.Size(8, 16, 8, 1, 4), CHECKPOINT, 1, ()), tmp_path / "cells"
    assert pool.prepare([0]) == [] and not pool.prepare([0])
    start, uni_dpo = plan.cell(0, {}, "val"), plan.cell(0, TUNED["uni_dpo"], "val")
    broken = plan.cell(0, {**TUNED["dpo"], "pref_loss": "nonsense"})
    failed = pool.run("some", [broken, start, uni_dpo], Results(out))
    assert len(failed) == 1 and broken.key in failed[0] and "nonsense" in failed[0]
    results = Results(out)
    assert start in results and uni_dpo in results and broken not in results
    for measured in results.of([start, uni_dpo]):
        assert 0.3 < measured["val"]["accuracy"] <= 1  # the demo checkpoint knows most answers
    assert results.of([uni_dpo])[0]["train"]["uni_dpo/w_qual"] > 0.5
    assert not list((tmp_path / "scratch").iterdir())  # trained models are not kept
    model, noisy = (plan.cell(0, {}, "data", name) for name in ("scores of a model", surface_name(0.35, 12.0)))
    assert pool.run("data", [model, noisy], results) == []
    for measured in results.of([model, noisy]):
        assert measured["data"]["pairs"] > 4 and all(0 <= measured["data"][it] <= 1 for it in ("labels", "scores"))
    kept = {path: path.stat().st_mtime_ns for path in [*out.iterdir(), *(tmp_path / "seeds").rglob("done")]}
    assert pool.prepare([0]) == pool.run("some", [start, uni_dpo], results) == []
    assert {path: path.stat().st_mtime_ns for path in kept} == kept and len(kept) == 4 + 5


# ---- a small study from start to end, which the long part runs ----


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small study of one seed, tuned by decree: killed in its first cell, and finished by the same command."""
    out = tmp_path_factory.mktemp("study with space")
    decree(Results(out / "cells"), lambda _, number, seed: 0.5 + 0.1 * (number == 4), ("dpo", "uni_dpo"))
    words = ["run", "--seeds", "1", "--methods", "dpo", "uni_dpo", "--experiments", "main", "course", "--jobs", "2"]
    killed = subprocess.Popen(study(out, *words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 600
    while not (out / "scratch").is_dir() or not list((out / "scratch").iterdir()):
        assert killed.poll() is None and time.monotonic() < limit
        time.sleep(0.05)
    workers = psutil.Process(killed.pid).children(recursive=True)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert workers and not alive
    made = [path for path in (out / "seeds").rglob("*") if path.suffix == ".safetensors" or path.name == "done"]
    before = {path: path.stat().st_mtime_ns for path in [*made, *(out / "cells").iterdir()]}
    done = subprocess.run(study(out, *words), capture_output=True, text=True, timeout=900)
    logs = "".join(log.read_text()[-3000:] for log in (out / "logs").glob("*.log"))
    assert done.returncode == 0, done.stderr + logs
    assert {path: path.stat().st_mtime_ns for path in before} == before and len(before) > 48
    return out, done.stdout


@pytest.mark.long
def test_a_small_study_runs(finished):
    out, said = finished
    results = Results(out / "cells")
    tuned = tuned_options(results, ["dpo", "uni_dpo"])
    start, dpo, uni_dpo = (results.of(cells)[0] for cells in plan.cells_of("main", tuned, [0]).values())
    assert "train" not in start and dpo["train"]["rewards/accuracies"] >= 0
    for result in (start, dpo, uni_dpo):
        assert set(result["vlmeval"]) == {"MCQ", "YesNo", "Short", "ChartQA", "mean"}
        assert 50 < result["vlmeval"]["mean"] <= 100  # the demo checkpoint knows most answers
    assert uni_dpo["train"]["uni_dpo/w_qual"] > 0.5
    for name, cells in plan.cells_of("course", tuned, [0]).items():
        course = results.of(cells)[0]["course"]
        assert len(course["exams"]) == plan.COURSE_EPOCHS + 1
        assert len(course["pairs"]) == (0 if name == "dpo" else plan.COURSE_EPOCHS)  # weights are Uni-DPO's alone
        assert all(-1 <= epoch["spearman"] <= 1 and 0 < epoch["w_perf_unfitted"] <= 1 for epoch in course["pairs"])
        assert any("eval_rewards/accuracies" in entry for entry in course["log"])
    assert f"{len(results)} cells are done" in said
    assert not list((out / "scratch").glob("*/model"))  # trained models are not kept


@pytest.mark.long
def test_a_cell_again_in_the_terminal(finished, capsys):
    """Gathered and repeated, the numbers are the same ones; raw results of another size are not compared with."""
    out, _ = finished
    raw = out / "raw"
    assert main(["gather", "--out", str(out), "--raw", str(raw)]) == 0
    results = Results(out / "cells")
    cells = plan.cells_of("main", tuned_options(results, ["dpo"]), [0, 1])["dpo"]
    first = results.of(cells)[0]
    results.path = raw / "second"
    results.add(cells[1], {name: first[name] for name in ("vlmeval", "test")} | {"seconds": 1})
    results.gather(raw / "raw.jsonl")
    command = study(out, "repeat", "dpo", "--raw", raw, "--jobs", "1")
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    mean = first["vlmeval"]["mean"]
    assert f"dpo, seed 0: {mean:.2f} %" in done.stdout and f"same seed: {mean:.2f} %" in done.stdout
    (again,) = [json.loads(path.read_text()) for path in (out / "repeated").iterdir()]
    assert {name: again[name] for name in ("vlmeval", "test", "train")} == {
        name: first[name] for name in ("vlmeval", "test", "train")
    }
    assert main(["repeat", "dpo", "--raw", str(raw), "--out", str(out / "other")]) == 2
    assert "another size (test, not demo)" in capsys.readouterr().err


def test_the_script_says_what_there_is():
    script = ROOT / "examples" / "uni_dpo" / "study.sh"
    said = subprocess.run(["bash", script, "--help"], capture_output=True, text=True, check=True).stdout
    assert {*plan.EXPERIMENTS, *METHODS} <= set(said.split())
