"""The objective: worked numbers, the published code's own digits, limits that must coincide, extreme inputs."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafactory.train.uni_dpo.objective.loss import uni_dpo_loss


PUBLISHED = {"beta": 2.0, "qual_eta": 0.7, "tau_ref": 2.0, "perf_gamma": 3.0, "nll_lambda": 0.001, "tau_good": 2.5}
GOLDEN = json.loads((Path(__file__).parent / "golden" / "loss_cases.json").read_text())["cases"]


def terms(policy, reference, scores, **changes):
    """Loss of one pair, each argument being (chosen, rejected)."""
    values = [torch.tensor([float(value)], dtype=torch.float64) for value in (*policy, *reference, *scores)]
    return uni_dpo_loss(*values, **(PUBLISHED | changes))


def test_quality_weight():
    """sigmoid(0.7 * (4 - 2)) = sigmoid(1.4) = 0.802184; a tie gives one half, a reversed pair the rest to one."""
    assert terms((-1, -1), (-1, -1), (4, 2)).w_qual.item() == pytest.approx(0.802184, abs=1e-6)
    assert terms((-1, -1), (-1, -1), (3, 3)).w_qual.item() == 0.5
    assert terms((-1, -1), (-1, -1), (2, 4)).w_qual.item() == pytest.approx(1 - 0.802184, abs=1e-6)


@pytest.mark.parametrize("margin, weight", [(0, 0.683), (0.5, 0.391), (1, 0.125), (2, 0.0017)])
def test_performance_weight(margin, weight):
    """(1 - sigmoid(2 m - 2))**3: at m = 0, 1 - sigmoid(-2) = 0.8808 and 0.8808**3 = 0.683."""
    assert terms((-1 + margin, -1), (-1, -1), (3, 1)).w_perf.item() == pytest.approx(weight, rel=0.02)


def test_whole_loss():
    """Policy margin 0.5, reference margin 0.25, scores 3 and 1, chosen below the reference's -0.9.

    w_qual = sigmoid(1.4) = 0.802184; w_perf = (1 - sigmoid(-1))**3 = 0.731059**3 = 0.390714;
    z = 2 * 0.25 = 0.5 and -log sigmoid(0.5) = 0.474077; NLL = 0.001 * 1.0.
    """
    loss = terms((-1.0, -1.5), (-0.9, -1.15), (3, 1))
    assert loss.losses.item() == pytest.approx(0.802184 * 0.390714 * 0.474077 + 0.001, abs=1e-6)
    assert loss.chosen_rewards.item() == pytest.approx(-0.2)
    assert loss.rejected_rewards.item() == pytest.approx(-0.7)


def test_nll_is_on_only_for_a_good_answer_that_the_policy_fits_worse_than_the_reference():
    below, equal = ((-1.1, -2), (-1.0, -2)), ((-1.0, -2), (-1.0, -2))
    assert terms(*below, (2.5, 1)).nll_weight.item() == 0.001  # tau_good itself counts
    assert terms(*below, (2.499999, 1)).nll_weight.item() == 0
    assert terms(*equal, (2.5, 1)).nll_weight.item() == 0  # as at step 0: strictly below only


def test_degenerates_to_half_of_length_normalised_dpo():
    """With gamma = 0, lambda = 0 and equal scores both weights are constants, 1 and one half."""
    policy, reference = torch.randn(2, 50, dtype=torch.float64), torch.randn(2, 50, dtype=torch.float64)
    scores = torch.full((50,), 3.0)
    off = PUBLISHED | {"perf_gamma": 0.0, "nll_lambda": 0.0}
    loss = uni_dpo_loss(*policy, *reference, scores, scores, **off)
    dpo = -F.logsigmoid(2.0 * ((policy[0] - policy[1]) - (reference[0] - reference[1])))
    torch.testing.assert_close(loss.losses, dpo / 2, rtol=1e-14, atol=0)


@pytest.mark.parametrize("case", GOLDEN, ids=range(len(GOLDEN)))
def test_published_code(case):
    """Values and gradients of the published code, in float64; where that is not finite, ours is."""
    names = ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected", "score_chosen", "score_rejected")
    inputs = [torch.tensor(case[name], dtype=torch.float64) for name in names]
    policy = [values.requires_grad_() for values in inputs[:2]]
    loss = uni_dpo_loss(*inputs, **case["hyper"])
    loss.losses.sum().backward()
    ours = {
        "losses": loss.losses,
        "w_qual": loss.w_qual,
        "w_perf": loss.w_perf,
        "nll_coeff": loss.nll_weight,
        "chosen_rewards": loss.chosen_rewards,
        "rejected_rewards": loss.rejected_rewards,
        "grad_policy_chosen": policy[0].grad,
        "grad_policy_rejected": policy[1].grad,
    }
    bound = 1e-6 if case["hyper"]["perf_gamma"] < 1 else 1e-12
    for name, values in ours.items():
        digits = case[name] or [0.0] * len(values)  # the published code skips the NLL term where lambda is 0
        theirs = torch.tensor(digits, dtype=torch.float64)
        assert values.isfinite().all(), name
        known = theirs.isfinite()
        torch.testing.assert_close(values.detach()[known], theirs[known], rtol=bound, atol=bound, msg=name)


def test_gradient_follows_the_derivation():
    """dL/dm = -w_qual * beta * (1 - s(u))**gamma * [(1 - s(z)) - gamma * s(u) * log s(z)]; its sign never flips."""
    margin = torch.linspace(-3, 3, 61, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(61, dtype=torch.float64)
    reference_margin = torch.full_like(zero, 0.4)
    loss = uni_dpo_loss(margin, zero, reference_margin, zero, zero + 4, zero + 2, **(PUBLISHED | {"nll_lambda": 0.0}))
    loss.losses.sum().backward()
    u, z = 2 * margin.detach() - 2, 2 * (margin.detach() - 0.4)
    inner = (1 - torch.sigmoid(z)) - 3 * torch.sigmoid(u) * F.logsigmoid(z)
    derived = -torch.sigmoid(torch.tensor(1.4)) * 2 * (1 - torch.sigmoid(u)) ** 3 * inner
    torch.testing.assert_close(margin.grad, derived.to(torch.float64), rtol=1e-6, atol=0)
    assert (margin.grad < 0).all()


def test_weights_carry_the_gradients_of_the_paper():
    """w_perf is not detached: with it constant the gradient at m = 0 would be -0.5 * 2 * 0.683 * 0.5 = -0.3415."""
    chosen = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    loss = uni_dpo_loss(chosen, zero, zero, zero, zero, zero, **(PUBLISHED | {"nll_lambda": 0.0}))
    loss.losses.backward()
    detached = -0.5 * 2 * 0.8807970779778823**3 * 0.5
    assert chosen.grad.item() == pytest.approx(detached * (1 + 3 * 0.1192029220221177 * math.log(2) / 0.5), rel=1e-12)
    assert not (loss.w_qual.requires_grad or loss.w_perf.requires_grad or loss.chosen_rewards.requires_grad)


def test_the_performance_weight_can_be_a_constant():
    """At m = 0 the gradient is -0.5 * 2 * 0.683 * 0.5 = -0.3415, without the part by way of w_perf; values stay."""
    chosen = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    inputs = (chosen, zero, zero, zero, zero, zero)
    detached = uni_dpo_loss(*inputs, **PUBLISHED, perf_detached=True)
    assert torch.equal(detached.losses, uni_dpo_loss(*inputs, **PUBLISHED).losses)
    detached.losses.backward()
    assert chosen.grad.item() == pytest.approx(-0.5 * 2 * 0.8807970779778823**3 * 0.5, rel=1e-12)


anything = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.tuples(*[anything] * 6), min_size=1, max_size=4),
    st.sampled_from([0.0, 0.3, 0.5, 1.0, 3.0]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_finite_for_any_finite_input(pairs, gamma, dtype):
    columns = [torch.tensor(column, dtype=dtype) for column in zip(*pairs, strict=True)]
    check_finite(columns, gamma)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(*[st.floats(-1e4, 1e4, width=32)] * 6), min_size=1, max_size=4))
def test_finite_under_bf16_autocast(pairs):
    columns = [torch.tensor(column) for column in zip(*pairs, strict=True)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        check_finite([column.bfloat16() for column in columns[:4]] + columns[4:], 0.5)


def check_finite(columns, gamma):
    policy = [column.clone().requires_grad_() for column in columns[:2]]
    loss = uni_dpo_loss(*policy, *columns[2:], **(PUBLISHED | {"perf_gamma": gamma}))
    loss.losses.sum().backward()
    assert loss.losses.isfinite().all()
    for values in (policy[0].grad, policy[1].grad, loss.w_perf, loss.w_qual, loss.chosen_rewards):
        assert values.isfinite().all()
    wanted = (policy[0].grad <= 0) & (policy[1].grad >= 0)
    assert wanted.all()  # a step never lowers the chosen or raises the rejected answer


def test_scores_are_not_rounded_by_autocast():
    """2.495 is 2.5 in bfloat16; it must not reach tau_good = 2.5."""
    logps = torch.tensor([-2.0], dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = uni_dpo_loss(logps, logps, logps + 1, logps, torch.tensor([2.495]), torch.tensor([1.0]), **PUBLISHED)
    assert loss.nll_weight.item() == 0
    assert loss.losses.dtype == torch.float32
