"""MM-RLHF's margin-scaled beta: worked numbers, gradients, extreme scores."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafactory.train.uni_dpo.objective.margin_dpo import margin_factor, scaled_logratios


def factor(chosen, rejected, scale=0.5, rate=0.5, dtype=torch.float64):
    scores = (torch.tensor([float(value)], dtype=dtype) for value in (chosen, rejected))
    return margin_factor(*scores, scale=scale, rate=rate).item()


@pytest.mark.parametrize("chosen, rejected, wanted", [(4, 2, 1.316060), (3.5, 3, 1.110600), (9, 1, 1.490842)])
def test_factor(chosen, rejected, wanted):
    """1 + 0.5 (1 - exp(-0.5 * 2)) = 1 + 0.5 * 0.632121 = 1.316060; exp(-0.25) = 0.778801; exp(-4) = 0.018316."""
    assert factor(chosen, rejected) == pytest.approx(wanted, abs=1e-6)


def test_ties_and_reversed_pairs_keep_their_beta():
    """Without the cut the factor at a margin of -3 would be 1 + 0.5 (1 - exp(1.5)) = -0.74: a loss turned round."""
    assert factor(3, 3) == factor(1, 4) == factor(-1e30, 1e30) == 1.0


@settings(max_examples=300, deadline=None)
@given(*[st.floats(allow_nan=False, allow_infinity=False, width=32)] * 2, st.floats(0, 100), st.floats(1e-6, 100))
def test_bounded_for_any_finite_scores(chosen, rejected, scale, rate):
    """Also where the difference of two float32 scores overflows."""
    assert 1 <= factor(chosen, rejected, scale, rate, torch.float32) <= (1 + scale) * (1 + 1e-6)


def test_logratios_are_those_of_a_larger_beta():
    """Values and gradients of DPO with beta * factor f: d loss / d logp(w) = -beta f sigmoid(-beta f z)."""
    torch.manual_seed(0)
    logps = [torch.randn(40, dtype=torch.float64).requires_grad_() for _ in range(4)]
    grown = 1 + torch.rand(40, dtype=torch.float64)
    chosen, rejected, *zeros = scaled_logratios(logps, grown)
    assert not any(values.any() for values in zeros)
    losses = -F.logsigmoid(2.0 * ((chosen - rejected) - (zeros[0] - zeros[1])))
    losses.sum().backward()
    logits = (logps[0] - logps[1] - logps[2] + logps[3]).detach()
    torch.testing.assert_close(losses.detach(), -F.logsigmoid(2.0 * grown * logits), rtol=1e-13, atol=0)
    torch.testing.assert_close(logps[0].grad, -2 * grown * torch.sigmoid(-2 * grown * logits), rtol=1e-13, atol=0)
    torch.testing.assert_close(logps[1].grad, -logps[0].grad, rtol=0, atol=0)


def test_a_whole_pair():
    """Beta 0.1, scores 4 and 2, policy -20 and -26, reference -21 and -25: z = 2, beta 0.1316060, z beta 0.2632121.

    -log sigmoid(0.2632121) = 0.570176; with beta itself it would be -log sigmoid(0.2) = 0.598139.
    """
    logps = [torch.tensor([value], dtype=torch.float64) for value in (-20.0, -26.0, -21.0, -25.0)]
    scores = [torch.tensor([value], dtype=torch.float64) for value in (4.0, 2.0)]
    chosen, rejected, *_ = scaled_logratios(logps, margin_factor(*scores, scale=0.5, rate=0.5))
    assert -F.logsigmoid(0.1 * (chosen - rejected)).item() == pytest.approx(math.log1p(math.exp(-0.2632121)), abs=1e-7)
    assert math.log1p(math.exp(-0.2632121)) == pytest.approx(0.570176, abs=1e-6)
