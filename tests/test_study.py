"""The study: what is compared is fair, what is done is done once, and a small one runs from start to end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

import llamafactory.train.dpo  # noqa: F401  # with it come our options
from common import ToolError
from demo.pairs import Candidates, prompts
from llamafactory.hparams import get_train_args
from study import command as study_command
from study import place, plan
from study.conditions import CONDITIONS, dataset_name, rows_of
from study.methods import ABLATIONS, METHODS, ablated, grid, uses_reference, with_grid_point
from study.pool import Pool
from study.raw import Results
from study.seeds import RECIPE, shared_options
from study.tuning import tuned_options


ROOT = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2)
TUNED = {method: with_grid_point(method, 2e-4, 0.5) for method in METHODS}


@pytest.fixture(scope="module")
def candidates():
    """Answers to 240 questions, some right, some of another question, as a model might give them."""
    asked = prompts("train", 240, 0)
    texts = [question.answer for question, _ in asked]
    return [
        Candidates(
            question, index, f"images/{index}.png", (question.answer, texts[index - 8], texts[index - 5], "red")
        )
        for question, index in asked
    ]


def test_every_method_has_the_same_grid():
    points = {method: [(it["learning_rate"], it["pref_beta"]) for it in grid(method)] for method in METHODS}
    assert len({tuple(rows) for rows in points.values()}) == 1
    assert len(set(points["dpo"])) == len(points["dpo"]) == 12
    assert grid("simpo")[-1]["simpo_gamma"] == 1.0  # published: beta 2.0, gamma 1.0


@pytest.mark.parametrize("name", [*METHODS, *ABLATIONS])
def test_llamafactory_takes_the_options(name, tiny_model, tmp_path):
    options = TUNED[name] if name in METHODS else ablated(TUNED["uni_dpo"], name)
    shared = {**shared_options(tmp_path, "study_base"), "model_name_or_path": str(tiny_model)}
    if not uses_reference(options):
        del shared["uni_dpo_reference_cache"]
    given = {**yaml.safe_load(RECIPE.read_text()), **shared, "output_dir": str(tmp_path), "use_cpu": True, **options}
    *_, parsed, _ = get_train_args(given)
    assert parsed.uses_our_trainer
    assert parsed.pref_beta == options["pref_beta"]
    # What makes a method what it is has to arrive, and nothing else of Uni-DPO's.
    assert parsed.takes_means == (name not in ("dpo", "mm_dpo", "no LN", "no LN, beta / 10"))
    assert parsed.pref_loss_as_named == (name == "ipo")
    assert bool(parsed.pref_margin_scale) == (name == "mm_dpo")
    assert parsed.uni_dpo_perf_detached == (name == "w_perf detached")


def test_data_set_names_differ():
    assert len({dataset_name(name) for name in CONDITIONS}) == len(CONDITIONS)
    assert dataset_name("labels 35 %, scores true") == "study_labels_35_scores_true"


def test_conditions_change_what_their_names_say(candidates):
    rows = {name: rows_of(condition, candidates, "train 0") for name, condition in CONDITIONS.items()}
    base = rows["base"]
    assert len(base) > 150

    def answers(name):
        return [(row["chosen"], row["rejected"]) for row in rows[name]]

    def scores(name):
        return [(row["score_chosen"], row["score_rejected"]) for row in rows[name]]

    for name in ("scores true", "scores scattered", "scores shuffled", "scores x 10", "scores / 10"):
        assert answers(name) == answers("base"), name
        assert scores(name) != scores("base"), name
    assert set(scores("scores shuffled")) <= set(scores("base"))
    true = [(row["true_chosen"], row["true_rejected"]) for row in base]
    assert all(pair == pytest.approx(told, abs=1e-3) for pair, told in zip(scores("scores true"), true, strict=True))
    assert scores("scores x 10")[3] == pytest.approx([10 * score for score in scores("base")[3]])
    assert answers("labels 35 %, scores true") == answers("labels 35 %")

    def reversed_share(name):
        return sum(row["label"] == "mislabelled" for row in rows[name]) / len(rows[name])

    shares = [reversed_share(name) for name in ("labels 0 %", "base", "labels 20 %", "labels 35 %")]
    assert shares == sorted(shares) and shares[0] < 0.05 < 0.2 < shares[-1]
    for name, share in (("easy 50 %", 0.5), ("easy 80 %", 0.8)):
        easy = [row for row in rows[name] if row["label"] == "easy"]
        assert len(easy) / len(base) == pytest.approx(share, abs=0.12)
        assert sum(row["true_rejected"] for row in easy) / len(easy) < 3
        kept = [(a, b) for a, b in zip(rows[name], base, strict=True) if a["label"] != "easy"]
        assert all(a == b for a, b in kept)
    assert rows_of(CONDITIONS["base"], candidates, "train 0") == base
    assert rows_of(CONDITIONS["base"], candidates, "train 1") != base


def test_one_run_serves_every_experiment():
    cells = {
        name: {cell for cells in experiment(TUNED, SEEDS).values() for cell in cells}
        for name, experiment in plan.AFTER_TUNING.items()
    }
    uni_dpo, dpo = (set(plan.main(TUNED, SEEDS)[name]) for name in ("uni_dpo", "dpo"))
    assert uni_dpo | dpo <= cells["main"] & cells["when"]
    assert uni_dpo & cells["sweep"] == uni_dpo  # three seeds: the value that was tuned belongs to each sweep
    assert len({cell.key for them in cells.values() for cell in them}) == len(set().union(*cells.values()))
    # DPO does not see scores, so conditions that change nothing else are one run for it, and another for Uni-DPO.
    table = plan.when(TUNED, SEEDS)
    assert table["scores shuffled", "dpo"] == table["base", "dpo"] != table["labels 20 %", "dpo"]
    assert table["labels 35 %, scores true", "dpo"] == table["labels 35 %", "dpo"]
    assert table["scores shuffled", "uni_dpo"] != table["base", "uni_dpo"]


def _tuned_by_decree(results, accuracies, methods=("dpo",), seeds=(0, 1)):
    for (method, number), cells in plan.tuning(methods, seeds).items():
        for cell in cells:
            results.add(cell, {"val": {"accuracy": accuracies(method, number, cell.seed)}})


def test_the_best_point_is_taken(tmp_path):
    """Point 3 is best on one seed, 7 on the mean of both."""
    results = Results(tmp_path)
    _tuned_by_decree(results, lambda _, number, seed: {7: 0.7, 3: 0.9 - 0.5 * seed}.get(number, 0.6))
    assert tuned_options(results, ["dpo"]) == {"dpo": grid("dpo")[7]}


def test_a_point_that_lacks_a_seed_is_not_compared(tmp_path):
    results = Results(tmp_path)
    _tuned_by_decree(results, lambda *_: 0.5)
    (tmp_path / f"{plan.tuning(['dpo'], (0, 1))['dpo', 4][1].key}.json").unlink()
    with pytest.raises(ToolError, match=r"tuning lacks seed 1 of \{.*'learning_rate': 0.0001"):
        tuned_options(Results(tmp_path), ["dpo"])


def test_a_folder_belongs_to_one_study(tmp_path, tiny_model):
    checkpoint = ROOT / "data" / "demo" / "checkpoint"
    shared = place.definitions("test", checkpoint)
    place.note(tmp_path, shared, ())
    place.note(tmp_path, shared, ())
    for other in (
        place.definitions("demo", ROOT / "data" / "demo" / "checkpoint"),
        place.definitions("test", tiny_model),
    ):
        with pytest.raises(ToolError, match="is of another (size|model) .*: give another folder"):
            place.note(tmp_path, other, ())
    with place.alone(tmp_path), pytest.raises(ToolError, match="another study is at work"), place.alone(tmp_path):
        pass
    with pytest.raises(ToolError, match="has no model.safetensors"):
        place.definitions("test", tmp_path)


@pytest.mark.parametrize("given, gpus", [("0,2", ("0", "2")), ("", ()), ("-1", ()), ("GPU-8a", ("GPU-8a",))])
def test_visible_gpus(given, gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert place.visible_gpus() == gpus


def test_names_that_are_none():
    for arguments in (["--methods", "ppo"], ["--experiments", "all"], ["--size", "huge"]):
        assert study_command.main(["run", *arguments, "--out", "nowhere"]) == 2


def test_a_method_that_is_not_tuned_is_named(tmp_path):
    with pytest.raises(ToolError, match="ipo has not been tuned: 12 points"):
        tuned_options(Results(tmp_path), ["ipo"])


def test_a_damaged_result_is_named(tmp_path):
    (tmp_path / "val-s0-1.json").write_text('{"key": ')
    with pytest.raises(ToolError, match="val-s0-1.json is damaged"):
        Results(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small study of one seed, tuned by decree, so that only a few cells are left to run."""
    out = tmp_path_factory.mktemp("study with space")
    results = Results(out / "cells")
    _tuned_by_decree(results, lambda method, number, _: 0.5 + 0.1 * (number == 4), ("dpo", "uni_dpo"))
    return out, _study(out)


