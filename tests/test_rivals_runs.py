"""The losses that Uni-DPO is compared with in real runs: their formulas pair by pair, every route, caches, budgets."""

import json
import math
import re
import shutil

import pytest
import torch
import torch.nn.functional as F
import yaml
from launching import EXAMPLES
from omegaconf import OmegaConf
from pairs import ROOT, mixed, options, train, write_dataset
from ranks import course, job, said, statuses, train_jobs
from recorded import recorded_run

from llamafactory.train.uni_dpo.errors import UniDPOError
from llamafactory.train.uni_dpo.objective.losses import LOSSES
from llamafactory.train.uni_dpo.training.trainer import UniDPOTrainer


BETA, RATE = 0.5, 1e-4
STEPS = {"pref_beta": BETA, "learning_rate": RATE, "adam_epsilon": 1e-5, "max_steps": 3, "uni_dpo_log_pairs": True}
RIVALS = {
    "robust_dpo": {"pref_flip_rate": 0.2},
    "odpo": {"pref_offset_alpha": 0.8},
    "rpo_sq": {"pref_reward_scale": 0.05},
    "rpo_bwd_kl": {"pref_reward_scale": 0.3},
    "rpo_fwd_kl": {"pref_reward_scale": 0.3},
}
ALL_AT_ONCE = {"pref_pair_weights": True, "pref_policy_weights": True, "pref_anchor": 0.7, "pref_anchor_delta": 0.1}


@pytest.fixture(scope="module")
def data(rows, pair_data):
    """Pairs without a picture, with one and with two; each has a weight, some have none to speak of."""
    weights = [{"weight": (number % 5) / 2} for number in range(len(rows))]
    return write_dataset(pair_data, [row | more for row, more in zip(mixed(rows), weights, strict=True)], "weighted")


def settings(model, data, output, loss, **changes):
    return options(model, data, output, **{"dataset": "weighted", "pref_loss": loss, **STEPS, **changes})


def logged(output):
    """The pair log, in an order that does not depend on how a step was cut."""
    with open(f"{output}/uni_dpo_pairs.jsonl") as lines:
        return sorted(map(json.loads, lines), key=lambda row: (row["step"], row["row"]))


def softplus(value):
    return max(value, 0) + math.log1p(math.exp(-abs(value)))


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def divergence(p, q):
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def formula(loss, row):
    """What the loss of a pair is, from its margins and scores."""
    r = BETA * (row["policy_margin"] - row["reference_margin"])
    assert row["reward_margin"] == pytest.approx(r, rel=1e-4, abs=1e-5)
    if loss == "robust_dpo":
        return (0.8 * softplus(-r) - 0.2 * softplus(r)) / 0.6
    gap = row["score_chosen"] - row["score_rejected"]
    if loss == "odpo":
        return math.log1p(gap**0.8 * math.exp(-r)) if gap > 0 else 0.0
    if loss == "rpo_sq":
        return (r - 0.05 * gap) ** 2
    p, q = sigmoid(0.3 * gap), sigmoid(r)
    return divergence(p, q) if loss == "rpo_bwd_kl" else divergence(q, p)


@pytest.mark.parametrize("loss", RIVALS)
def test_losses_of_a_run(tiny_model, data, tmp_path, loss):
    """Every pair of every step, by the shared prefix, which is how losses of ours run unless told otherwise."""
    run = recorded_run(settings(tiny_model, data, tmp_path, loss, **RIVALS[loss]))
    assert run.about("pref_forward: shared_prefix.")
    rows = logged(tmp_path)
    assert len(rows) == 12 and ("score_chosen" in rows[0]) == LOSSES[loss].scores and "weight" not in rows[0]
    assert any(abs(row["policy_margin"]) > 5 for row in rows)  # sums over tokens, as in the papers
    assert max(abs(row["reward_margin"]) for row in rows) > 1e-3
    for row in rows:
        assert row["loss"] == pytest.approx(formula(loss, row), rel=2e-4, abs=2e-5), row
    first = [row["loss"] for row in rows if row["step"] == 1]
    assert run.curve("loss")[0] == pytest.approx(sum(first) / 4, rel=1e-3, abs=1e-4)


@pytest.fixture(scope="module")
def all_at_once(tiny_model, data, tmp_path_factory):
    """ODPO with every weight there is and the anchor: the options, and what happened."""
    folder = tmp_path_factory.mktemp("all")
    run = settings(tiny_model, data, folder / "out", "odpo", **ALL_AT_ONCE, pref_ftx=0.25)
    return run, recorded_run(run)


