"""Options of upstream's losses in real runs: hinge and ipo as named, and a beta that grows with the score margin.

The losses are compared pair by pair with their formulas, from the log-probs that the run itself came to.
"""

import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from pairs import make_rows, options, train, write_dataset
from safetensors.torch import load_file

from llamafactory.train.uni_dpo.errors import UniDPOError
from llamafactory.train.uni_dpo.training.other_losses import OtherLosses


BETA = 0.5
NAMED = {"pref_loss_as_named": True, "pref_beta": BETA}
MARGIN = {"pref_loss": "sigmoid", "pref_margin_scale": 0.8, "pref_margin_rate": 0.3, "pref_beta": BETA}
# Weak enough that no loss vanishes.
SLOW = {"learning_rate": 1e-4, "max_steps": 3}


@pytest.fixture
def batches(monkeypatch):
    """What every loss of a run was computed from, batch by batch, and what came of it."""
    seen, compute = [], OtherLosses.dpo_loss

    def recorded(self, *logps, **kwargs):
        losses, *rewards = compute(self, *logps, **kwargs)
        scores = [self._carried.get(name) for name in ("score_chosen", "score_rejected")]
        seen.append({"logps": [values.detach() for values in logps], "scores": scores})
        seen[-1] |= {"losses": losses.detach(), "rewards": rewards}
        return losses, *rewards

    monkeypatch.setattr(OtherLosses, "dpo_loss", recorded)
    return seen


def logits(batch):
    chosen, rejected, reference_chosen, reference_rejected = (values.double() for values in batch["logps"])
    return (chosen - rejected) - (reference_chosen - reference_rejected)


def first(run):
    """What the first step logged: there policy and reference are the same, so that z = 0 for every pair."""
    return train(run | {"max_steps": 1, "max_grad_norm": 1e9})[0]


def assert_losses(seen, formula):
    assert len(seen) == 2 * SLOW["max_steps"] and any(logits(batch).abs().max() > 0.01 for batch in seen)
    for batch in seen:
        torch.testing.assert_close(batch["losses"].double(), formula(batch), rtol=1e-4, atol=1e-6)


def test_ipo(tiny_model, pair_data, tmp_path, batches):
    """(z - 1 / (2 beta))**2 of means over tokens: at the start (1 / (2 * 0.5))**2 = 1."""
    run = options(tiny_model, pair_data, tmp_path, pref_loss="ipo", **NAMED, **SLOW)
    assert train(run)[0]["loss"] == 1.0
    assert_losses(batches, lambda batch: (logits(batch) - 1 / (2 * BETA)) ** 2)
    for batch in batches:  # a token of the random model has log-probs about -log(vocabulary), and sums are far below
        assert all(-9 < value < -3 for values in batch["logps"] for value in values.tolist())


def test_hinge(tiny_model, pair_data, tmp_path, batches):
    """max(0, 1 - beta z) of sums over tokens."""
    assert train(options(tiny_model, pair_data, tmp_path, pref_loss="hinge", **NAMED, **SLOW))[0]["loss"] == 1.0
    assert_losses(batches, lambda batch: torch.relu(1 - BETA * logits(batch)))


@pytest.mark.parametrize("loss, ratio", [("ipo", 2 / BETA**2), ("hinge", 2)])
def test_gradients_are_those_of_the_name(tiny_model, pair_data, tmp_path, loss, ratio):
    """At z = 0 d loss / d z is -beta / 2 for sigmoid, -1 / beta for ipo and -beta for hinge; the rest is the same."""
    run = options(tiny_model, pair_data, tmp_path / "a", **NAMED, pref_loss=loss)
    plain = run | {"pref_loss": "sigmoid", "dpo_average_log_prob": loss == "ipo", "output_dir": str(tmp_path / "b")}
    assert first(run)["grad_norm"] / first(plain)["grad_norm"] == pytest.approx(ratio, rel=1e-4)


@pytest.mark.parametrize("loss", ["ipo", "hinge"])
def test_without_the_option_the_name_stays_unheard(tiny_model, pair_data, tmp_path, loss):
    """As upstream has it, also with our trainer: nobody's run changes unasked."""
    run = options(tiny_model, pair_data, tmp_path, pref_loss=loss, pref_beta=BETA, pref_forward="upstream")
    assert first(run)["loss"] == pytest.approx(math.log(2), abs=1e-4)


@pytest.mark.parametrize("loss", ["sigmoid", "orpo", pytest.param("simpo", marks=pytest.mark.long)])
def test_losses_that_are_what_they_say_stay_as_they_are(tiny_model, pair_data, tmp_path, loss):
    """To the last bit; `pref_forward` brings our trainer here, as `pref_loss_as_named` does there."""
    run = options(tiny_model, pair_data, tmp_path / "a", pref_loss=loss, max_steps=3)
    runs = run | {"pref_forward": "upstream"}, run | {"pref_loss_as_named": True, "output_dir": str(tmp_path / "b")}
    losses = [[entry.get("loss") for entry in train(each)] for each in runs]
    assert losses[0] == losses[1]
    weights = [load_file(tmp_path / name / "model.safetensors") for name in "ab"]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_margin(tiny_model, pair_data, rows, tmp_path, batches, smoothing):
    """-log sigmoid(b z), with smoothing s as upstream mixes it; b = 0.5 (1 + 0.8 (1 - exp(-0.3 delta))).

    Rewards are those of the base beta.
    """
    smooth = {"dpo_label_smoothing": smoothing} if smoothing else {}
    history = train(options(tiny_model, pair_data, tmp_path, **MARGIN, **SLOW, **smooth))

    def betas(batch):
        delta = (batch["scores"][0] - batch["scores"][1]).double().clamp(min=0)
        return BETA * (1 + 0.8 * (1 - torch.exp(-0.3 * delta)))

    def formula(batch):
        scaled = betas(batch) * logits(batch)
        return -F.logsigmoid(scaled) * (1 - smoothing) - F.logsigmoid(-scaled) * smoothing

    assert_losses(batches, formula)
    margins = {row["score_chosen"] - row["score_rejected"] for row in rows}
    assert min(margins) < 0 < max(margins)  # reversed pairs are among them
    of_first_step = torch.cat([betas(batch) for batch in batches[:2]])
    assert history[0]["uni_dpo/beta"] == pytest.approx(of_first_step.mean().item(), rel=1e-6)
    assert of_first_step.min() < of_first_step.max()
    for batch in batches:
        for reward, policy, reference in zip(batch["rewards"], batch["logps"], batch["logps"][2:], strict=False):
            torch.testing.assert_close(reward, BETA * (policy - reference), rtol=1e-6, atol=1e-6)