def _study(out, *more):
    command = [sys.executable, ROOT / "scripts" / "study.py", "run", "--size", "test", "--seeds", "1", "--out", out]
    command += ["--methods", "dpo", "uni_dpo", "--experiments", "main", "course", "--jobs", "2", *more]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600)
    logs = "".join(log.read_text()[-3000:] for log in (out / "logs").glob("*.log"))
    assert done.returncode == 0, done.stderr + logs
    return done.stdout


def test_a_small_study_runs(finished):
    out, said = finished
    results = Results(out / "cells")
    tuned = tuned_options(results, ["dpo", "uni_dpo"])
    start, dpo, uni_dpo = (results.of(cells)[0] for cells in plan.main(tuned, [0]).values())
    assert "train" not in start and dpo["train"]["rewards/accuracies"] >= 0
    for result in (start, dpo, uni_dpo):
        assert set(result["vlmeval"]) == {"MCQ", "YesNo", "Short", "ChartQA", "mean"}
        assert 50 < result["vlmeval"]["mean"] <= 100  # the demo checkpoint knows most answers
    assert uni_dpo["train"]["uni_dpo/w_qual"] > 0.5
    courses = {name: results.of(cells)[0]["course"] for name, cells in plan.course(tuned, [0]).items()}
    for name, course in courses.items():
        assert len(course["exams"]) == plan.COURSE_EPOCHS + 1
        assert len(course["pairs"]) == (0 if name == "dpo" else plan.COURSE_EPOCHS)  # weights are Uni-DPO's alone
        assert any("eval_rewards/accuracies" in entry for entry in course["log"])
    assert f"{len(results)} cells are done" in said
    assert not list((out / "scratch").glob("*/model"))  # trained models are not kept