def test_weights_and_anchor(all_at_once, data):
    """Weight * (w_policy * loss + 0.7 * anchor + 0.25 * NLL of the chosen answer's mean token)."""
    run, outcome = all_at_once
    weights = [row["weight"] for row in json.loads((data / "weighted.json").read_text())]
    rows = logged(run["output_dir"])
    assert {row["weight"] for row in rows} > {0.0} and all(row["weight"] == weights[row["row"]] for row in rows)
    assert all(0 < row["w_policy"] <= 1 for row in rows) and len({row["w_policy"] for row in rows}) > 6
    for row in rows:
        gap = max(0, row["score_chosen"] - row["score_rejected"])
        base = math.log1p(gap * math.exp(-row["reward_margin"]))
        nll = row["loss"] / row["weight"] - row["w_policy"] * base - 0.7 * row["anchor"] if row["weight"] else 0.25 * 6
        assert 3 < nll / 0.25 < 9, row  # a token of the random model has log-probs about -log(vocabulary)
        assert row["weight"] or row["loss"] == 0
    at_start = softplus(0.1)  # policy and reference are the same
    assert all(row["anchor"] == pytest.approx(at_start, abs=1e-3) for row in rows if row["step"] == 1)
    for name in ("weight", "w_policy", "anchor", "offset"):
        first = [row[name] for row in rows if row["step"] == 1]
        assert outcome.curve(f"uni_dpo/{name}")[0] == pytest.approx(sum(first) / 4, rel=1e-4)


CAUSES = {
    "response_only": {"pref_forward": "response_only"},
    "upstream": {"pref_forward": "upstream"},
    "budget": {"pref_token_budget": 16384},
    "caches": {"uni_dpo_reference_cache": "reference", "uni_dpo_image_cache": "images"},
    "caches, budget": {"uni_dpo_reference_cache": "reference", "pref_token_budget": 16384},
}


@pytest.mark.parametrize("cause", CAUSES)
def test_the_course_is_the_same(all_at_once, tmp_path, cause):
    """By every route, joined or not, with stored log-probs or a reference model."""
    run, expected = all_at_once
    changes = {k: str(tmp_path / v) if k.endswith("cache") else v for k, v in CAUSES[cause].items()}
    found = recorded_run(run | changes | {"output_dir": str(tmp_path / "out")})
    assert len(found.batches) == (3 if "budget" in cause else 6) and len(expected.batches) == 6
    for one, other in zip(logged(run["output_dir"]), logged(tmp_path / "out"), strict=True):
        assert one.keys() == other.keys() and one["row"] == other["row"]
        for name in one.keys() - {"dataset"}:
            assert other[name] == pytest.approx(one[name], rel=1e-3, abs=3e-4), name
    for name in ("loss", "grad_norm"):
        assert found.curve(name) == pytest.approx(expected.curve(name), rel=2e-3, abs=2e-4), name
    assert all((value - expected.weights[name]).abs().max() < 0.1 * RATE for name, value in found.weights.items())


@pytest.mark.parametrize("loss", ["robust_dpo", "rpo_bwd_kl"])
def test_lora_and_resuming(tiny_model, data, tmp_path, loss):
    """Of an adapter the reference is the model without it; going on is exact."""
    changes = RIVALS[loss] | {"finetuning_type": "lora", "pref_policy_weights": True, "pref_token_budget": 300}
    run = settings(tiny_model, data, tmp_path / "whole", loss, **changes, save_strategy="steps", save_steps=2)
    whole = recorded_run(run)
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    resumed = recorded_run(run | {"output_dir": str(tmp_path / "resumed")})
    assert whole.weights and all(torch.equal(value, resumed.weights[name]) for name, value in whole.weights.items())
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "other" / "checkpoint-2")
    with pytest.raises(UniDPOError, match="pref_policy_weights"):
        train(run | {"output_dir": str(tmp_path / "other"), "pref_policy_weights": False})


