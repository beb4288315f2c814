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
from llamafactory.train.uni_dpo.record import plots
from llamafactory.train.uni_dpo.record.pair_log import PAIR_LOG, read_pair_log


OURS = ["w_qual", "w_perf", "nll_weight", "policy_margin", "reference_margin"]
UPSTREAMS = ["rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"]
UPSTREAMS += ["logps/chosen", "logps/rejected", "logits/chosen", "logits/rejected"]
RUIN = {"learning_rate": 1e38, "lr_scheduler_type": "constant"}


def weights(output, name="model") -> dict[str, torch.Tensor]:
    return load_file(Path(output) / f"{name}.safetensors")


def pair_log(output):
    return read_pair_log(str(Path(output) / PAIR_LOG))


def assert_equal(first, second):
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def run(tiny_model, pair_data, rows, tmp_path_factory):
    """One undisturbed run with everything on, and two sets to evaluate: its options and its output folder."""
    output = tmp_path_factory.mktemp("run") / "out"
    changes = {"max_steps": 8, "eval_strategy": "steps", "eval_steps": 4, "uni_dpo_log_pairs": True}
    for name, part in (("train", rows[:20]), ("held", rows[20:]), ("other", rows[:4])):
        write_dataset(pair_data, part, name=name)
    changes |= {"dataset": "train", "eval_dataset": "held,other", "eval_on_each_dataset": True}
    run = options(tiny_model, pair_data, output, save_strategy="steps", save_steps=3, **changes)
    train(run, pictures=True)
    return run


def test_metrics_of_training_and_evaluation(run):
    history = log_history(run["output_dir"])
    steps = [entry for entry in history if "loss" in entry]
    assert len(steps) == 8
    for entry in steps:
        assert {f"uni_dpo/{name}" for name in OURS} | set(UPSTREAMS) <= entry.keys()
    for held in ("eval_held", "eval_other"):
        evaluations = [entry for entry in history if f"{held}_loss" in entry]
        wanted = {f"eval_uni_dpo/{name}" for name in OURS} | {f"eval_{name}" for name in UPSTREAMS}
        assert len(evaluations) >= 2 and all(wanted <= entry.keys() for entry in evaluations)
    assert steps[-1]["loss"] < steps[0]["loss"]


def test_first_step_by_hand(run):
    """Policy = reference, so the loss of each pair is w_qual * w_perf * log 2; scores come from the file."""
    rows = json.loads((Path(run["dataset_dir"]) / "train.json").read_text())
    for logged in [row for row in pair_log(run["output_dir"]) if row["step"] == 1]:
        source = rows[logged["row"]]
        assert logged["dataset"] == "train"
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
    assert len({row["row"] for row in rows[:20]}) == 20


def test_pictures_show_every_evaluation_set(run):
    for name in ("uni_dpo_training.png", "uni_dpo_pairs.png"):
        assert (Path(run["output_dir"]) / name).read_bytes().startswith(b"\x89PNG")
    names = plots.evaluation_losses(log_history(run["output_dir"]))
    assert names == {"eval held": "eval_held_loss", "eval other": "eval_other_loss"}


def test_no_legend_hides_another_or_the_weights(tmp_path, monkeypatch):
    """The weights' curves are on two axes, whose legends used to lie on each other."""
    names = ("loss", "rewards/margins", "rewards/accuracies", "uni_dpo/w_qual", "uni_dpo/w_perf", "uni_dpo/nll_weight")
    history = [{"step": step} | dict.fromkeys(names, 1 / step) for step in range(1, 60)]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    plots._plot_training(str(tmp_path))
    (figure,) = figures
    figure.canvas.draw()
    legends = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    boxes = [legend.get_window_extent() for legend in legends]
    assert len(boxes) == 4 and not any(one.overlaps(two) for one in boxes for two in boxes if one is not two)
    below = figure.axes[-2].get_legend()
    assert [text.get_text() for text in below.get_texts()] == ["w_qual", "w_perf", "c-NLL (right)"]
    assert not any(below.get_window_extent().overlaps(axes.get_window_extent()) for axes in figure.axes)
    assert figure.bbox.count_contains(below.get_window_extent().corners()) == 4


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
    assert_equal(weights(run["output_dir"]), weights(output))
    assert pair_log(output) == pair_log(run["output_dir"])


