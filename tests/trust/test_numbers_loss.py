"""The objective in float32 and half precision against float64, at every size that log-probs and scores can have.

Truth is the same function in float64, which `test_loss.py` compares with the published code to 1e-12.
"""

import pytest
import torch
from figures import times
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafactory.train.uni_dpo.objective.loss import uni_dpo_loss


PUBLISHED = {"beta": 2.0, "qual_eta": 0.7, "tau_ref": 2.0, "perf_gamma": 3.0, "nll_lambda": 0.001, "tau_good": 2.5}
TERMS = ("losses", "w_qual", "w_perf", "nll_weight", "chosen_rewards", "rejected_rewards")
EXAMPLES = times(300, 20_000)

# Log-probs as means over tokens and as sums over long answers, and margins of up to 1e4 either way.
LOGPS = st.one_of(st.floats(-12, 0, width=32), st.floats(-1e4, 0, width=32))
SCORES = st.one_of(
    st.sampled_from([2.5, 2.495, 0.0, -0.0]), st.floats(-10, 10, width=32), st.floats(-1e4, 1e4, width=32)
)
PAIRS = st.lists(st.tuples(*[LOGPS] * 4, *[SCORES] * 2), min_size=1, max_size=4)
OPTIONS = st.fixed_dictionaries(
    {
        "beta": st.sampled_from([0.01, 0.1, 2.0, 10.0]),
        "qual_eta": st.sampled_from([0.0, 0.7, 5.0]),
        "tau_ref": st.sampled_from([-2.0, 0.0, 2.0]),
        "perf_gamma": st.sampled_from([0.0, 0.3, 1.0, 3.0]),
        "nll_lambda": st.sampled_from([0.0, 0.001, 1.0]),
        "tau_good": st.just(2.5),
    }
)


def terms_and_slopes(columns: list[torch.Tensor], options: dict) -> dict[str, torch.Tensor]:
    """Compute all terms of a batch, and the gradients of its summed loss by both of the policy's log-probs."""
    policy = [column.clone().requires_grad_() for column in columns[:2]]
    loss = uni_dpo_loss(*policy, *columns[2:], **options)
    loss.losses.sum().backward()
    found = {name: getattr(loss, name).detach() for name in TERMS}
    return found | {"slope of chosen": policy[0].grad, "slope of rejected": policy[1].grad}


def columns_of(pairs: list[tuple], dtype: torch.dtype) -> list[torch.Tensor]:
    return [torch.tensor(column, dtype=dtype) for column in zip(*pairs, strict=True)]


def test_float32_is_near_float64(figure):
    """Inputs are float32 numbers, so each term's error is that of the arithmetic alone: within 1e-4 of its value.

    An exponent of up to 100 in front of float32's smallest number turns the rounding of it, 6e-8, into 6e-6; slopes
    are sums of two terms. A difference of log-probs in the thousands is rounded as they are, times beta.
    """
    worst, count = {}, 0

    @settings(max_examples=EXAMPLES, deadline=None, database=None)
    @given(PAIRS, OPTIONS)
    def compare(pairs, options):
        nonlocal count
        count += len(pairs)
        single, double = (
            terms_and_slopes(columns_of(pairs, dtype), options) for dtype in (torch.float32, torch.float64)
        )
        for name, truth in double.items():
            off = (single[name].double() - truth).abs() / (truth.abs() + 1e-30)
            largest = max(abs(logp) for pair in pairs for logp in pair[:4])
            assert off.max() < 1e-4 + 2 * options["beta"] * torch.finfo(torch.float32).eps * largest, name
            worst[name] = max(worst.get(name, 0.0), off.max().item())

    compare()
    figure(
        "3 numbers", "objective in float32 against float64", count, f"relative error at most {max(worst.values()):.0e}"
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_finite_and_of_the_right_sign(dtype, figure):
    """A step never lowers the chosen answer's log-prob, nor raises the rejected one's: dL/dm <= 0 as derived.

    Half precision holds the log-probs only; scores stay float32. Margins reach 1e4 (in float16 2e4, below its largest
    number, 65504).
    """
    count = 0

    @settings(max_examples=EXAMPLES, deadline=None, database=None)
    @given(PAIRS, OPTIONS)
    def check(pairs, options):
        nonlocal count
        count += len(pairs)
        columns = columns_of(pairs, torch.float32)
        found = terms_and_slopes([column.to(dtype) for column in columns[:4]] + columns[4:], options)
        assert all(values.isfinite().all() for values in found.values())
        assert (found["slope of chosen"] <= 0).all()
        if not found["nll_weight"].any():  # that term pulls at the chosen answer alone
            assert torch.equal(found["slope of chosen"], -found["slope of rejected"])
        assert (found["slope of rejected"] >= 0).all()

    check()
    figure("3 numbers", f"extreme pairs, {dtype}: finite, sign of the gradient", count, "all")


@settings(max_examples=EXAMPLES, deadline=None, database=None)
@given(LOGPS, LOGPS, st.floats(-1e4, 1e4, width=32), st.integers(1, 5))
def test_equal_scores_weigh_one_half(chosen, rejected, score, size):
    """Whatever the score and however small the batch: a tie is a tie, also at 1e4, where eta times it is large."""
    columns = [torch.full((size,), value) for value in (chosen, rejected, chosen, rejected, score, score)]
    found = terms_and_slopes(columns, PUBLISHED)
    assert (found["w_qual"] == 0.5).all() and all(values.isfinite().all() for values in found.values())


@settings(max_examples=EXAMPLES, deadline=None, database=None)
@given(PAIRS, OPTIONS)
def test_pairs_of_a_batch_do_not_touch_each_other(pairs, options):
    """A batch of one gives what the same pair gives among others, to the last bit."""
    together = terms_and_slopes(columns_of(pairs, torch.float32), options)
    for number, pair in enumerate(pairs):
        alone = terms_and_slopes(columns_of([pair], torch.float32), options)
        assert all(torch.allclose(alone[name], values[number], rtol=1e-6, atol=0) for name, values in together.items())
