"""Going on in an output folder: with the same options and the same pairs, or not unless the user says so."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pairs import log_history, make_rows, options, train, write_dataset
from recorded import messages
from safetensors.torch import load_file

from llamafactory.train.uni_dpo.errors import UniDPOError
from llamafactory.train.uni_dpo.files.checkpoints import prepare_output
from llamafactory.train.uni_dpo.files.run_record import RECORD
from llamafactory.train.uni_dpo.record.pair_log import PAIR_LOG, read_pair_log


@pytest.fixture(scope="module")
def run(tiny_model, pair_data, tmp_path_factory):
    """A finished run of four steps with checkpoints after two and four: its options."""
    output = tmp_path_factory.mktemp("run") / "out"
    run = options(tiny_model, pair_data, output, save_strategy="steps", save_steps=2, uni_dpo_log_pairs=True)
    train(run)
    return run


@pytest.fixture
def half_done(run, tmp_path):
    """The options of the same run in a folder where it was stopped after two steps."""
    shutil.copytree(f"{run['output_dir']}/checkpoint-2", tmp_path / "out" / "checkpoint-2")
    shutil.copy(f"{run['output_dir']}/{PAIR_LOG}", tmp_path / "out")
    return run | {"output_dir": str(tmp_path / "out")}


def moved(rows, folder):
    """Options that name a data set of these rows in another folder."""
    write_dataset(folder, rows)
    return {"dataset_dir": str(folder), "media_dir": str(folder)}


def test_a_finished_run_is_left_alone(run, tmp_path):
    def content():
        return {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}

    output = shutil.copytree(run["output_dir"], tmp_path / "out")
    before = content()
    with messages() as said:
        train(run | {"output_dir": str(output)})
    assert content() == before
    assert any("holds this very run, finished" in line for line in said)


CHANGES = {
    "half done": [
        {"uni_dpo_qual_eta": 0.1},
        {"learning_rate": 1e-4},
        {"pref_loss": "sigmoid", "uni_dpo_log_pairs": None, "pref_forward": "auto"},
        {"max_steps": 6},
    ],
    "finished": [
        {"pref_beta": 0.5},
        {"seed": 8},
        {"lora_rank": 4, "finetuning_type": "lora"},
        {"cutoff_len": 256},
    ],
}


@pytest.mark.parametrize("state, change", [(state, change) for state in CHANGES for change in CHANGES[state]])
def test_other_options_are_refused_by_name(run, half_done, state, change):
    """Before anything loads, and with nothing changed in the folder."""
    there = run if state == "finished" else half_done
    changed = {name: value for name, value in (there | change).items() if value is not None}
    name, value = next(iter(change.items()))
    with pytest.raises(UniDPOError) as refused:
        train(changed)
    now = "(default)" if value == "sigmoid" else value
    assert f"{name}: {run.get(name, '(default)')} -> {now}" in str(refused.value)
    assert all(way in str(refused.value) for way in ("output_dir", "overwrite_output_dir", "resume_from_checkpoint: "))


def test_a_checkpoint_that_is_named_goes_on_with_other_options(half_done):
    named = {"learning_rate": 1e-4, "resume_from_checkpoint": f"{half_done['output_dir']}/checkpoint-2"}
    with messages() as said:
        assert [entry["step"] for entry in train(half_done | named) if "loss" in entry] == [1, 2, 3, 4]
    assert any("with other options: learning_rate: 0.001 -> 0.0001" in line for line in said)
    # And once more, at its end: results of a run are not overwritten by those of no step.
    file = Path(half_done["output_dir"], "train_results.json")
    results, named["resume_from_checkpoint"] = file.read_text(), f"{half_done['output_dir']}/checkpoint-4"
    train(half_done | named)
    assert file.read_text() == results


def test_true_means_the_newest_and_false_none(half_done):
    """As transformers has it; none to go on from is said."""
    for word, found in ((True, "checkpoint-"), ("false", None)):
        args = SimpleNamespace(output_dir=str(half_done["output_dir"]), do_train=True, do_eval=False)
        args.local_process_index, args.resume_from_checkpoint = 0, word
        prepare_output(args, None, True)
        assert found in args.resume_from_checkpoint if found else args.resume_from_checkpoint is None
    args.output_dir, args.resume_from_checkpoint = str(Path(half_done["output_dir"]).parent / "empty"), True
    with pytest.raises(UniDPOError, match="has no checkpoint to go on from"):
        prepare_output(args, None, True)


def test_a_checkpoint_without_a_record_is_not_gone_on_from_unnamed(half_done):
    """Of LlamaFactory's own trainer, with whatever loss."""
    Path(half_done["output_dir"], "checkpoint-2", RECORD).unlink()
    with pytest.raises(UniDPOError, match="there is no record of its options"):
        train(half_done)


