"""The losses that Uni-DPO is compared with: values and gradients by hand, what their papers promise, and trl's."""

import copy
import math
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import llamafactory.train.tuner  # noqa: F401  trl cannot be imported before it
from llamafactory.train.uni_dpo.objective.anchor import anchor
from llamafactory.train.uni_dpo.objective.losses import LOSSES
from llamafactory.train.uni_dpo.objective.pairs import Pairs
from llamafactory.train.uni_dpo.objective.wpo import policy_weights
from llamafactory.train.uni_dpo.options.fields import UniDPOArguments
from llamafactory.train.uni_dpo.training.weighing import likeness_of
from llamafactory.train.uni_dpo.upstream.underneath import OUR_LOSSES


# policy -20 and -26, reference -21 and -25: z = 6 - 4 = 2, and with beta 0.5 a reward margin r of 1.
LOGPS = (-20.0, -26.0, -21.0, -25.0)
BETA = 0.5
TINY = {torch.float32: 1e-5, torch.float64: 1e-12}


def tensors(*values, dtype=torch.float64, grad=False):
    return [torch.tensor([value], dtype=dtype, requires_grad=grad) for value in values]


def options(**changes):
    return SimpleNamespace(**{**vars(UniDPOArguments()), "pref_beta": BETA, **changes})


def loss_and_gradient(name, scores=(4.0, 1.0), logps=LOGPS, **changes):
    """The loss of a pair, and d loss / d logp(w), after looking that d loss / d logp(l) is the opposite."""
    policy = tensors(*logps[:2], grad=True)
    outcome = LOSSES[name](Pairs(*policy, *tensors(*logps[2:]), *tensors(*scores)), options(**changes))
    outcome.losses.sum().backward()
    assert policy[1].grad.item() == pytest.approx(-policy[0].grad.item(), abs=1e-12)
    assert not any(values.requires_grad for values in outcome.terms.values())
    return outcome.losses.item(), policy[0].grad.item()


@pytest.mark.parametrize(
    "name, changes, loss, gradient",
    [
        # -log sigmoid(1) = 0.3132617, -log sigmoid(-1) = 1.3132617: (0.9 * 0.3132617 - 0.1 * 1.3132617) / 0.8;
        # sigmoid(1) = 0.7310586: -0.5 (0.9 * 0.2689414 + 0.1 * 0.7310586) / 0.8.
        ("robust_dpo", {"pref_flip_rate": 0.1}, 0.1882617, -0.1969707),
        ("robust_dpo", {"pref_flip_rate": 0.0}, 0.3132617, -0.1344707),
        # log(1 + 3 exp(-1)) = log 2.1036383; the reward margin is log 3 - 1 = 0.0986123 short, and
        # -0.5 sigmoid(0.0986123) = -0.5 * 0.5246331.
        ("odpo", {}, 0.7436684, -0.2623165),
        # 0.5 * 3 asked for, 0.5 short: log(1 + exp(0.5)), -0.5 sigmoid(0.5) = -0.5 * 0.6224593.
        ("odpo", {"pref_offset_alpha": 0.5, "pref_offset_scaling": "identity"}, 0.9740770, -0.3112297),
        ("odpo", {"pref_offset_alpha": 0.0}, 0.3132617, -0.1344707),
        # t = 0.5 * 3 = 1.5: (1 - 1.5)**2, 0.5 * 2 * -0.5.
        ("rpo_sq", {"pref_reward_scale": 0.5}, 0.25, -0.5),
        # p = sigmoid(1.5) = 0.8175745, q = sigmoid(1) = 0.7310586, log p / q = 0.1118484,
        # log (1 - p) / (1 - q) = -0.3881516: 0.8175745 * 0.1118484 - 0.1824255 * 0.3881516; 0.5 (q - p).
        ("rpo_bwd_kl", {"pref_reward_scale": 0.5}, 0.0206356, -0.0432580),
        # -0.7310586 * 0.1118484 + 0.2689414 * 0.3881516; 0.5 * 0.7310586 * 0.2689414 * -0.5.
        ("rpo_fwd_kl", {"pref_reward_scale": 0.5}, 0.0226222, -0.0491530),
    ],
)
def test_by_hand(name, changes, loss, gradient):
    assert loss_and_gradient(name, **changes) == pytest.approx((loss, gradient), abs=2e-7)