def test_a_weight_of_two_is_the_pair_twice(tiny_model, data, rows, tmp_path):
    """Three pairs, the middle one with a weight of 2, and a gradient of 4 / 3 of that of four rows without weights.

    A weight of zero leaves a pair out.
    """
    three = [row | {"weight": weight} for row, weight in zip(rows[:3], (1, 2, 1), strict=True)]
    write_dataset(data, three, "three")
    write_dataset(data, [rows[0], rows[1], rows[1], rows[2]], "four")
    write_dataset(data, [row | {"weight": 0} for row in rows[:3]], "none")
    once = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 1, "max_grad_norm": 1e9}
    run = settings(tiny_model, data, tmp_path / "a", "sigmoid", **once, pref_forward="auto")
    plain = train(run | {"dataset": "four"})[0]
    weighted = train(run | {"dataset": "three", "pref_pair_weights": True, "output_dir": str(tmp_path / "b")})[0]
    for name in ("loss", "grad_norm"):
        assert 3 * weighted[name] == pytest.approx(4 * plain[name], rel=1e-3)
    nothing = train(run | {"dataset": "none", "pref_pair_weights": True, "output_dir": str(tmp_path / "c")})[0]
    assert (nothing["loss"], nothing["grad_norm"]) == (0, 0)


@pytest.mark.parametrize("loss", ["simpo", "orpo", "ipo", "sigmoid"])
def test_weights_go_with_upstreams_losses(tiny_model, data, tmp_path, loss):
    """Means of what upstream's loss is, times what is logged as weights; the budget joins them too."""
    run = settings(tiny_model, data, tmp_path / "a", loss, pref_pair_weights=True, pref_policy_weights=True)
    run |= {"pref_forward": "auto", "max_steps": 2, "uni_dpo_log_pairs": False}
    found = recorded_run(run)
    joined = recorded_run(run | {"pref_token_budget": 16384, "output_dir": str(tmp_path / "b")})
    assert all(0 < value <= 1 for value in found.curve("uni_dpo/w_policy"))
    assert joined.curve("loss") == pytest.approx(found.curve("loss"), rel=2e-3)
    assert joined.curve("uni_dpo/w_policy") == pytest.approx(found.curve("uni_dpo/w_policy"), rel=2e-3)


def rows_of_the_page():
    """What the table of `docs/options.md` says to set, row by row."""
    text = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    table = text.split("## Other losses, and what each is for")[1].split("\n| --- | --- | --- |\n")[1].split("\n\n")[0]
    found = {}
    for line in table.splitlines():
        what, given, _ = line.strip("| ").split(" | ", 2)
        what = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", what)
        found[what] = dict(yaml.safe_load(setting).popitem() for setting in re.findall("`(.+?)`", given))
    return found


@pytest.mark.parametrize("what", rows_of_the_page())
def test_what_the_page_says_to_set_trains(tiny_model, data, tmp_path, what):
    """In both languages; and the name of a loss of ours is in the page."""
    said = rows_of_the_page()[what]
    for page in ("options.md", "options_zh.md"):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        assert " ".join(f"`{name}: {str(value).lower()}`" for name, value in said.items()) in text
        assert all(f"`{loss}`" in text or f"`pref_loss: {loss}`" in text for loss in LOSSES)
    run = options(tiny_model, data, tmp_path, dataset="weighted", max_steps=1, **{"pref_loss": "sigmoid"} | said)
    assert math.isfinite(train(run)[0]["loss"])


def test_mpo_is_what_its_example_says(tiny_model, data, tmp_path, monkeypatch):
    """0.8 DPO + 0.2 BCO + 1.0 NLL, with BCO's baseline the mean of all micro-batches' mean rewards so far.

    At the start that is 0.8 log 2 + 0.2 * 2 log 2 beside the NLL.
    """
    recipe = OmegaConf.to_container(OmegaConf.load(EXAMPLES / "Qwen2_VL_2B_mpo.yaml"))
    mpo = {name: recipe[name] for name in recipe if name.startswith(("pref_", "dpo_"))}
    seen, compute = [], UniDPOTrainer.compute_preference_loss

    def recorded(self, *logps):
        found = compute(self, *logps)
        seen.append(([values.detach().double() for values in logps], found[0].detach().double()))
        return found

    monkeypatch.setattr(UniDPOTrainer, "compute_preference_loss", recorded)
    run = settings(tiny_model, data, tmp_path, **{"loss": mpo.pop("pref_loss"), **mpo, "uni_dpo_log_pairs": False})
    outcome, beta, means = recorded_run(run), mpo["pref_beta"], []
    for (chosen, rejected, *reference), losses in seen:
        gains = [beta * (policy - other) for policy, other in zip((chosen, rejected), reference, strict=True)]
        means.append(torch.cat(gains).mean())
        delta = sum(means) / len(means)
        dpo = -F.logsigmoid(gains[0] - gains[1])
        bco = -F.logsigmoid(gains[0] - delta) - F.logsigmoid(delta - gains[1])
        torch.testing.assert_close(losses, 0.8 * dpo + 0.2 * bco, rtol=1e-4, atol=1e-5)
    nll = outcome.curve("loss")[0] - 1.2 * math.log(2)
    assert 3 < nll < 9 and len(seen) == 6 and abs(means[-1]) > 1e-4


