"""Rounds on the demo world: `examples/uni_dpo/rounds.sh`, and its parts."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from crashes import assert_same_weights
from eval_sets import DEMO
from eval_tree import environment, vlmevalkit
from figures import times
from nodes import free_port
from pairs import ROOT
from safetensors.torch import load_file
from score_runs import write

from demo.pairs import prompts
from demo.writers import save_image
from llamafactory.train.uni_dpo.upstream.underneath import OUR_LOSSES
from pair_data.errors import DataError
from rounds import machines, report, validation
from rounds.loop import run
from rounds.orphans import MARK
from rounds.plan import OURS, read_plan, require_same
from rounds.recipe import Recipe, as_options
from rounds.stages import Stage, do


SCRIPT = ROOT / "LlamaFactory" / "examples" / "uni_dpo" / "rounds.sh"
RECIPE = ROOT / "LlamaFactory" / "examples" / "uni_dpo" / "demo_uni_dpo.yaml"
KILLS = int(os.environ.get("UNI_DPO_KILLS", times(1, 12)))
# Long answers are good, and to held-out questions all are alike: no round helps.
RULE = "def points(answer, reference):\n    return 1.0 if reference == 'held out' else len(answer)\n"


def questions(folder, name, count, answer, split="train"):
    rows = []
    for number, (question, _) in enumerate(prompts(split, count, 0)):
        _, path = save_image(folder, f"{name}_{number}", question.scene, random.Random(number))
        rows.append({"question": question.text, "image": path, "answer": answer})
    return write(folder / f"{name}.jsonl", rows)


@pytest.fixture
def wanted(tmp_path):
    """The YAML of two small rounds, as an object; `said` writes it."""
    (tmp_path / "rules.py").write_text(RULE)
    return {
        "start": str(DEMO),
        "questions": str(questions(tmp_path, "questions", 12, "train")),
        "validation": str(questions(tmp_path, "held_out", 4, "held out", "val")),
        "recipe": str(RECIPE),
        "output": str(tmp_path / "out"),
        "rounds": 2,
        "sample": {"count": 4, "max-tokens": 12, "batch-size": 16},
        "score": {"rule": f"{tmp_path / 'rules.py'}:points", "workers": 1},
        "train": {"GLOBAL_BATCH": 4, "GPUS": 0, "per_device_train_batch_size": 4, "num_train_epochs": 1.0},
    }


def said(wanted, folder=None):
    path = Path(folder or Path(wanted["output"]).parent) / "rounds.yaml"
    path.write_text(yaml.safe_dump(wanted))
    return path


def command(plan, *options):
    return ["bash", str(SCRIPT), str(plan), *options]


def variables():
    import sys

    return environment(vlmevalkit("installed").root, PYTHON=sys.executable, OMP_NUM_THREADS="1")


# ---- whole runs


@pytest.mark.timeout(3000)
def test_rounds_from_questions_to_a_table(wanted):
    """A stage does not fit the next, a round that does not help is not the last, or the table says otherwise."""
    out = Path(wanted["output"])
    done = subprocess.run(command(said(wanted)), env=variables(), capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    told = (
        "stopped early, after 1 of 2 rounds: round 1 does not help on validation: 0.000 [0.000, 0.000] against start"
    )
    table = json.loads((out / "table.json").read_text())
    assert table["ended"] == told and table["best"] == 0 and table["model"] == str(DEMO)
    assert [row["validation"]["mean"] for row in table["rounds"]] == [1, 1]
    text = (out / "table.md").read_text()
    assert text in done.stdout and "| round 1 | " in text and "| start (best) |" in text
    assert (out / "rounds.png").read_bytes().startswith(b"\x89PNG")
    first = out / "round_1"
    for name in ("answers.json", "scored.json", "pairs.json", "dataset_info.json", "checkpoint", "validation.json"):
        assert (first / name).exists(), name
    pairs = json.loads((first / "pairs.json").read_text())
    assert pairs and all(len(pair["chosen"]) > len(pair["rejected"]) for pair in pairs)
    log = [json.loads(line) for line in (first / "checkpoint" / "uni_dpo_pairs.jsonl").read_text().splitlines()]
    assert len(log) == len(pairs) and log[0]["score_chosen"] > log[0]["score_rejected"]

    again = subprocess.run(command(said(wanted)), env=variables(), capture_output=True, text=True, timeout=600)
    assert again.returncode == 0 and again.stdout.count("done already") == 9 and text in again.stdout


@pytest.mark.long
@pytest.mark.timeout(10800)
def test_killed_at_any_moment_the_weights_are_the_same(wanted, tmp_path):
    """Rounds that were killed end with other weights, or do again what was done."""
    plan, out = said(wanted), Path(wanted["output"])
    started = time.monotonic()
    subprocess.run(command(plan), env=variables(), check=True, capture_output=True, timeout=3000)
    usual = time.monotonic() - started
    weights = load_file(out / "round_1" / "checkpoint" / "model.safetensors")
    files = {name: (out / "round_1" / name).read_bytes() for name in ("answers.json", "scored.json", "pairs.json")}
    moments = random.Random(0)
    for number in range(KILLS):
        out.rename(tmp_path / f"done_{number}")
        delay = usual * (number + moments.random()) / KILLS
        process = subprocess.Popen(
            command(plan), env=variables(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        subprocess.run(command(plan), env=variables(), check=True, capture_output=True, timeout=3000)
        assert_same_weights(load_file(out / "round_1" / "checkpoint" / "model.safetensors"), weights)
        assert {name: (out / "round_1" / name).read_bytes() for name in files} == files


LOSSES = {
    "simpo": {"pref_loss": "simpo", "simpo_gamma": 0.5},
    "sigmoid and lora": {"pref_loss": "sigmoid", "finetuning_type": "lora", "lora_target": "all"},
    "uni_dpo and lora": {"pref_loss": "uni_dpo", "finetuning_type": "lora", "lora_target": "all"},
}


# All but stacked adapters without a loss of ours, which are refused, see below.
WHOLE = [(loss, way) for loss in LOSSES for way in ("start", "last") if (loss, way) != ("sigmoid and lora", "last")]


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("loss", "reference"), WHOLE)
def test_other_losses_and_adapters(wanted, loss, reference):
    """Two whole rounds: a round goes on from another model than the one before, or compares with the wrong one."""
    wanted |= {"reference": reference, "patience": 2, "train": wanted["train"] | LOSSES[loss]}
    done = subprocess.run(command(said(wanted)), env=variables(), capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert len(json.loads((Path(wanted["output"]) / "table.json").read_text())["rounds"]) == 3


# ---- what is wanted


WRONG = {
    "an unknown word": ({"judge": "x"}, "there is no judge in rounds; there are start, questions"),
    "nothing to validate with": ({"validation": None}, "say validation"),
    "a number that is none": ({"rounds": "3"}, "rounds is '3', and must be a whole number, 1 or more"),
    "a path that is none": ({"recipe": 5}, "recipe is 5, and must be a path"),
    "questions that are none": (
        {"questions": [{"question": "Red?"}]},
        "questions is [{'question'",
    ),
    "an option that sample has not": ({"sample": {"counts": 8}}, "sample has no option counts here; it has"),
    "an option that is set here": ({"sample": {"seed": 8}}, "sample has no option seed here"),
    "a model of training": ({"train": {"dataset": "x"}}, "train sets dataset, which each round sets itself"),
    "another reference": ({"reference": "base"}, "reference is 'base', and must be start"),
    "options that are none": ({"pairs": ["all"]}, "pairs is ['all'], and must hold options"),
    "stacked adapters of another loss": (
        {"train": {"finetuning_type": "lora", "pref_loss": "sigmoid"}},
        "reference: last stacks adapters, of which LlamaFactory's own trainer keeps no record",
    ),
    "no table of benchmarks": ({"benchmarks": {"data": ["POPE"]}}, "benchmarks: say config"),
    "no recipe": ({"recipe": "gone.yaml"}, "cannot read the settings in"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_wanted_is_refused_before_anything_runs(wanted, case):
    change, told = WRONG[case]
    with pytest.raises(DataError) as error:
        read_plan(said(wanted | change))
    assert told in str(error.value)


def test_losses_of_our_trainer_are_known():
    assert OURS == OUR_LOSSES


def test_a_changed_setting_or_file_is_named(wanted):
    """Rounds go on with other questions, another rule or recipe, and the table mixes both."""
    require_same(read_plan(said(wanted)))
    require_same(read_plan(said(wanted | {"rounds": 7, "patience": 3})))
    changed = wanted | {"seed": 4, "sample": wanted["sample"] | {"count": 8}, "pairs": {"pairs": "all"}}
    with pytest.raises(DataError) as error:
        require_same(read_plan(said(changed)))
    for line in ("seed: 0 -> 4", "sample.count: 4 -> 8", "pairs.pairs: None -> all", "--fresh"):
        assert line in str(error.value)
    for name in (wanted["questions"], wanted["score"]["rule"].partition(":")[0]):
        before = Path(name).read_text()
        Path(name).write_text(before + "\n")
        with pytest.raises(DataError, match=f"{name}: its content has changed"):
            require_same(read_plan(said(wanted)))
        Path(name).write_text(before)
    require_same(read_plan(said(wanted)))


def test_another_run_in_the_folder_is_refused_and_what_a_killed_one_left_is_ended(wanted):
    """Two runs write the same files, or a training that lost its parent goes on beside its successor."""
    plan = read_plan(said(wanted | {"rounds": 1}))
    plan.output.mkdir()
    left = subprocess.Popen(["sleep", "600"], env=os.environ | {MARK: str(plan.output)})
    others = subprocess.Popen(["sleep", "600"], env=os.environ | {MARK: f"{plan.output}_2"})
    script = "import fcntl, sys, time; file = open(sys.argv[1], 'w'); fcntl.flock(file, 2); print(); time.sleep(600)"
    holder = subprocess.Popen(["python", "-c", script, plan.output / ".lock"], stdout=subprocess.PIPE, text=True)
    try:
        holder.stdout.readline()
        with pytest.raises(DataError, match="another run works in"):
            run(plan)
        assert left.poll() is None
        holder.kill()
        holder.wait()
        (plan.output / "rounds.json").write_text("{}")  # of other settings: nothing is begun
        with pytest.raises(DataError, match="rounds with other settings"):
            run(plan)
        left.wait(30)  # whoever waited first has its status
        assert others.poll() is None
    finally:
        for process in (left, others, holder):
            process.kill()


# ---- stages


def stage(tmp_path, text="hello", name="one"):
    script = f"import sys; open(sys.argv[2], 'w').write(open(sys.argv[1]).read() + {text!r})"
    command = ("python", "-c", script, str(tmp_path / "in"), str(tmp_path / "out"))
    return Stage(name, "a greeting", command, (tmp_path / "in",), tmp_path / "out")


def test_a_stage_is_done_once_until_something_changes(tmp_path, capfd):
    (tmp_path / "in").write_text("a")
    assert [do(stage(tmp_path), tmp_path, tmp_path) for _ in range(2)] == [True, False]
    assert do(stage(tmp_path, "hi"), tmp_path, tmp_path)
    (tmp_path / "in").write_text("b")
    assert do(stage(tmp_path, "hi"), tmp_path, tmp_path) and (tmp_path / "out").read_text() == "bhi"
    (tmp_path / "out").unlink()
    assert do(stage(tmp_path, "hi"), tmp_path, tmp_path)
    assert "done already, a greeting" in capfd.readouterr().out


def test_a_stage_that_fails_is_not_done(tmp_path):
    broken = Stage("one", "nothing", ("python", "-c", "import sys; sys.exit(3)"), (), tmp_path / "out")
    for _ in range(2):
        with pytest.raises(DataError, match="one ended with exit status 3"):
            do(broken, tmp_path, tmp_path)
    (tmp_path / "in").write_text("a")
    with pytest.raises(DataError, match="ended with exit status 0"):  # it says that all is well, and nothing is there
        do(Stage("two", "nothing", ("true",), (), tmp_path / "out"), tmp_path, tmp_path)


def test_a_folder_begun_with_other_inputs_gets_out_of_the_way(tmp_path):
    """A training goes on with other pairs, or is taken for finished."""
    (tmp_path / "in").write_text("a")
    make = ("bash", "-c", f"mkdir -p {tmp_path}/out && cat {tmp_path}/in >> {tmp_path}/out/log")
    train = Stage("train", "a model", make, (tmp_path / "in",), tmp_path / "out")
    do(train, tmp_path, tmp_path)
    (tmp_path / ".done" / "train.json").unlink()  # killed before it was marked as done: it goes on there
    do(train, tmp_path, tmp_path)
    assert (tmp_path / "out" / "log").read_text() == "aa"
    (tmp_path / "in").write_text("b")
    do(train, tmp_path, tmp_path)
    assert (tmp_path / "out" / "log").read_text() == "b" and len(list(tmp_path.glob("out.old-*"))) == 1


# ---- which model is trained, and with which it is compared


def training(wanted, number, **changes):
    changes["train"] = wanted["train"] | changes.get("train", {})
    plan = read_plan(said(wanted | changes))
    (train,) = [it for it in Recipe(plan).making(number) if it.name == "train"]
    options = dict(word.split("=", 1) for word in train.command if "=" in word)
    names = [name for name in MODELS if name in options]
    return {name: options[name].replace(wanted["output"], "OUT").replace(str(DEMO), "START") for name in names}


MODELS = ("model_name_or_path", "adapter_name_or_path", "create_new_adapter", "ref_model")
LORA = {"finetuning_type": "lora"}
NEW = {"create_new_adapter": "true"}
ONE, TWO = "OUT/round_1/checkpoint", "OUT/round_2/checkpoint"


@pytest.mark.parametrize(
    "number, reference, train, models",
    [
        (1, "last", {}, {"model_name_or_path": "START"}),
        (3, "last", {}, {"model_name_or_path": TWO}),
        (3, "start", {}, {"model_name_or_path": TWO, "ref_model": "START"}),
        (3, "start", {"pref_loss": "simpo"}, {"model_name_or_path": TWO}),
        (1, "start", LORA, {"model_name_or_path": "START"}),
        (3, "start", LORA, {"model_name_or_path": "START", "adapter_name_or_path": TWO}),
        (3, "last", LORA, {"model_name_or_path": "START", "adapter_name_or_path": f"{ONE},{TWO}", **NEW}),
    ],
)  # fmt: skip
def test_which_model_a_round_trains(wanted, number, reference, train, models):
    assert training(wanted, number, reference=reference, train=train) == models


def test_pairs_of_the_round_before_are_mixed_in_from_the_second_on(wanted):
    plan = read_plan(said(wanted | {"pairs": {"pairs": "all", "mix-share": 0.3}}))
    first, second = ([it.command for it in Recipe(plan).making(number) if it.name == "pairs"][0] for number in (1, 2))
    assert "--mix-share" not in first and "--mix" not in first
    place = second.index("--mix")
    assert second[place + 1] == str(plan.output / "round_1" / "pairs.json") and "--mix-share" in second
    assert first[first.index("--eta") + 1] == "0.3"  # as in training


def test_options_as_a_command_line_has_them():
    given = {"count": 8, "max_tokens": 9, "stop": ["a", "b"], "strict": True, "overwrite": False, "rubric": None}
    assert as_options(given) == ["--count", "8", "--max-tokens", "9", "--stop", "a", "--stop", "b", "--strict"]


def test_the_table_of_benchmarks_is_about_those_asked(tmp_path):
    """Not about all nine; and one with a gap is a table all the same."""
    (tmp_path / "c.json").write_text('{"data": {"POPE": {}, "MME": {}}}')
    for data, asked in ((None, ["POPE", "MME"]), ("MME", ["MME"]), (["POPE"], ["POPE"])):
        given = {"config": "c.json"} | ({"data": data} if data else {})
        plan = SimpleNamespace(root=tmp_path, output=tmp_path / "out", start="m", sample={}, benchmarks=given)
        stage = Recipe(plan).summary(2)
        assert list(stage.command[-len(asked) :]) == asked and stage.command[-len(asked) - 1] == "--data"
    status = "import pathlib, sys; pathlib.Path(sys.argv[1]).touch(); sys.exit(1)"
    command = (sys.executable, "-c", status, str(tmp_path / "table.json"))
    for ends, done in (((0, 1), True), ((0,), False)):
        gap = Stage("gap", "a table", command, (), tmp_path / "table.json", ends=ends)
        if done:
            assert do(gap, tmp_path / "a", tmp_path)
        else:
            with pytest.raises(DataError, match="exit status 1"):
                do(gap, tmp_path / "b", tmp_path)


# ---- validation


def test_means_and_differences_are_by_question(tmp_path):
    """Four questions: 1, 0, 1, 0 and then 1, 1, 1, 0. The mean gain is 1/4, its standard error 1/4."""

    def scored(name, *scores):
        rows = [
            {"instruction": f"Q{n // 2}", "images": [], "answers": [{"text": "x", "score": score}]}
            for n, score in enumerate(scores)  # two questions are asked twice, and not mixed up
        ]
        return validation.read_scores(write(tmp_path / name, rows))

    before, after = scored("a.jsonl", 1, 0, 1, 0), scored("b.jsonl", 1, 1, 1, 0)
    found = validation.gain(before, after)
    assert (found.mean, found.n) == (0.25, 4) and found.high - found.mean == pytest.approx(1.959964 / 4)
    assert validation.mean(before).mean == 0.5
    assert validation.gain(scored("c.jsonl", 1), scored("d.jsonl", 0)).low == float("-inf")


def test_silence_does_not_help(tmp_path):
    """A model that says nothing to a question gets the lowest score there, not one question less."""

    def scored(name, *scores):
        rows = [
            {"instruction": f"Q{n}", "answers": [] if score is None else [{"text": "x", "score": score}]}
            for n, score in enumerate(scores)
        ]
        return validation.read_scores(write(tmp_path / name, rows))

    before, after = scored("a.jsonl", 4, 1, 5, 2), scored("b.jsonl", None, None, 6, 3)
    assert (validation.unanswered(before), validation.unanswered(after)) == (0, 2)
    assert validation.mean(after).mean == (3 + 3 + 6 + 3) / 4
    assert validation.gain(before, after).mean == ((1 - 4) + (1 - 1) + 1 + 1) / 4
    row = report.Row(1, "m", validation.mean(after), validation.unanswered(after), validation.gain(before, after))
    said = report.markdown([report.Row(0, "s", validation.mean(before)), row], 0, "why", [])
    assert "(2 unanswered)" in said and "unanswered questions count with the lowest score" in said
    with pytest.raises(DataError, match="no scored answer"):
        scored("c.jsonl", None, None)


# ---- several machines


def test_a_call_that_nobody_renews_is_not_heard(wanted, monkeypatch):
    """A machine joins a training that was killed long ago, joins one twice, or trains with settings of its own."""
    wanted["train"] |= {"NNODES": 2}
    plan = read_plan(said(wanted))
    recipe, joined = Recipe(plan), []
    monkeypatch.setattr(machines, "run_command", lambda stage, *_: joined.append(stage.command) or time.sleep(3) or 0)
    monkeypatch.setattr(machines, "BEAT", 0.3)
    monkeypatch.setenv("NODE_RANK", "1")
    assert machines.node_rank(plan) == 1
    stage = recipe.train(1)
    machines._write(plan.output, {"id": 1, "round": 7, "settings": [], "beat": 5})  # left by a killed run
    following = threading.Thread(target=machines.follow, args=(plan, recipe))
    following.start()
    time.sleep(2)
    assert not joined
    with machines.calling(plan, 1, stage):
        time.sleep(6)
    machines.dismiss(plan)
    following.join(20)
    assert not following.is_alive() and joined == [stage.command]
    with machines.calling(plan, 1, replace(stage, command=(*stage.command, "seed=7"))):
        with pytest.raises(DataError, match="round 1: this machine's YAML says other settings"):
            machines.follow(plan, recipe)
    monkeypatch.setenv("NODE_RANK", "first")
    with pytest.raises(DataError, match="NODE_RANK is 'first'"):
        machines.node_rank(plan)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_two_machines(wanted):
    """The second trains with the first in every round, and ends with it."""
    wanted |= {"patience": 2, "train": wanted["train"] | {"per_device_train_batch_size": 2}}
    plan, port = said(wanted), str(free_port())
    both = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NPROC_PER_NODE": "1"}
    runs = [
        subprocess.Popen(
            command(plan), env=variables() | both | {"NODE_RANK": rank}, stdout=subprocess.PIPE, text=True
        )
        for rank in "01"
    ]
    first, second = (run.communicate(timeout=3000)[0] for run in runs)
    assert [run.returncode for run in runs] == [0, 0], first[-3000:] + second[-3000:]
    assert second.count("train: ended here with exit status 0") == 2 and "has ended the rounds" in second
    assert len(json.loads((Path(wanted["output"]) / "table.json").read_text())["rounds"]) == 3
    logs = [Path(wanted["output"]) / f"round_{number}" / "checkpoint.node1.train.log" for number in (1, 2)]
    assert all(log.is_file() for log in logs), [path.name for path in logs[0].parent.iterdir()]