def test_anchor_by_hand():
    """r(w) = 0.5 (-20 + 21) = 0.5: log(1 + exp(-0.5)) = 0.4740770, -0.5 * sigmoid(-0.5) = -0.5 * 0.3775407.

    With delta 0.5 nothing is left of it but log 2.
    """
    policy = tensors(*LOGPS[:2], grad=True)
    pairs = Pairs(*policy, *tensors(*LOGPS[2:]))
    value = anchor(pairs, beta=BETA, delta=0.0)
    value.sum().backward()
    assert (value.item(), policy[0].grad.item()) == pytest.approx((0.4740770, -0.1887703), abs=1e-7)
    assert policy[1].grad is None or not policy[1].grad.any()
    assert anchor(pairs, beta=BETA, delta=0.5).item() == pytest.approx(math.log(2), abs=1e-12)


def test_policy_weights_by_hand():
    """P = (0.8, 0.2), sum of squares 0.68: log 0.8 / 0.68 = 0.1625189, log 0.2 / 0.68 = -1.2237754.

    Chosen tokens 0, 0 and rejected ones 0, 1: exp(0.1625189 + (0.1625189 - 1.2237754) / 2) = exp(-0.3681094). Two
    answers that are likelier than drawn ones count 1. The first token is never scored, nor one without a label.
    """
    logits = torch.tensor([0.8, 0.2], dtype=torch.float64).log().expand(3, 4, 2) + 7
    labels = torch.tensor([[0, 0, 0, -100], [0, 0, -100, 1], [-100, 0, 0, 0]])
    likeness = likeness_of(logits, labels)
    assert likeness.tolist() == pytest.approx([0.1625189, -0.5306283, 0.1625189], abs=1e-6)
    found = policy_weights(likeness[[0, 0]].requires_grad_(), likeness[[1, 2]])
    assert found.tolist() == pytest.approx([0.6920416, 1.0], abs=1e-6) and not found.requires_grad


def test_a_reversed_pair():
    """Scores 1 and 4. ODPO has nothing to say of it, nor of a tie, as the limit of its formula.

    With the margin itself it asks for 1.5 less. RPO turns round: t = -1.5, (1 + 1.5)**2, and
    0.5 (q - p) = 0.5 (0.7310586 - 0.1824255) lets z fall.
    """
    for scores in ((1.0, 4.0), (2.0, 2.0)):
        loss, gradient = loss_and_gradient("odpo", scores)
        assert loss == gradient == 0
        assert loss_and_gradient("odpo", scores, pref_offset_alpha=0.001) == (0, 0)
    linear = {"pref_offset_alpha": 0.5, "pref_offset_scaling": "identity"}
    assert loss_and_gradient("odpo", (1.0, 4.0), **linear)[0] == pytest.approx(math.log1p(math.exp(-2.5)), abs=1e-12)
    assert loss_and_gradient("rpo_sq", (1.0, 4.0), pref_reward_scale=0.5) == pytest.approx((6.25, 2.5))
    assert loss_and_gradient("rpo_bwd_kl", (1.0, 4.0), pref_reward_scale=0.5)[1] == pytest.approx(0.2743165, abs=1e-6)


@pytest.mark.parametrize("rate", [0.1, 0.35])
def test_the_mean_over_wrong_labels_is_the_loss_on_right_ones(rate):
    """What robust DPO is made for, for values and gradients alike; exchanged labels exchange the answers."""
    exchanged = (LOGPS[1], LOGPS[0], LOGPS[3], LOGPS[2])
    right, wrong = (loss_and_gradient("robust_dpo", logps=it, pref_flip_rate=rate) for it in (LOGPS, exchanged))
    clean = loss_and_gradient("robust_dpo", pref_flip_rate=0.0)
    assert (1 - rate) * right[0] + rate * wrong[0] == pytest.approx(clean[0], abs=1e-12)
    assert (1 - rate) * right[1] - rate * wrong[1] == pytest.approx(clean[1], abs=1e-12)


def test_only_the_quality_weight():
    """`uni_dpo` with gamma and lambda 0: sigmoid(eta * 3) times DPO's loss, and its gradient, on either side of z.

    eta 0.7: sigmoid(2.1) = 0.8909032, and 0.8909032 * 0.3132617 = 0.2790859.
    """
    preset = {"uni_dpo_perf_gamma": 0.0, "uni_dpo_nll_lambda": 0.0}
    loss, gradient = loss_and_gradient("uni_dpo", **preset)
    assert (loss, gradient) == pytest.approx((0.2790859, 0.8909032 * -0.1344707), abs=1e-7)
    below = loss_and_gradient("uni_dpo", logps=(-26.0, -20.0, -25.0, -21.0), **preset)  # the NLL term would be on
    assert below[0] == pytest.approx(0.8909032 * 1.3132617, abs=1e-7)