@pytest.mark.parametrize("change", ["more", "edited", "scored anew", "another picture"])
def test_other_pairs_are_refused(half_done, tmp_path, change):
    made = make_rows(tmp_path / "data", 36)
    rows = made if change == "more" else made[:24]
    if change == "edited":
        rows[0]["rejected"] = "Something else."
    elif change == "scored anew":
        rows[0]["score_chosen"] = 9.25
    elif change == "another picture":
        (tmp_path / "data" / "0-3.png").write_bytes((tmp_path / "data" / "0-3.png").read_bytes() + b"\0")
    with pytest.raises(UniDPOError, match="some would come twice and others never") as refused:
        train(half_done | moved(rows, tmp_path / "data"))
    assert ("rows: 24 -> 36" in str(refused.value)) == (change == "more")


def test_the_same_pairs_elsewhere_in_larger_batches(run, half_done, tmp_path):
    """Data may move, and a step may be divided otherwise: transformers 4 would go on with the checkpoint's batches."""
    elsewhere = moved(make_rows(tmp_path / "data"), tmp_path / "data")
    train(half_done | elsewhere | {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1})
    logs = [read_pair_log(f"{each['output_dir']}/{PAIR_LOG}") for each in (run, half_done)]
    seen = [sorted((row["step"], row["row"]) for row in log) for log in logs]
    assert seen[0] == seen[1] and len(seen[0]) == 16


def test_other_numbers_of_pairs_a_step_are_refused(half_done):
    with pytest.raises(UniDPOError, match="pairs a step: 4 -> 8"):
        train(half_done | {"per_device_train_batch_size": 4})


def test_asked_to_begin_the_data_again(half_done, tmp_path):
    other = moved(make_rows(tmp_path / "data", 36), tmp_path / "data")
    assert len([entry for entry in train(half_done | other | {"ignore_data_skip": True}) if "loss" in entry]) == 4


@pytest.mark.parametrize("strategy, tuning", [("best", "full"), ("steps", "lora")])
def test_best_model_at_end(tiny_model, pair_data, tmp_path, strategy, tuning):
    """Whenever it comes: the best of all evaluations, also where `steps` would not save at its step."""
    run = options(tiny_model, pair_data, tmp_path, max_steps=4, val_size=4, learning_rate=0.3, finetuning_type=tuning)
    run |= {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": strategy, "save_steps": 4, "lora_rank": 4}
    train(run | {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss"})
    losses = {entry["step"]: entry["eval_loss"] for entry in log_history(tmp_path) if "eval_loss" in entry}
    best = min(losses, key=losses.get)
    assert len(losses) == 4 and best < 4
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(tmp_path / f"checkpoint-{best}")
    name = "model.safetensors" if tuning == "full" else "adapter_model.safetensors"
    kept, last = load_file(tmp_path / f"checkpoint-{best}" / name), load_file(tmp_path / name)
    assert all(torch.equal(kept[key], last[key]) for key in kept)