def test_margin_scales_the_gradient(tiny_model, tmp_path):
    """At z = 0 the gradient is -beta / 2: with scores 4 and 2 it grows by 1 + 0.5 (1 - exp(-1)) = 1.31606."""
    write_dataset(tmp_path, [row | {"score_chosen": 4, "score_rejected": 2} for row in make_rows(tmp_path, 8)])
    run = options(tiny_model, tmp_path, tmp_path / "a", pref_loss="sigmoid", pref_beta=BETA, pref_forward="upstream")
    grown = run | {"pref_margin_scale": 0.5, "output_dir": str(tmp_path / "b")}
    assert first(grown)["grad_norm"] / first(run)["grad_norm"] == pytest.approx(1.316060, rel=1e-4)


def test_margin_by_every_way_to_log_probs(tiny_model, pair_data, tmp_path, batches):
    """Upstream's forward, the engine with sums and with the reference's log-probs from a cache, cold and warm."""
    run = options(tiny_model, pair_data, tmp_path, **MARGIN, **SLOW, dpo_average_log_prob=True)
    cached = {"pref_forward": "auto", "uni_dpo_reference_cache": str(tmp_path / "cache")}
    losses = {}
    for name, way in {"upstream": {}, "auto": {"pref_forward": "auto"}, "cold": cached, "warm": cached}.items():
        batches.clear()
        train(run | way | {"output_dir": str(tmp_path / name)})
        losses[name] = torch.cat([batch["losses"] for batch in batches])
    for found in losses.values():
        torch.testing.assert_close(found, losses["upstream"], rtol=1e-3, atol=1e-4)


def test_margin_in_evaluation_and_beside_other_terms(tiny_model, pair_data, tmp_path):
    """`pref_ftx` adds 0.25 of the chosen answer's NLL, as MM-RLHF's own runs do."""
    run = options(tiny_model, pair_data, tmp_path, **MARGIN, val_size=4, eval_strategy="steps", eval_steps=1)
    history = train(run | {"pref_ftx": 0.25, "pref_bco_weight": 0.5, "max_steps": 2})
    evaluations = [entry for entry in history if "eval_loss" in entry]
    assert evaluations and all(BETA <= entry["eval_uni_dpo/beta"] < 1.8 * BETA for entry in evaluations)
    assert history[0]["loss"] > math.log(2) + 0.25 * 3


def test_margin_needs_scores_and_says_which_option_does(tiny_model, tmp_path):
    """In the file, and in what was tokenised."""
    rows = make_rows(tmp_path, 8)
    del rows[3]["score_rejected"]
    write_dataset(tmp_path, rows)
    run = options(tiny_model, tmp_path, tmp_path / "out", **MARGIN)
    with pytest.raises(UniDPOError, match='row 3 .*"score_rejected".*`pref_margin_scale: 0.8` needs a score') as found:
        train(run)
    assert "uni_dpo" not in str(found.value)
    write_dataset(tmp_path, [{k: v for k, v in row.items() if k != "score_rejected"} for row in rows])
    with pytest.raises(UniDPOError, match='no column "score_rejected", which `pref_margin_scale: 0.8` needs'):
        train(run)
    tokenized = {"tokenized_path": str(tmp_path / "tokenized")}
    train({k: v for k, v in run.items() if "margin" not in k} | tokenized | {"max_steps": 1})
    with pytest.raises(UniDPOError, match="no scores.*path of its own to `pref_margin_scale: 0.8`"):
        train(run | tokenized | {"output_dir": str(tmp_path / "b")})


def test_detached_weight_in_a_run(tiny_model, pair_data, tmp_path):
    """The first loss is the same, its gradient is weaker, and so the weights part."""
    run = options(tiny_model, pair_data, tmp_path / "a", max_steps=2, max_grad_norm=1e9)
    whole = train(run)
    detached = train(run | {"uni_dpo_perf_detached": True, "output_dir": str(tmp_path / "b")})
    for name in ("loss", "uni_dpo/w_perf"):
        assert detached[0][name] == whole[0][name]
    assert 0 < detached[0]["grad_norm"] < 0.9 * whole[0]["grad_norm"]
    assert detached[1]["loss"] != whole[1]["loss"]


@pytest.mark.parametrize("changes", [MARGIN, NAMED | {"pref_loss": "ipo"}], ids=["margin", "ipo"])
def test_resuming_is_exact(tiny_model, pair_data, tmp_path, changes):
    """As with every run of our trainer: the weights of an undisturbed run, to the last bit."""
    saving = {"max_steps": 4, "save_strategy": "steps", "save_steps": 3}
    run = options(tiny_model, pair_data, tmp_path / "whole", **changes, **saving)
    train(run)
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    train(run | {"output_dir": str(tmp_path / "resumed")})
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