@pytest.mark.parametrize(
    "value, said",
    [
        (None, "there is no number"),
        (-0.5, "-0.5 is negative"),
        ("many", "'many' is not a finite number"),
        (float("nan"), "there is no number|nan is not a finite number"),
        (1e39, "1e+39 is not a finite number"),
    ],
)
def test_wrong_weights_are_told_by_row(tiny_model, data, rows, tmp_path, value, said):
    bad = [row | {"weight": str(value) if number == 5 and value == "many" else 1.0} for number, row in enumerate(rows)]
    bad[5]["weight"] = value
    write_dataset(data, bad, "bad")
    run = settings(tiny_model, data, tmp_path, "sigmoid", dataset="bad", pref_pair_weights=True)
    needs = "`pref_pair_weights: true` needs a weight for every pair"
    with pytest.raises(UniDPOError, match=f'"bad", row 5 .*column "weight": ({said}).*{needs}'.replace("+", r"\+")):
        train(run)


def test_where_weights_are(tiny_model, data, rows, tmp_path):
    """By a name of their own in dataset_info.json; said where there are none, in files and in what was tokenised."""
    from pairs import ALPACA

    named = [row | {"how much": str(1 + number / 4)} for number, row in enumerate(rows)]
    write_dataset(data, named, "named", columns=ALPACA | {"weight": "how much"})
    run = settings(
        tiny_model, data, tmp_path / "a", "robust_dpo", dataset="named", pref_pair_weights=True, max_steps=1
    )
    train(run)
    assert all(row["weight"] == 1 + row["row"] / 4 for row in logged(tmp_path / "a"))
    with pytest.raises(UniDPOError, match='"pairs" has no column "weight", which `pref_pair_weights: true` needs'):
        train(run | {"dataset": "pairs", "output_dir": str(tmp_path / "b")})
    tokenized = {"tokenized_path": str(tmp_path / "tokenized"), "output_dir": str(tmp_path / "c")}
    train(run | tokenized | {"pref_pair_weights": False})
    with pytest.raises(UniDPOError, match="no weights in its train.*a path of its own to `pref_pair_weights: true`"):
        train(run | tokenized | {"output_dir": str(tmp_path / "d")})


def test_pictures_of_a_loss_without_scores(tiny_model, data, tmp_path):
    """And of one with neither a weight nor a term."""
    train(settings(tiny_model, data, tmp_path / "a", "robust_dpo"), pictures=True)
    train(settings(tiny_model, data, tmp_path / "b", "odpo", pref_policy_weights=True), pictures=True)
    for folder in "ab":
        assert {path.name for path in (tmp_path / folder).glob("uni_dpo_*.png")} == {
            "uni_dpo_training.png",
            "uni_dpo_pairs.png",
        }


def test_ranks_equal_one_process(tiny_model, data, tmp_path):
    """The sums of squared probabilities are taken where an output layer is gathered, which ZeRO-3 and FSDP shard."""
    plans = {}
    for strategy, ranks in (("alone", 0), ("ddp", 2), ("zero3", 2), ("fsdp2", 2)):
        folder = tmp_path / strategy
        changes = ALL_AT_ONCE | {"gradient_accumulation_steps": 8 // max(1, ranks), "per_device_train_batch_size": 1}
        changes |= {"disable_shuffling": True, "pref_token_budget": 600 if ranks else 0}
        plans[strategy] = folder, job(folder, strategy, ranks, settings(tiny_model, data, folder, "odpo", **changes))
    train_jobs([described for _, described in plans.values()])
    alone = course(plans.pop("alone")[0] / "out", 24)
    for strategy, (folder, _) in plans.items():
        assert set(statuses(folder)) == {0}, said(folder)[-3000:]
        loss, weight = course(folder / "out", 24).off(alone)
        assert loss < 2e-4 and weight < 0.1 * RATE, (strategy, loss, weight)