def test_what_is_done_is_not_done_again(finished):
    out, _ = finished
    kept = [*(out / "cells").iterdir(), *(out / "seeds").rglob("done"), *(out / "seeds").rglob("*.safetensors")]
    files = {path: path.stat().st_mtime_ns for path in kept}
    _study(out)
    assert {path: path.stat().st_mtime_ns for path in kept} == files


def test_a_killed_study_leaves_nobody_working_and_goes_on(finished):
    out, _ = finished
    results = Results(out / "cells")
    cells = plan.main(tuned_options(results, ["dpo", "uni_dpo"]), [0])
    path = out / "cells" / f"{cells['dpo'][0].key}.json"
    before = json.loads(path.read_text())
    path.unlink()
    command = [sys.executable, ROOT / "scripts" / "study.py", "run", "--size", "test", "--seeds", "1", "--out", out]
    command += ["--methods", "dpo", "uni_dpo", "--experiments", "main", "--jobs", "1"]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    scratch, limit = out / "scratch" / cells["dpo"][0].key, time.monotonic() + 240
    while not scratch.exists():
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert workers and not alive
    assert not path.exists()
    _study(out)
    after = json.loads(path.read_text())
    assert {name: after[name] for name in ("vlmeval", "test", "train")} == {
        name: before[name] for name in ("vlmeval", "test", "train")
    }  # also: the same cell twice gives the same numbers


def test_a_cell_that_fails_is_told_and_the_others_are_kept(finished, tmp_path):
    out, _ = finished
    results = Results(out / "cells")
    tuned = tuned_options(results, ["dpo", "uni_dpo"])
    broken = plan.cell(0, {**tuned["dpo"], "pref_loss": "nonsense"})
    good = plan.cell(0, {}, "val")
    kept = Results(tmp_path / "cells")
    pool = Pool(out, plan.SIZES["test"], out, 1, ())
    failed = pool.run("some", [broken, good], kept)
    assert len(failed) == 1 and broken.key in failed[0] and "nonsense" in failed[0]
    assert good in Results(tmp_path / "cells") and broken not in kept


def test_a_cell_again_in_the_terminal(finished, capsys):
    """Gathered and repeated, the numbers are the same ones; raw results of another size are not compared with."""
    out, _ = finished
    raw = out / "raw"
    assert study_command.main(["gather", "--out", str(out), "--raw", str(raw)]) == 0
    results = Results(out / "cells")
    cells = plan.main(tuned_options(results, ["dpo", "uni_dpo"]), [0, 1])["dpo"]
    again = results.of(cells)[0]
    results.path = raw / "second"
    results.add(cells[1], {name: again[name] for name in ("vlmeval", "test")} | {"seconds": 1})
    results.gather(raw / "raw.jsonl")
    files = {path: path.read_bytes() for path in (out / "cells").iterdir()}
    command = [
        sys.executable,
        ROOT / "scripts" / "study.py",
        "repeat",
        "dpo",
        "--out",
        out,
        "--raw",
        raw,
        "--jobs",
        "1",
    ]
    done = subprocess.run([*map(str, command), "--size", "test"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    mean = again["vlmeval"]["mean"]
    assert f"dpo, seed 0: {mean:.2f} %" in done.stdout and f"same seed: {mean:.2f} %" in done.stdout
    assert {path: path.read_bytes() for path in (out / "cells").iterdir()} == files
    assert study_command.main(["repeat", "dpo", "--raw", str(raw), "--out", str(out / "other")]) == 2
    assert "another size (test, not demo)" in capsys.readouterr().err


def test_the_script_says_what_there_is():
    script = ROOT / "examples" / "uni_dpo" / "study.sh"
    said = subprocess.run(["bash", script, "--help"], capture_output=True, text=True, check=True).stdout
    assert {*plan.EXPERIMENTS, *METHODS} <= set(said.split())
