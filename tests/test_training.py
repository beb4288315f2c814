"""Real training runs on a tiny Qwen2-VL: metrics, pair log, resuming, LoRA, and the guard against ruined models."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from pairs import command_line, log_history, make_rows, options, train, write_dataset
from safetensors.torch import load_file

from llamafactory.train.uni_dpo.errors import NonFiniteError
from llamafactory.train.uni_dpo.objective.loss import uni_dpo_loss
from llamafactory.train.uni_dpo.record.pair_log import PAIR_LOG, read_pair_log


OURS = ["w_qual", "w_perf", "nll_weight", "policy_margin", "reference_margin"]
UPSTREAMS = ["rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"]
UPSTREAMS += ["logps/chosen", "logps/rejected", "logits/chosen", "logits/rejected"]


def weights(output) -> dict[str, torch.Tensor]:
    return load_file(Path(output) / "model.safetensors")


def pair_log(output):
    return read_pair_log(str(Path(output) / PAIR_LOG))


@pytest.fixture(scope="module")
def run(tiny_model, pair_data, tmp_path_factory):
    """One undisturbed run with everything on: its options and its output folder."""
    output = tmp_path_factory.mktemp("run") / "out"
    changes = {"max_steps": 8, "val_size": 4, "eval_strategy": "steps", "eval_steps": 4, "uni_dpo_log_pairs": True}
    run = options(tiny_model, pair_data, output, save_strategy="steps", save_steps=3, **changes)
    train(run)
    return run


def test_metrics_of_training_and_evaluation(run):
    history = log_history(run["output_dir"])
    steps = [entry for entry in history if "loss" in entry]
    evaluations = [entry for entry in history if "eval_loss" in entry]
    assert len(steps) == 8 and len(evaluations) >= 2
    for entry in steps:
        assert {f"uni_dpo/{name}" for name in OURS} | set(UPSTREAMS) <= entry.keys()
    for entry in evaluations:
        assert {f"eval_uni_dpo/{name}" for name in OURS} | {f"eval_{name}" for name in UPSTREAMS} <= entry.keys()
    assert steps[-1]["loss"] < steps[0]["loss"]


def test_first_step_by_hand(run):
    """Policy = reference, so the loss of each pair is w_qual * w_perf * log 2; scores come from the file."""
    rows = json.loads((Path(run["dataset_dir"]) / "pairs.json").read_text())
    for logged in [row for row in pair_log(run["output_dir"]) if row["step"] == 1]:
        source = rows[logged["row"]]
        assert logged["dataset"] == "pairs"
        assert (logged["score_chosen"], logged["score_rejected"]) == (source["score_chosen"], source["score_rejected"])
        w_qual = 1 / (1 + math.exp(-0.7 * (source["score_chosen"] - source["score_rejected"])))
        w_perf = (1 - 1 / (1 + math.exp(2.0 - 2.0 * logged["policy_margin"]))) ** 3
        assert logged["loss"] == pytest.approx(w_qual * w_perf * math.log(2), rel=1e-5)
        assert logged["nll_weight"] == 0


def test_pair_log_agrees_with_the_loss_and_the_metrics(run):
    logged = [row for row in pair_log(run["output_dir"]) if row["step"] == 6]
    numbers = logged[0].keys() - {"dataset"}
    columns = {name: torch.tensor([row[name] for row in logged], dtype=torch.float64) for name in numbers}
    zero = torch.zeros(len(logged), dtype=torch.float64)
    loss = uni_dpo_loss(
        columns["policy_margin"], zero, columns["reference_margin"], zero, columns["score_chosen"],
        columns["score_rejected"], beta=2.0, qual_eta=0.7, tau_ref=2.0, perf_gamma=3.0, nll_lambda=0.0, tau_good=2.5,
    )  # fmt: skip
    for name in ("w_qual", "w_perf"):
        torch.testing.assert_close(getattr(loss, name), columns[name], rtol=1e-5, atol=1e-6)
    entry = next(e for e in log_history(run["output_dir"]) if e.get("step") == 6 and "loss" in e)
    for name in OURS:
        assert entry[f"uni_dpo/{name}"] == pytest.approx(columns[name].mean().item(), rel=1e-5, abs=1e-6)
    assert entry["loss"] == pytest.approx(columns["loss"].mean().item(), abs=1e-4)


def test_pair_log_has_every_pair_of_every_step_once(run):
    rows = pair_log(run["output_dir"])
    assert [row["step"] for row in rows] == [step for step in range(1, 9) for _ in range(4)]
    first_epoch = [row["row"] for row in rows[:20]]
    assert len(set(first_epoch)) == 20


def test_pictures(run):
    for name in ("uni_dpo_training.png", "uni_dpo_pairs.png"):
        assert (Path(run["output_dir"]) / name).read_bytes().startswith(b"\x89PNG")


def test_resume_gives_the_same_weights_and_a_whole_pair_log(run, tmp_path):
    """As if killed after step 7: the last checkpoint is 6, rows of step 7 are in the log, the last one unfinished.

    Steps 6 to 8 are in the second epoch, whose order differs from the first's.
    """
    output = tmp_path / "out"
    shutil.copytree(run["output_dir"], output)
    for left in ("model.safetensors", "trainer_state.json"):
        (output / left).unlink()
    shutil.rmtree(output / "checkpoint-8")
    log = output / PAIR_LOG
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:28]) + '{"step": 8, "sco')
    assert next(e["epoch"] for e in log_history(run["output_dir"]) if e["step"] == 6) > 1

    train(run | {"output_dir": str(output)})
    undisturbed, resumed = weights(run["output_dir"]), weights(output)
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)
    assert pair_log(output) == pair_log(run["output_dir"])


def test_resume_of_lora(tiny_model, pair_data, tmp_path):
    run = options(tiny_model, pair_data, tmp_path / "whole", finetuning_type="lora", lora_rank=4, max_steps=8)
    saving = {"save_strategy": "steps", "save_steps": 7, "learning_rate": 1e-2}
    train(run | saving)
    shutil.copytree(tmp_path / "whole" / "checkpoint-7", tmp_path / "resumed" / "checkpoint-7")
    train(run | saving | {"output_dir": str(tmp_path / "resumed")})
    whole, resumed = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_undisturbed_order_is_upstreams(tiny_model, pair_data, tmp_path, monkeypatch):
    """Over three epochs, so that runs with other losses see the same batches."""
    from llamafactory.train.dpo.trainer import CustomDPOTrainer
    from llamafactory.train.uni_dpo.training.trainer import UniDPOTrainer

    seen = {}
    for loss, trainer in (("sigmoid", CustomDPOTrainer), ("uni_dpo", UniDPOTrainer)):
        batches, compute = seen.setdefault(loss, []), trainer.get_batch_loss_metrics

        def watch(self, model, batch, *args, batches=batches, compute=compute, **kwargs):
            batches.append(batch["input_ids"].tolist())
            return compute(self, model, batch, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(trainer, "get_batch_loss_metrics", watch)
            train(options(tiny_model, pair_data, tmp_path / loss, pref_loss=loss, max_steps=15))
    assert len(seen["sigmoid"]) == 2 * 15 and seen["sigmoid"] == seen["uni_dpo"]


def test_best_model_at_end_is_really_loaded(tiny_model, pair_data, tmp_path):
    """With a rate that makes things worse the first evaluation is the best, and its weights must come back."""
    run = options(tiny_model, pair_data, tmp_path, max_steps=6, val_size=4, learning_rate=0.3)
    saving = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    train(run | saving | {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss"})
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    best, last = weights(state["best_model_checkpoint"]), weights(tmp_path)
    assert all(torch.equal(best[name], last[name]) for name in best)


def test_a_new_run_in_the_same_folder_starts_a_new_pair_log(run, tmp_path):
    fresh = run | {"output_dir": str(tmp_path), "max_steps": 2, "save_strategy": "no", "overwrite_output_dir": True}
    train(fresh)
    train(fresh)
    assert [row["step"] for row in pair_log(tmp_path)] == [1] * 4 + [2] * 4


def test_lora_uses_the_model_without_its_adapter_as_reference(tiny_model, pair_data, tmp_path):
    run = options(tiny_model, pair_data, tmp_path, finetuning_type="lora", uni_dpo_log_pairs=True, max_steps=12)
    train(run | {"lora_rank": 4, "learning_rate": 1e-2})
    assert (tmp_path / "adapter_model.safetensors").exists()
    seen = {}
    rows = pair_log(tmp_path)
    for row in rows:  # every pair comes twice: its reference margin stays, its policy margin moves
        seen.setdefault(row["row"], []).append(row)
    for first, second in seen.values():
        assert first["reference_margin"] == pytest.approx(second["reference_margin"], abs=1e-6)
    assert max(abs(row["policy_margin"] - row["reference_margin"]) for row in rows[-24:]) > 0.01
    assert all(row["policy_margin"] == row["reference_margin"] for row in rows[:4])


def test_frozen_and_trainable_vision_tower(run, tiny_model, tmp_path):
    before = weights(tiny_model)
    tower = [name for name in before if "visual" in name]
    assert all(torch.equal(before[name], weights(run["output_dir"])[name]) for name in tower)
    thawed = {"freeze_vision_tower": False, "freeze_multi_modal_projector": False, "save_strategy": "no"}
    train(run | thawed | {"output_dir": str(tmp_path), "max_steps": 2})
    assert not any(torch.equal(before[name], weights(tmp_path)[name]) for name in tower if "qkv.weight" in name)


def test_gradient_checkpointing_and_accumulation_change_nothing(tiny_model, pair_data, tmp_path):
    base = options(tiny_model, pair_data, tmp_path / "base", max_steps=3)
    losses = [entry["loss"] for entry in train(base) if "loss" in entry]
    without = base | {"output_dir": str(tmp_path / "without"), "disable_gradient_checkpointing": True}
    assert [entry["loss"] for entry in train(without) if "loss" in entry] == losses
    wide = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    widened = train(base | wide | {"output_dir": str(tmp_path / "wide")})
    assert [entry["loss"] for entry in widened if "loss" in entry] == pytest.approx(losses, abs=2e-4)


def test_evaluation_alone(tiny_model, pair_data, tmp_path):
    run = options(tiny_model, pair_data, tmp_path, do_train=False, do_eval=True, eval_dataset="pairs", dataset=None)
    from llamafactory.train.tuner import run_exp

    run_exp(run | {"ref_model": str(tiny_model)})
    results = json.loads((tmp_path / "eval_results.json").read_text())
    assert {"eval_loss", "eval_rewards/accuracies", "eval_uni_dpo/w_qual"} <= results.keys()


def test_supervised_term_is_added(tiny_model, pair_data, tmp_path):
    """`pref_ftx` adds the mean negative log-prob of the chosen response, here about log(vocabulary) at the start."""
    plain = train(options(tiny_model, pair_data, tmp_path / "plain", max_steps=1))[0]
    run = options(tiny_model, pair_data, tmp_path / "mixed", max_steps=1, pref_ftx=0.5, uni_dpo_log_pairs=True)
    mixed = train(run)[0]
    logged = [row["loss"] for row in pair_log(tmp_path / "mixed")]
    assert sum(logged) / len(logged) == pytest.approx(mixed["loss"], abs=1e-4)
    assert mixed["loss"] - plain["loss"] == pytest.approx(-0.5 * plain["logps/chosen"], abs=1e-3)


def test_pictures_show_every_evaluation_set(tiny_model, pair_data, rows, tmp_path):
    from llamafactory.train.uni_dpo.record import plots

    write_dataset(pair_data, rows[:4], name="other")
    run = options(tiny_model, pair_data, tmp_path, eval_dataset="pairs,other", eval_on_each_dataset=True, max_steps=2)
    train(run | {"eval_strategy": "steps", "eval_steps": 1})
    names = plots.evaluation_losses(log_history(tmp_path))
    assert names == {"eval other": "eval_other_loss", "eval pairs": "eval_pairs_loss"}
    assert (tmp_path / "uni_dpo_training.png").exists()


def test_length_normalised_dpo_sees_the_log_probs_that_ipo_sees(tiny_model, pair_data, tmp_path):
    """Upstream's ipo takes means over response tokens; its sigmoid loss takes sums unless ours is asked for means.

    All of them by upstream's forward, so that the numbers are the same to the last bit.
    """
    uni = {"pref_forward": "upstream"}
    logged = {
        name: train(options(tiny_model, pair_data, tmp_path / name, max_steps=1, pref_loss=loss, **changes))[0]
        for name, loss, changes in (
            ("ipo", "ipo", {}),
            ("mean", "sigmoid", {"dpo_average_log_prob": True}),
            ("sum", "sigmoid", {}),
            ("uni", "uni_dpo", uni),
            ("uni_sum", "uni_dpo", uni | {"dpo_average_log_prob": False}),
        )
    }
    for key in ("logps/chosen", "logps/rejected"):
        assert logged["mean"][key] == logged["uni"][key] == logged["ipo"][key]
        assert logged["sum"][key] == logged["uni_sum"][key]
        assert logged["sum"][key] < 3 * logged["mean"][key]


def test_scores_matter(tiny_model, pair_data, rows, tmp_path):
    """The same pairs with all margins reversed give another loss: a trainer that ignores scores would not notice."""
    reversed_rows = [
        row | {"score_chosen": row["score_rejected"], "score_rejected": row["score_chosen"]} for row in rows
    ]
    write_dataset(pair_data, reversed_rows, name="reversed")
    first = train(options(tiny_model, pair_data, tmp_path / "a", max_steps=1))[0]
    second = train(options(tiny_model, pair_data, tmp_path / "b", max_steps=1, dataset="reversed"))[0]
    assert first["uni_dpo/w_qual"] + second["uni_dpo/w_qual"] == pytest.approx(1, abs=1e-6)
    assert first["loss"] != second["loss"]


@pytest.mark.parametrize("clipping", [1.0, 0.0])
def test_a_ruined_model_is_never_saved(tiny_model, pair_data, tmp_path, clipping):
    run = options(tiny_model, pair_data, tmp_path, max_steps=6, save_strategy="steps", save_steps=1)
    with pytest.raises(NonFiniteError, match="No weights of this step were saved"):
        train(run | {"learning_rate": 1e38, "lr_scheduler_type": "constant", "max_grad_norm": clipping})
    assert not (tmp_path / "model.safetensors").exists()
    for checkpoint in tmp_path.glob("checkpoint-*"):
        assert all(tensor.isfinite().all() for tensor in weights(checkpoint).values())


def test_everything_is_put_back_also_after_a_failure(tiny_model, pair_data, tmp_path):
    from llamafactory.data import converter, loader, parser
    from llamafactory.train.dpo import trainer, workflow

    def names():
        kept = {module: dict(vars(module)) for module in (converter, loader, parser, trainer, workflow)}
        return {(module.__name__, name): value for module, all in kept.items() for name, value in all.items()}

    before = names()
    train(options(tiny_model, pair_data, tmp_path / "good", max_steps=1))
    assert names() == before
    with pytest.raises(NonFiniteError):
        train(options(tiny_model, pair_data, tmp_path / "bad", learning_rate=1e38, lr_scheduler_type="constant"))
    assert names() == before


def test_command_line_of_a_ruined_run(tiny_model, tmp_path):
    """The first step ruins the model, the second one's loss shows it: one message, a status, and no model."""
    write_dataset(tmp_path / "data", make_rows(tmp_path / "data", 8))
    run = options(tiny_model, tmp_path / "data", tmp_path / "out", learning_rate=1e38, lr_scheduler_type="constant")
    done = command_line(run, tmp_path / "run.yaml")
    assert done.returncode == 1
    assert "Error: Step 2: loss nan" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "model.safetensors").exists()