def test_lora_resumes_and_has_the_model_without_its_adapter_as_reference(tiny_model, pair_data, tmp_path):
    run = options(tiny_model, pair_data, tmp_path / "whole", finetuning_type="lora", lora_rank=4, max_steps=12)
    run |= {"save_strategy": "steps", "save_steps": 7, "learning_rate": 1e-2, "uni_dpo_log_pairs": True}
    train(run)
    rows, seen = pair_log(tmp_path / "whole"), {}
    for row in rows:  # every pair comes twice: its reference margin stays, its policy margin moves
        seen.setdefault(row["row"], []).append(row)
    for first, second in seen.values():
        assert first["reference_margin"] == pytest.approx(second["reference_margin"], abs=1e-6)
    assert max(abs(row["policy_margin"] - row["reference_margin"]) for row in rows[-24:]) > 0.01
    assert all(row["policy_margin"] == row["reference_margin"] for row in rows[:4])
    shutil.copytree(tmp_path / "whole" / "checkpoint-7", tmp_path / "resumed" / "checkpoint-7")
    shutil.copy(tmp_path / "whole" / PAIR_LOG, tmp_path / "resumed")
    train(run | {"output_dir": str(tmp_path / "resumed")})
    assert_equal(*(weights(tmp_path / name, "adapter_model") for name in ("whole", "resumed")))


def test_undisturbed_order_is_upstreams(tiny_model, pair_data, tmp_path, monkeypatch):
    """Over two epochs and more, so that runs with other losses see the same batches."""
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
            train(options(tiny_model, pair_data, tmp_path / loss, pref_loss=loss, max_steps=14))
    assert len(seen["sigmoid"]) == 2 * 14 and seen["sigmoid"] == seen["uni_dpo"]


def test_a_new_run_in_the_same_folder_starts_a_new_pair_log(run, tmp_path):
    fresh = run | {"output_dir": str(tmp_path), "max_steps": 2, "save_strategy": "no", "overwrite_output_dir": True}
    for _ in range(2):
        train(fresh | {"eval_dataset": None, "eval_strategy": "no", "eval_on_each_dataset": False})
    assert [row["step"] for row in pair_log(tmp_path)] == [1] * 4 + [2] * 4


def test_frozen_and_trainable_vision_tower(run, tiny_model, pair_data, tmp_path):
    before = weights(tiny_model)
    tower = {name: tensor for name, tensor in before.items() if "visual" in name}
    assert_equal(tower, weights(run["output_dir"]))
    thawed = {"freeze_vision_tower": False, "freeze_multi_modal_projector": False}
    train(options(tiny_model, pair_data, tmp_path, max_steps=2, **thawed))
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
    from llamafactory.train.tuner import run_exp

    run = options(tiny_model, pair_data, tmp_path, do_train=False, do_eval=True, eval_dataset="pairs", dataset=None)
    run_exp(run | {"ref_model": str(tiny_model)})
    results = json.loads((tmp_path / "eval_results.json").read_text())
    assert {"eval_loss", "eval_rewards/accuracies", "eval_uni_dpo/w_qual"} <= results.keys()