numbers = st.floats(-1e9, 1e9, width=32)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(LOSSES)), st.tuples(numbers, numbers), st.tuples(*[st.floats(-1e4, 0, width=32)] * 4))
def test_finite_for_finite_input(name, scores, logps):
    """In float32, with scores of any scale; the square of a gap of 1e9 is the largest of them."""
    policy = tensors(*logps[:2], dtype=torch.float32, grad=True)
    rest = tensors(*logps[2:], *scores, dtype=torch.float32)
    losses = LOSSES[name](Pairs(*policy, *rest), options()).losses
    losses.sum().backward()
    assert losses.dtype == torch.float32 and all(torch.isfinite(x).all() for x in (losses, *(p.grad for p in policy)))


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_half_precision_is_computed_in_float32(name):
    """And gradients arrive in the precision of the log-probs."""
    policy = tensors(*LOGPS[:2], dtype=torch.bfloat16, grad=True)
    rest = [*tensors(*LOGPS[2:], dtype=torch.bfloat16), *tensors(4.0, 1.0, dtype=torch.float32)]
    outcome = LOSSES[name](Pairs(*policy, *rest), options())
    outcome.losses.sum().backward()
    assert outcome.losses.dtype == torch.float32 and policy[0].grad.dtype == torch.bfloat16
    assert outcome.losses.item() == pytest.approx(loss_and_gradient(name)[0], rel=1e-5)


def test_the_list_for_code_without_torch_is_the_registry():
    assert set(OUR_LOSSES) == LOSSES.keys() and len(OUR_LOSSES) == len(LOSSES)
    known = {*vars(UniDPOArguments()), "pref_beta"}
    assert all(set(loss.options.values()) <= known for loss in LOSSES.values())


# ---- trl's ----


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4])
def test_robust_dpo_is_trls(rate):
    """Its method on the same 40 pairs, values and gradients."""
    from trl import DPOTrainer

    torch.manual_seed(0)
    logps = [10 * torch.randn(40, dtype=torch.float64) for _ in range(4)]
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu"), reference_free=False, f_divergence_type="reverse_kl"
    )
    trainer.beta, trainer.label_smoothing = BETA, rate
    found = []
    for compute in (
        lambda *it: DPOTrainer.dpo_loss(trainer, *it, loss_type="robust")[0],
        lambda *it: LOSSES["robust_dpo"](Pairs(*it), options(pref_flip_rate=rate)).losses,
    ):
        policy = [values.clone().requires_grad_() for values in logps[:2]]
        losses = compute(*policy, *logps[2:])
        losses.sum().backward()
        found.append([losses.detach(), *(values.grad for values in policy)])
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_policy_weights_are_trls(tmp_path, tiny_model):
    """Its trainer on eight pairs of text, as it makes batches and weights of them; ours from the same rows.

    trl 0.24 moves log-probs one place to the right before it takes the sums of squares from them, so that each token
    is compared with the distribution of the next one; its 1.16 does not. Here they are left in their place.
    """
    from datasets import Dataset
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
    from trl import DPOConfig, DPOTrainer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, initializer_range=0.5,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    words = "one two three four five six seven eight".split()
    rows = [{"prompt": "Say " + word, "chosen": f" {word}." * 3, "rejected": " no, " + word} for word in words]
    args = DPOConfig(output_dir=str(tmp_path), use_weighting=True, use_cpu=True, report_to=[], bf16=False)
    args.per_device_train_batch_size = len(rows)
    model.warnings_issued = {}  # transformers 5 has none, and trl 0.24 writes into it
    parts = {"args": args, "processing_class": tokenizer, "train_dataset": Dataset.from_list(rows)}
    trainer = DPOTrainer(model, copy.deepcopy(model), **parts)
    batch = next(iter(trainer.get_train_dataloader()))
    roll = torch.roll
    with torch.no_grad(), mock.patch.object(torch, "roll", lambda it, shifts, dims: roll(it, min(shifts, 0), dims)):
        theirs = trainer.concatenated_forward(model, batch)["policy_weights"]
    sides = []
    for side in ("chosen", "rejected"):
        found = []
        for prompt, asked, answer, scored in zip(
            *(batch[f"prompt_{name}"] for name in ("input_ids", "attention_mask")),
            *(batch[f"{side}_{name}"] for name in ("input_ids", "attention_mask")),
            strict=True,
        ):
            question, said = prompt[asked.bool()], answer[scored.bool()]
            ids, labels = torch.cat([question, said])[None], torch.cat([torch.full_like(question, -100), said])[None]
            with torch.no_grad():
                found.append(likeness_of(model(ids).logits, labels))
        sides.append(torch.cat(found))
    ours = policy_weights(*sides)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert theirs.min() < 0.9 and theirs.unique().numel() > 4
