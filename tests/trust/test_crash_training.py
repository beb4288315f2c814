"""`kill -9` in training, at random moments and wherever files change: the same command ends as if nothing had been."""

import json
import random
import shutil

import pytest
from crashes import UNFINISHED, Training, moments
from figures import times
from pairs import options


@pytest.fixture(scope="module")
def training(host, tiny_model, pair_data, tmp_path_factory):
    """Six steps with three checkpoints of which two stay, two evaluations, and the second epoch from step 6."""
    folder = tmp_path_factory.mktemp("killed")
    saving = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 2, "uni_dpo_log_pairs": True}
    evaluation = {"val_size": 4, "eval_strategy": "steps", "eval_steps": 3}
    return Training(host, options(tiny_model, pair_data, folder / "out", max_steps=6, **saving, **evaluation), folder)


@pytest.fixture(autouse=True)
def empty(training):
    training.afresh()
    training.tally.kills = training.tally.writing = 0


def test_killed_at_random_moments(training, figure):
    """Each command goes on where the one before it was killed, until one ends."""
    rng, kills, runs = random.Random(0), times(2, 100), 0
    while training.tally.kills < kills:
        training.afresh()
        while training.kill(seconds=rng.uniform(0.1, 1) * training.whole.seconds):
            pass
        training.assert_as_undisturbed()
        runs += 1
    tally = training.tally
    seen = f"{runs} runs ended with bit-equal weights, every pair of every step once and the same log; "
    seen += f"{tally.writing} kills met a save"
    figure("2 crash", "`llamafactory-cli train` killed at random moments", tally.kills, seen)


@pytest.mark.parametrize(
    "kind, tried", [("change", "before a change of a file"), ("write", "in the middle of writing a file")]
)
def test_killed_while_saving(training, figure, kind, tried):
    for moment in moments(training, times(2, 60), kind):
        training.afresh()
        training.kill(**moment)
        training.finish()
    tally = training.tally
    assert tally.kills and tally.writing
    seen = f"no half file under a name that is read; {tally.writing} left a half save, and none did any harm"
    figure("2 crash", f"training killed {tried}", tally.kills, seen)


@pytest.mark.long
def test_killed_while_it_deletes(host, tiny_model, pair_data, tmp_path, figure):
    """With `save_total_limit: 1` the best checkpoint stays, and others go while training and at its end."""
    saving = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 1, "uni_dpo_log_pairs": True}
    best = {"val_size": 4, "eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    run = options(tiny_model, pair_data, tmp_path / "out", max_steps=6, learning_rate=0.3, **saving, **best)
    training = Training(host, run | {"metric_for_best_model": "eval_loss"}, tmp_path)
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(tmp_path / "out" / "checkpoint-2")
    assert [path.name for path in tmp_path.glob("out/checkpoint-*")] == ["checkpoint-2"]
    for moment in moments(training, 40, "change"):
        training.afresh()
        training.kill(**moment)
        training.finish()
    figure(
        "2 crash",
        "killed, with the best checkpoint kept and others deleted",
        training.tally.kills,
        "the best's weights",
    )


def test_half_a_checkpoint_of_another_trainer(training):
    """LlamaFactory goes by the name; what upstream's trainer or a copy left half is passed over, and written anew."""
    shutil.copytree(training.all, training.output)
    for name in ("model.safetensors", "trainer_state.json", "checkpoint-6/trainer_state.json"):
        (training.output / name).unlink()
    (training.output / "checkpoint-4" / "trainer_state.json").write_text('{"best_glo')
    (training.output / UNFINISHED / "model").mkdir(parents=True)
    ending = training.start()
    assert ending.status == 0, ending.said
    assert "checkpoint-6 is not complete; going on from checkpoint-2" in ending.said
    training.assert_as_undisturbed()