@pytest.fixture(scope="module")
def first_steps(tiny_model, pair_data, rows, tmp_path_factory):
    """What the first step logs under several options, and where it trained.

    All of them by upstream's forward, so that the numbers are the same to the last bit.
    """
    folder, uni = tmp_path_factory.mktemp("steps"), {"pref_loss": "uni_dpo", "pref_forward": "upstream"}
    swapped = [row | {"score_chosen": row["score_rejected"], "score_rejected": row["score_chosen"]} for row in rows]
    write_dataset(pair_data, swapped, name="reversed")
    changes = {
        "ipo": {"pref_loss": "ipo"},
        "mean": {"pref_loss": "sigmoid", "dpo_average_log_prob": True},
        "sum": {"pref_loss": "sigmoid"},
        "uni": uni,
        "uni_sum": uni | {"dpo_average_log_prob": False},
        "supervised": uni | {"pref_ftx": 0.5, "uni_dpo_log_pairs": True},
        "reversed": uni | {"dataset": "reversed"},
    }
    names = changes.items()
    return folder, {n: train(options(tiny_model, pair_data, folder / n, max_steps=1, **c))[0] for n, c in names}


def test_supervised_term_is_added(first_steps):
    """`pref_ftx` adds the mean negative log-prob of the chosen response, here about log(vocabulary) at the start."""
    folder, logs = first_steps
    logged = [row["loss"] for row in pair_log(folder / "supervised")]
    assert sum(logged) / len(logged) == pytest.approx(logs["supervised"]["loss"], abs=1e-4)
    gain = logs["supervised"]["loss"] - logs["uni"]["loss"]
    assert gain == pytest.approx(-0.5 * logs["uni"]["logps/chosen"], abs=1e-3)


def test_length_normalised_dpo_sees_the_log_probs_that_ipo_sees(first_steps):
    """Upstream's ipo takes means over response tokens; its sigmoid loss takes sums unless ours is asked for means."""
    logged = first_steps[1]
    for key in ("logps/chosen", "logps/rejected"):
        assert logged["mean"][key] == logged["uni"][key] == logged["ipo"][key]
        assert logged["sum"][key] == logged["uni_sum"][key]
        assert logged["sum"][key] < 3 * logged["mean"][key]


def test_scores_matter(first_steps):
    """The same pairs with all margins reversed give another loss: a trainer that ignores scores would not notice."""
    first, second = (first_steps[1][name] for name in ("uni", "reversed"))
    assert first["uni_dpo/w_qual"] + second["uni_dpo/w_qual"] == pytest.approx(1, abs=1e-6)
    assert first["loss"] != second["loss"]


@pytest.mark.parametrize("clipping", [1.0, 0.0])
def test_a_ruined_model_is_never_saved_and_everything_is_put_back(tiny_model, pair_data, tmp_path, clipping):
    """The names of LlamaFactory that a run replaces are upstream's again, as after a run that ends well."""
    from llamafactory.data import converter, loader, parser
    from llamafactory.train.dpo import trainer, workflow

    def names():
        kept = {module: dict(vars(module)) for module in (converter, loader, parser, trainer, workflow)}
        return {(module.__name__, name): value for module, all in kept.items() for name, value in all.items()}

    before = names()
    run = options(tiny_model, pair_data, tmp_path, max_steps=6, save_strategy="steps", save_steps=1)
    with pytest.raises(NonFiniteError, match="No weights of this step were saved"):
        train(run | RUIN | {"max_grad_norm": clipping})
    assert names() == before
    assert not (tmp_path / "model.safetensors").exists()
    for checkpoint in tmp_path.glob("checkpoint-*"):
        assert all(tensor.isfinite().all() for tensor in weights(checkpoint).values())
    train(run | {"output_dir": str(tmp_path / "good"), "max_steps": 1})
    assert names() == before


def test_command_line_of_a_ruined_run(tiny_model, tmp_path):
    """The first step ruins the model, the second one's loss shows it: one message, a status, and no model."""
    write_dataset(tmp_path / "data", make_rows(tmp_path / "data", 8))
    done = command_line(options(tiny_model, tmp_path / "data", tmp_path / "out", **RUIN), tmp_path / "run.yaml")
    assert done.returncode == 1
    assert "Error: Step 2: loss nan" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "model.safetensors").exists()
